// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/scoped"
)

// nameFile is a file by which a container finds names. The agent writes it in the bundle's
// directory and mounts it.
type nameFile struct {
	name    string // in the directory etc of the bundle, and in /etc of the container
	content []byte
}

// Names holds the values that the files for names are written from.
type Names struct {
	// Container and Namespace are the Container's.
	Container, Namespace string
	// Wanted has the Container's fields about names; nil if it has none.
	Wanted *v1alpha1.BundleNames
	// Addresses are the container's in its network.
	Addresses []netip.Addr
	// Joined is the Container in whose network the container is; nil if that is its own.
	Joined *Joined
	// Host is the root directory of the node.
	Host fs.FS
	// Nameserver answers questions about other containers of its networks, and all others; the zero
	// value if the container has none.
	Nameserver netip.Addr
	// Cluster has the DNS servers and the domain of the cluster.
	Cluster ClusterDNS
}

// Joined is a Container in whose network others are. Their /etc/hosts and /etc/resolv.conf are made
// of its fields.
type Joined struct {
	// Container is its name, and Hostname its hostname; "" without one of its own.
	Container, Hostname string
	// Wanted has its fields about names; nil if it has none.
	Wanted *v1alpha1.BundleNames
}

// MountNames writes /etc/hosts, /etc/hostname and /etc/resolv.conf of a container and adds their
// mounts to its document, as the kubelet and its container runtimes do: writable, unless the root
// filesystem is read-only. It sets the hostname of the document if setHostnameAsFQDN asks for that.
//
// A path that the user mounts something on, or below, is the user's. So is one that the root
// filesystem has no place for: where something else than a regular file stands, or nothing where
// nothing can be made. That is an error if a field of the Container needs the file.
func (d Dir) MountNames(spec *specs.Spec, rootfs string, n Names) error {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open rootfs %s: %w", rootfs, err)
	}
	defer unix.Close(root)
	files, notice, err := nameFiles(spec, n)
	if err != nil {
		return err
	}
	for _, f := range files {
		obstacle := ""
		mounted := mountedOver(spec.Mounts, "/etc/"+f.name)
		if !mounted {
			obstacle = obstacleAt(root, "etc/"+f.name)
		}
		if field := n.needs(f.name); obstacle != "" && field != "" {
			return fmt.Errorf("spec.%s: %s", field, obstacle)
		}
		if mounted || obstacle != "" {
			if f.name == "resolv.conf" {
				notice = nil // it is not the container's
			}
			continue
		}
		if err := os.MkdirAll(d.File("etc"), 0o700); err != nil {
			return fmt.Errorf("make directory of /etc/%s: %w", f.name, err)
		}
		if err := writeInPlace(d.File("etc/"+f.name), f.content); err != nil {
			return fmt.Errorf("write /etc/%s: %w", f.name, err)
		}
		access := "rw"
		if spec.Root != nil && spec.Root.Readonly {
			access = "ro"
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: "/etc/" + f.name, Type: "bind", Source: "etc/" + f.name,
			Options: []string{"bind", "rprivate", "nosuid", "nodev", "noexec", access},
		})
	}
	return d.writeNotice(notice)
}

// writeInPlace writes a file that a container has mounted, or will have. A bind mount is of the
// inode: a file that is there keeps it, so that a mount shows the new content. The mode is the same
// whatever the umask is, and whatever the container has done.
func writeInPlace(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.Replace(path, content, durable.Options{Mode: 0o644}); err != nil {
			return err
		}
		return os.Chmod(path, 0o644)
	}
	if err != nil {
		return err
	}
	// A reader sees no empty file: it is cut after the content is there.
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	if err == nil {
		err = f.Chown(os.Geteuid(), os.Getegid())
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	return errors.Join(err, f.Close())
}

// RemoveNames removes the files that MountNames has written. It is no error when there is none.
func (d Dir) RemoveNames() error {
	if err := os.RemoveAll(d.File("etc")); err != nil {
		return fmt.Errorf("remove /etc/hosts and others: %w", err)
	}
	return nil
}

// mountedOver reports whether one of the mounts is at path or holds it.
func mountedOver(mounts []specs.Mount, path string) bool {
	return slices.ContainsFunc(mounts, func(m specs.Mount) bool {
		return path == m.Destination || strings.HasPrefix(path, strings.TrimSuffix(m.Destination,
			"/")+"/")
	})
}

// needs returns the field of the Container that a file in /etc is needed for, or "".
func (n Names) needs(file string) string {
	w := n.Wanted
	switch {
	case w == nil:
	case file == "hosts" && len(w.HostAliases) > 0:
		return "hostAliases"
	case file == "hosts" && w.Subdomain != "":
		return "subdomain"
	case file == "resolv.conf" && w.DNSConfig != nil:
		return "dnsConfig"
	case file == "resolv.conf" && w.DNSPolicy != "":
		return "dnsPolicy"
	}
	return ""
}

// obstacleAt returns why no file can be mounted at path in the root filesystem, or "" if one can:
// on a regular file, also through links, all held in the root, or on one that the runtime creates.
func obstacleAt(root int, path string) string {
	const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	other := "found /" + path + " of the image that is no regular file;" +
		" allowed: a regular file or none"
	fd, err := scoped.Open(root, path, unix.O_PATH, resolve)
	if err == nil {
		defer unix.Close(fd)
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			return ""
		}
		return other
	}
	if !errors.Is(err, unix.ENOENT) {
		return other
	}
	if fd, err := scoped.Open(root, path, unix.O_PATH|unix.O_NOFOLLOW, resolve); err == nil {
		unix.Close(fd)
		return other // a link to nothing, such as resolv.conf of a system with systemd-resolved
	}
	var st unix.Statfs_t
	if unix.Fstatfs(root, &st) != nil || st.Flags&unix.ST_RDONLY != 0 {
		return "found no /" + path + " in a read-only rootfs; allowed: a regular file there"
	}
	return ""
}

// nameFiles returns the files for a container. Their content depends on whether it has a network
// and a hostname of its own.
func nameFiles(spec *specs.Spec, n Names) ([]nameFile, *DNSNotice, error) {
	own := func(kind specs.LinuxNamespaceType) bool {
		return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces,
			func(n specs.LinuxNamespace) bool {
				return n.Type == kind
			})
	}
	hostname, domain := spec.Hostname, ""
	if hostname == "" || !own(specs.UTSNamespace) {
		name, err := os.Hostname()
		if err != nil {
			return nil, nil, fmt.Errorf("hostname of the node: %w", err)
		}
		hostname = name
	} else if domain = n.domain(); domain != "" && n.Wanted.SetHostnameAsFQDN {
		spec.Hostname = hostname + "." + domain
		if len(spec.Hostname) > maxHostname {
			return nil, nil, fmt.Errorf(
				"spec.setHostnameAsFQDN: found %q, which has %d bytes; allowed: at most %d: shorten hostname or subdomain",
				spec.Hostname, len(spec.Hostname), maxHostname)
		}
	}
	network := own(specs.NetworkNamespace)
	of := n.ofNetwork()
	resolv, notice, err := of.resolv(network)
	if err != nil {
		return nil, nil, err
	}
	var hosts []byte
	switch {
	case n.Joined != nil:
		hosts = of.ownHosts(cmp.Or(n.Joined.Hostname, n.Joined.Container), of.domain(),
			names(hostname, n.Container)...)
	case network:
		hosts = n.ownHosts(hostname, domain)
	default:
		node, err := readHost(n.Host, "etc/hosts")
		if err != nil {
			return nil, nil, err
		}
		hosts = n.nodeHosts(node, hostname)
	}
	if domain != "" && n.Wanted.SetHostnameAsFQDN {
		hostname = spec.Hostname
	}
	return []nameFile{
		{"hosts", hosts},
		{"hostname", []byte(hostname + "\n")},
		{"resolv.conf", resolv},
	}, notice, nil
}

// ofNetwork returns the names of the Container to which the network belongs.
func (n Names) ofNetwork() Names {
	if n.Joined != nil {
		n.Container, n.Wanted = n.Joined.Container, n.Joined.Wanted
	}
	return n
}

// maxHostname is __NEW_UTS_LEN of the kernel.
const maxHostname = 64

// domain returns the domain of the container's hostname, as the kubelet's
// GeneratePodHostNameAndDomain does, or "" without a subdomain.
func (n Names) domain() string {
	if n.Wanted == nil || n.Wanted.Subdomain == "" {
		return ""
	}
	domain := n.Wanted.Subdomain + "." + n.Namespace + ".svc"
	if n.Cluster.Domain != "" {
		domain += "." + n.Cluster.Domain
	}
	return domain
}

// maxHostFile is the greatest size of a file of the node that is read.
const maxHostFile = 1 << 20

// readHost reads a file of the node; one that is not there is empty.
func readHost(host fs.FS, name string) ([]byte, error) {
	f, err := host.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read /%s of the node: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxHostFile+1))
	if err != nil {
		return nil, fmt.Errorf("read /%s of the node: %w", name, err)
	}
	if len(data) > maxHostFile {
		return nil, fmt.Errorf("/%s of the node: found more than %d bytes; allowed: %d", name,
			maxHostFile, maxHostFile)
	}
	return data, nil
}
