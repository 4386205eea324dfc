// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
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

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/scoped"
)

// nameFile is a file by which a container finds names. The agent writes it in the bundle's
// directory and mounts it.
type nameFile struct {
	name    string // in the directory etc of the bundle, and in /etc of the container
	content []byte
}

// MountNames writes /etc/hosts, /etc/hostname and /etc/resolv.conf of a container and adds their
// mounts to its document, as the kubelet and its container runtimes do: writable, unless the root
// filesystem is read-only. container is the name of the Container, addresses are those that it has
// in its network, and host is the root directory of the node.
//
// A path that the user mounts something on, or below, is the user's. So is one that the root
// filesystem has no place for: where something else than a regular file stands, or nothing where
// nothing can be made.
func (d Dir) MountNames(
	spec *specs.Spec, rootfs, container string, addresses []netip.Addr, host fs.FS,
) error {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open rootfs %s: %w", rootfs, err)
	}
	defer unix.Close(root)
	files, err := nameFiles(spec, container, addresses, host)
	if err != nil {
		return err
	}
	for _, f := range files {
		if mountedOver(spec.Mounts, "/etc/"+f.name) || !placeFor(root, "etc/"+f.name) {
			continue
		}
		if err := os.MkdirAll(d.File("etc"), 0o700); err != nil {
			return fmt.Errorf("make directory of /etc/%s: %w", f.name, err)
		}
		path := d.File("etc/" + f.name)
		if err := durable.Replace(path, f.content, durable.Options{Mode: 0o644}); err != nil {
			return fmt.Errorf("write /etc/%s: %w", f.name, err)
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask is
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
	return nil
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

// placeFor reports whether a file can be mounted at path in the root filesystem: on a regular file,
// also through links, all held in the root, or on one that the runtime creates.
func placeFor(root int, path string) bool {
	const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	fd, err := scoped.Open(root, path, unix.O_PATH, resolve)
	if err == nil {
		defer unix.Close(fd)
		var st unix.Stat_t
		return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
	}
	if !errors.Is(err, unix.ENOENT) {
		return false
	}
	if fd, err := scoped.Open(root, path, unix.O_PATH|unix.O_NOFOLLOW, resolve); err == nil {
		unix.Close(fd)
		return false // a link to nothing, such as resolv.conf of a system with systemd-resolved
	}
	var st unix.Statfs_t
	return unix.Fstatfs(root, &st) == nil && st.Flags&unix.ST_RDONLY == 0
}

// nameFiles returns the files for a container. Their content depends on whether it has a network
// and a hostname of its own.
func nameFiles(
	spec *specs.Spec, container string, addresses []netip.Addr, host fs.FS,
) ([]nameFile, error) {
	own := func(kind specs.LinuxNamespaceType) bool {
		return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces,
			func(n specs.LinuxNamespace) bool {
				return n.Type == kind
			})
	}
	hostname := spec.Hostname
	if hostname == "" || !own(specs.UTSNamespace) {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("hostname of the node: %w", err)
		}
		hostname = name
	}
	network := own(specs.NetworkNamespace)
	resolv, err := readHost(host, "etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	var hosts []byte
	if network {
		hosts = ownHosts(hostname, container, addresses)
		if stub := "run/systemd/resolve/resolv.conf"; onlyLoopback(resolv) {
			// systemd-resolved answers on the node's loopback alone; this file has the servers that
			// it asks.
			if behind, err := readHost(host, stub); err == nil && len(behind) > 0 {
				resolv = behind
			}
		}
		resolv = withoutLoopback(resolv)
	} else {
		if hosts, err = readHost(host, "etc/hosts"); err != nil {
			return nil, err
		}
		hosts = nodeHosts(hosts, hostname, container)
	}
	return []nameFile{
		{"hosts", hosts},
		{"hostname", []byte(hostname + "\n")},
		{"resolv.conf", resolv},
	}, nil
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

// ownHosts returns /etc/hosts of a container with a network namespace of its own. Its names have
// its addresses or, if there is loopback alone, that of loopback. The lines for IPv6 are the
// kubelet's.
func ownHosts(hostname, container string, addresses []netip.Addr) []byte {
	var b bytes.Buffer
	b.WriteString("# Written by Berth at each start of the container.\n" +
		"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	if len(addresses) == 0 {
		addresses = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	for _, a := range addresses {
		fmt.Fprintf(&b, "%s\t%s\n", a, strings.Join(names(hostname, container), " "))
	}
	return b.Bytes()
}

// names returns the names of a container: its hostname, the first label of that, and the name of
// the Container.
func names(hostname, container string) []string {
	out := []string{hostname}
	short, _, _ := strings.Cut(hostname, ".")
	for _, n := range []string{short, container} {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// nodeHosts is /etc/hosts of a container in the node's network: the node's file, and the names of
// node and container that it does not have. Their address is the one that Debian gives a host
// without a permanent address, since a server on a node may be asked on its loopback.
func nodeHosts(node []byte, hostname, container string) []byte {
	missing := names(hostname, container)
	for line := range strings.Lines(string(node)) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 1 {
			missing = slices.DeleteFunc(missing, func(n string) bool {
				return slices.Contains(fields[1:], n)
			})
		}
	}
	out := []byte("# The node's /etc/hosts, written by Berth at each start of the container.\n")
	out = append(out, node...)
	if len(missing) > 0 {
		if out[len(out)-1] != '\n' {
			out = append(out, '\n')
		}
		out = fmt.Appendf(out, "127.0.1.1\t%s\n", strings.Join(missing, " "))
	}
	return out
}

// nameserver returns the address of a nameserver line of resolv.conf(5).
func nameserver(line string) (address netip.Addr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[0] != "nameserver" {
		return address, false
	}
	address, err := netip.ParseAddr(fields[1])
	return address, err == nil
}

func onlyLoopback(resolv []byte) bool {
	any := false
	for line := range strings.Lines(string(resolv)) {
		if a, ok := nameserver(line); ok {
			if !a.IsLoopback() {
				return false
			}
			any = true
		}
	}
	return any
}

// withoutLoopback leaves out the servers on the node's loopback, which a network of its own does
// not reach.
func withoutLoopback(resolv []byte) []byte {
	var out []byte
	for line := range strings.Lines(string(resolv)) {
		if a, ok := nameserver(line); !ok || !a.IsLoopback() {
			out = append(out, line...)
		}
	}
	return out
}
