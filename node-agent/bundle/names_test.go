// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
)

// hostFS returns a node's root directory with these files.
func hostFS(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, content := range files {
		out[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return out
}

func specWith(mounts ...string) *specs.Spec {
	s := &specs.Spec{
		Hostname: "web.example.org", Root: &specs.Root{},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace},
			{Type: specs.UTSNamespace},
		}},
	}
	for _, m := range mounts {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: m})
	}
	return s
}

// mounted returns the names in /etc that MountNames has added mounts for.
func mounted(s *specs.Spec) string {
	var out []string
	for _, m := range s.Mounts {
		if m.Source != "" {
			out = append(out, strings.TrimPrefix(m.Destination, "/etc/"))
		}
	}
	return strings.Join(out, " ")
}

// A container that has joined a network has the files of the network's own container, with its own
// names.
func TestNamesOfJoined(t *testing.T) {
	spec := specWith()
	files, _, err := nameFiles(spec, Names{
		Container: "side", Namespace: "default", Addresses: []netip.Addr{netip.MustParseAddr("10.89.0.2")},
		Joined: &Joined{Container: "db", Hostname: "store", Wanted: &v1alpha1.BundleNames{
			HostAliases: []v1alpha1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"far"}}},
			DNSPolicy:   corev1.DNSNone, DNSConfig: &v1alpha1.DNSConfig{Nameservers: []string{"192.0.2.53"}},
		}},
		Host: hostFS(nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"10.89.0.2\tstore db web.example.org web side\n\n# Entries added by HostAliases.\n192.0.2.7\tfar\n",
		"web.example.org\n", "nameserver 192.0.2.53\n",
	} {
		if got := string(files[i].content); !strings.HasSuffix(got, want) {
			t.Errorf("/etc/%s: found %q; want %q at its end", files[i].name, got, want)
		}
	}
}

func TestMountNames(t *testing.T) {
	plain := func(t *testing.T, rootfs string) {}
	for name, tc := range map[string]struct {
		rootfs func(t *testing.T, rootfs string)
		mounts []string
		want   string
	}{
		"no /etc": {plain, nil, "hosts hostname resolv.conf"},
		"mounts elsewhere": {
			plain,
			[]string{"/proc", "/etcetera", "/etc/hosts.d"},
			"hosts hostname resolv.conf",
		},
		"the user's own hosts": {plain, []string{"/etc/hosts"}, "hostname resolv.conf"},
		"the user's own etc":   {plain, []string{"/etc"}, ""},
		"files": {func(t *testing.T, r string) {
			place(t, r, "etc/hosts", "of the image")
		}, nil, "hosts hostname resolv.conf"},
		"a link within the root": {func(t *testing.T, r string) {
			place(t, r, "h", "")
			link(t, "/h", r, "etc/hosts")
		}, nil, "hosts hostname resolv.conf"},
		"a link to nothing": {func(t *testing.T, r string) {
			link(t, "../run/x/stub-resolv.conf", r, "etc/resolv.conf")
		}, nil, "hosts hostname"},
		"a link to a file of the node": {func(t *testing.T, r string) {
			link(t, "/../../../../../etc/passwd", r, "etc/hosts")
		}, nil, "hostname resolv.conf"},
		"a directory": {func(t *testing.T, r string) {
			place(t, r, "etc/hosts/x", "")
		}, nil, "hostname resolv.conf"},
		"/etc is a file": {func(t *testing.T, r string) {
			place(t, r, "etc", "")
		}, nil, ""},
		"/etc is a link out of the root": {func(t *testing.T, r string) {
			link(t, "/../../etc", r, "etc")
		}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			rootfs := t.TempDir()
			tc.rootfs(t, rootfs)
			b, err := Open(filepath.Join(t.TempDir(), "bundles"))
			if err != nil {
				t.Fatal(err)
			}
			dir, spec := b.Dir("x"), specWith(tc.mounts...)
			if err := dir.Make(); err != nil {
				t.Fatal(err)
			}
			if err := dir.MountNames(spec, rootfs, Names{Container: "web", Host: hostFS(nil)}); err != nil {
				t.Fatal(err)
			}
			if got := mounted(spec); got != tc.want {
				t.Errorf("found mounts for %q; want %q", got, tc.want)
			}
		})
	}
}

func place(t *testing.T, root, path, content string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, root, path string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// TestNamesWithoutAPlace: a start fails if a field needs a file that the image leaves no place for.
func TestNamesWithoutAPlace(t *testing.T) {
	directory := func(path string) func(t *testing.T, r string) {
		return func(t *testing.T, r string) { place(t, r, path+"/x", "") }
	}
	dangling := func(t *testing.T, r string) { link(t, "../run/x/stub-resolv.conf", r, "etc/resolv.conf") }
	const resolv = "found /etc/resolv.conf of the image that is no regular file; allowed: a regular file or none"
	const hosts = "found /etc/hosts of the image that is no regular file; allowed: a regular file or none"
	for name, tc := range map[string]struct {
		rootfs func(t *testing.T, rootfs string)
		wanted v1alpha1.BundleNames
		mounts []string
		want   string
	}{
		"dnsConfig": {
			dangling,
			v1alpha1.BundleNames{DNSConfig: &v1alpha1.DNSConfig{Searches: []string{"a"}}},
			nil,
			"spec.dnsConfig: " + resolv,
		},
		"dnsPolicy": {
			directory("etc/resolv.conf"),
			v1alpha1.BundleNames{DNSPolicy: corev1.DNSDefault},
			nil,
			"spec.dnsPolicy: " + resolv,
		},
		"hostAliases": {
			directory("etc/hosts"), v1alpha1.BundleNames{
				HostAliases: []v1alpha1.HostAlias{{IP: "::1", Hostnames: []string{"a"}}},
			}, nil, "spec.hostAliases: " + hosts,
		},
		"subdomain":              {directory("etc/hosts"), v1alpha1.BundleNames{Subdomain: "a"}, nil, "spec.subdomain: " + hosts},
		"hosts is not resolv":    {dangling, v1alpha1.BundleNames{Subdomain: "a"}, nil, ""},
		"resolv is not hosts":    {directory("etc/hosts"), v1alpha1.BundleNames{DNSPolicy: corev1.DNSDefault}, nil, ""},
		"FQDN needs no file":     {directory("etc/hosts"), v1alpha1.BundleNames{SetHostnameAsFQDN: true}, nil, ""},
		"a volume of the user's": {directory("etc/hosts"), v1alpha1.BundleNames{Subdomain: "a"}, []string{"/etc"}, ""},
		"a read-only root filesystem": {
			func(t *testing.T, r string) {
				needs.Root(t)
				for _, flags := range []uintptr{unix.MS_BIND, unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY} {
					if err := unix.Mount(r, r, "", flags, ""); err != nil {
						t.Fatal(err)
					}
				}
				t.Cleanup(func() {
					if err := unix.Unmount(r, 0); err != nil {
						t.Error(err)
					}
				})
			},
			v1alpha1.BundleNames{Subdomain: "a"},
			nil,
			"spec.subdomain: found no /etc/hosts in a read-only rootfs; allowed: a regular file there",
		},
	} {
		t.Run(name, func(t *testing.T) {
			rootfs := t.TempDir()
			tc.rootfs(t, rootfs)
			b, err := Open(filepath.Join(t.TempDir(), "bundles"))
			if err != nil {
				t.Fatal(err)
			}
			dir := b.Dir("x")
			if err := dir.Make(); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := dir.MountNames(specWith(tc.mounts...), rootfs, Names{
				Container: "web", Host: hostFS(nil), Wanted: &tc.wanted,
			}); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("found %q; want %q", got, tc.want)
			}
		})
	}
}

// The files can be read by every user of the container, whatever the agent's umask, and written
// unless the root is read-only.
func TestMountNamesAccess(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	b, err := Open(filepath.Join(t.TempDir(), "bundles"))
	if err != nil {
		t.Fatal(err)
	}
	dir := b.Dir("x")
	if err := dir.Make(); err != nil {
		t.Fatal(err)
	}
	for readonly, access := range map[bool]string{true: "ro", false: "rw"} {
		spec := specWith()
		spec.Root.Readonly = readonly
		if err := dir.MountNames(spec, t.TempDir(), Names{Container: "web", Host: hostFS(nil)}); err != nil {
			t.Fatal(err)
		}
		for _, m := range spec.Mounts {
			if o := m.Options; o[len(o)-1] != access {
				t.Errorf("%s: found %v; want %s", m.Destination, o, access)
			}
			if info, err := os.Stat(filepath.Join(dir.Path(), m.Source)); err != nil ||
				info.Mode() != 0o644 {
				t.Errorf("%s: found %v, %v; want mode 0644", m.Source, info.Mode(), err)
			}
		}
	}
}

func TestNameFiles(t *testing.T) {
	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	nodeNames := strings.Join(names(node, ""), " ")
	stub := map[string]string{
		"etc/hosts":                       "10.0.0.1 " + nodeNames + " # comment web\n10.0.0.2 other",
		"etc/resolv.conf":                 "nameserver 127.0.0.53\noptions edns0\n",
		"run/systemd/resolve/resolv.conf": "nameserver 192.0.2.1\nsearch example.org\n",
	}
	mixed := map[string]string{
		"etc/resolv.conf": "# a comment\nnameserver 127.0.0.1\nnameserver ::1\nnameserver 192.0.2.7\n",
	}
	hostNetwork := &specs.Spec{
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}}},
	}
	for name, tc := range map[string]struct {
		spec          *specs.Spec
		host          map[string]string
		hosts         []string // lines that are there
		not           string   // is not in hosts
		name, resolve string
	}{
		"own network, systemd-resolved": {
			specWith(), stub,
			[]string{
				"127.0.0.1\tlocalhost",
				"127.0.0.1\tweb.example.org web c",
			},
			"10.0.0.1", "web.example.org\n",
			"nameserver 192.0.2.1\nsearch example.org\n",
		},
		"own network, server on the node": {
			specWith(), mixed, nil, "", "web.example.org\n",
			"# a comment\nnameserver 192.0.2.7\n",
		},
		"own network, no resolv.conf": {specWith(), nil, nil, "", "web.example.org\n", ""},
		"host network": {
			hostNetwork, stub,
			[]string{
				"10.0.0.1 " + nodeNames + " # comment web",
				"10.0.0.2 other", "127.0.1.1\tc",
			},
			"127.0.1.1\t" + node, node + "\n",
			"nameserver 127.0.0.53\noptions edns0\n",
		},
		"host network, no hosts file": {
			hostNetwork, nil,
			[]string{"127.0.1.1\t" + strings.Join(names(node, "c"), " ")},
			"", node + "\n", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			files, notice, err := nameFiles(tc.spec, Names{Container: "c", Host: hostFS(tc.host)})
			if err != nil {
				t.Fatal(err)
			}
			if notice != nil {
				t.Errorf("found the notice %+v; want none", notice)
			}
			hosts := string(files[0].content)
			for _, line := range tc.hosts {
				if !strings.Contains("\n"+hosts, "\n"+line+"\n") {
					t.Errorf("found hosts\n%s; want the line %q", hosts, line)
				}
			}
			if tc.not != "" && strings.Contains(hosts, tc.not) {
				t.Errorf("found hosts\n%s; want no %q", hosts, tc.not)
			}
			if got := string(files[1].content); got != tc.name {
				t.Errorf("found hostname %q; want %q", got, tc.name)
			}
			if got := string(files[2].content); got != tc.resolve {
				t.Errorf("found resolv.conf %q; want %q", got, tc.resolve)
			}
		})
	}
}
