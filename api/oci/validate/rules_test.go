// SPDX-License-Identifier: Apache-2.0

package validate_test

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/api/oci/validate"
)

// good returns a document that no rule finds fault with: the tests below each
// break one thing of it.
func good() *specs.Spec {
	return &specs.Spec{
		Version: "1.3.0",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"sh"}, Cwd: "/", Env: []string{"PATH=/bin"}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.MountNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.NetworkNamespace},
		}},
	}
}

func ptr[T any](v T) *T { return &v }

// withUser gives a spec a new user namespace with the mappings.
func withUser(s *specs.Spec, mappings ...specs.LinuxIDMapping) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = mappings
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{Size: 65536, HostID: 100000}}
}

func hook(s *specs.Spec, h specs.Hook) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{h}} }

func mount(s *specs.Spec, m specs.Mount) { s.Mounts = []specs.Mount{m} }

func resources(s *specs.Spec) *specs.LinuxResources {
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	return s.Linux.Resources
}

func seccomp(s *specs.Spec) *specs.LinuxSeccomp {
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}},
	}
	return s.Linux.Seccomp
}

func namespace(s *specs.Spec, t specs.LinuxNamespaceType, path string) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
}

func without(s *specs.Spec, t specs.LinuxNamespaceType) {
	var kept []specs.LinuxNamespace
	for _, ns := range s.Linux.Namespaces {
		if ns.Type != t {
			kept = append(kept, ns)
		}
	}
	s.Linux.Namespaces = kept
}

func scheduler(s *specs.Spec, sch specs.Scheduler) { s.Process.Scheduler = &sch }

func devices(s *specs.Spec, d ...specs.LinuxDevice) { s.Linux.Devices = d }

func policy(s *specs.Spec, p specs.LinuxMemoryPolicy) { s.Linux.MemoryPolicy = &p }

func sysctls(s *specs.Spec, kv ...string) {
	s.Linux.Sysctl = map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		s.Linux.Sysctl[kv[i]] = kv[i+1]
	}
}

// rule is one way to break, or not to break, a rule. want is all faults that
// it makes, in order, as lines of "Error path: found X; allowed: Y".
type rule struct {
	name   string
	mutate func(*specs.Spec)
	want   string
}

func TestRules(t *testing.T) {
	known := func(name string) bool { return name != "brand_new_call" }
	for _, section := range []struct {
		name  string
		rules []rule
	}{
		{"version", []rule{
			{"ours", func(s *specs.Spec) { s.Version = specs.Version }, ""},
			{"oldest", func(s *specs.Spec) { s.Version = "1.0.0" }, ""},
			{"release candidate", func(s *specs.Spec) { s.Version = "1.0.0-rc5" }, ""},
			{"development", func(s *specs.Spec) { s.Version = "1.0.2-dev" }, ""},
			{"build", func(s *specs.Spec) { s.Version = "1.2.0+build.7" }, ""},
			{"empty", func(s *specs.Spec) {
				s.Version = ""
			}, "Error ociVersion: found nothing; allowed: a SemVer version of 1.0.0 to 1.3.0"},
			{"malformed", func(s *specs.Spec) {
				s.Version = "1.0"
			}, `Error ociVersion: found "1.0"; allowed: a SemVer version of 1.0.0 to 1.3.0`},
			{"words", func(s *specs.Spec) {
				s.Version = "latest"
			}, `Error ociVersion: found "latest"; allowed: a SemVer version of 1.0.0 to 1.3.0`},
			{"v in front", func(s *specs.Spec) {
				s.Version = "v1.0.0"
			}, `Error ociVersion: found "v1.0.0"; allowed: a SemVer version of 1.0.0 to 1.3.0`},
			{"leading zero", func(s *specs.Spec) {
				s.Version = "1.01.0"
			}, `Error ociVersion: found "1.01.0"; allowed: a SemVer version of 1.0.0 to 1.3.0`},
			{"pre-release with leading zero", func(s *specs.Spec) {
				s.Version = "1.1.0-01"
			}, `Error ociVersion: found "1.1.0-01"; allowed: a SemVer version of 1.0.0 to 1.3.0`},
			{"empty pre-release", func(s *specs.Spec) {
				s.Version = "1.1.0-"
			}, `Error ociVersion: found "1.1.0-"; allowed: a SemVer version of 1.0.0 to 1.3.0`},
			{"newer minor", func(s *specs.Spec) {
				s.Version = "1.4.0"
			}, `Warning ociVersion: found "1.4.0"; allowed: a SemVer version of 1.0.0 to 1.3.0; a newer release is read as 1.3.0, and its new fields are ignored`},
			{"newer major", func(s *specs.Spec) {
				s.Version = "2.0.0"
			}, `Error ociVersion: found "2.0.0"; allowed: a SemVer version of 1.0.0 to 1.3.0`},
			{"older major", func(s *specs.Spec) {
				s.Version = "0.9.0"
			}, `Error ociVersion: found "0.9.0"; allowed: a SemVer version of 1.0.0 to 1.3.0`},
			{"newer patch", func(s *specs.Spec) {
				s.Version = "1.3.1"
			}, `Warning ociVersion: found "1.3.1"; allowed: a SemVer version of 1.0.0 to 1.3.0; a newer release is read as 1.3.0, and its new fields are ignored`},
			{"huge", func(s *specs.Spec) {
				s.Version = "1.99999999999999999999.0"
			}, `Error ociVersion: found "1.99999999999999999999.0"; allowed: a SemVer version of 1.0.0 to 1.3.0`},
		}},
		{"root", []rule{
			{"absolute", func(s *specs.Spec) { s.Root.Path = "/srv/rootfs" }, ""},
			{"the bundle itself", func(s *specs.Spec) { s.Root.Path = "." }, ""},
			{"up and down", func(s *specs.Spec) { s.Root.Path = "a/../rootfs" }, ""},
			{"missing", func(s *specs.Spec) {
				s.Root = nil
			}, "Error root: found nothing; allowed: an object with the path of the root filesystem"},
			{"empty", func(s *specs.Spec) {
				s.Root.Path = ""
			}, "Error root.path: found nothing; allowed: an absolute path, or one relative to the bundle"},
			{"parent", func(s *specs.Spec) {
				s.Root.Path = "../rootfs"
			}, `Error root.path: found "../rootfs"; allowed: an absolute path, or one relative to the bundle whose ".." does not leave it`},
			{"parent later", func(s *specs.Spec) {
				s.Root.Path = "a/../../rootfs"
			}, `Error root.path: found "a/../../rootfs"; allowed: an absolute path, or one relative to the bundle whose ".." does not leave it`},
			{"through the parent and back", func(s *specs.Spec) {
				s.Root.Path = "../bundle/rootfs"
			}, `Error root.path: found "../bundle/rootfs"; allowed: an absolute path, or one relative to the bundle whose ".." does not leave it`},
			{"nul", func(s *specs.Spec) {
				s.Root.Path = "root\x00fs"
			}, `Error root.path: found "root\x00fs"; allowed: an absolute path, or one relative to the bundle`},
		}},
		{"mounts", []rule{
			{"proc", func(s *specs.Spec) {
				mount(s, specs.Mount{
					Destination: "/proc", Type: "proc", Source: "proc",
					Options: []string{"nosuid", "noexec", "nodev"},
				})
			}, ""},
			{"tmpfs data", func(s *specs.Spec) {
				mount(s, specs.Mount{
					Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
					Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k", "tmpcopyup"},
				})
			}, ""},
			{"bind", func(s *specs.Spec) {
				mount(s, specs.Mount{
					Destination: "/data", Type: "none", Source: "/srv/data",
					Options: []string{"rbind", "rprivate", "ro", "x-systemd.automount", "nodirsync"},
				})
			}, ""},
			{"bind relative to the bundle", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/data", Source: "data", Options: []string{"bind"}})
			}, ""},
			{"propagation only", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/data", Options: []string{"rslave"}})
			}, ""},
			{"remount only", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/data", Options: []string{"remount", "ro"}})
			}, ""},
			{"no destination", func(s *specs.Spec) {
				mount(s, specs.Mount{Type: "proc"})
			}, "Error mounts[0].destination: found nothing; allowed: an absolute path in the container"},
			{"relative destination", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "proc", Type: "proc"})
			}, `Warning mounts[0].destination: found "proc"; allowed: an absolute path in the container; a relative one is deprecated and read as relative to "/"`},
			{"nul in destination", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a\x00b", Type: "proc"})
			}, `Error mounts[0].destination: found "/a\x00b"; allowed: an absolute path in the container`},
			{"nul in source", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Type: "proc", Source: "\x00"})
			}, `Error mounts[0].source: found "\x00"; allowed: a string without NUL bytes`},
			{"nul in type", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Type: "proc\x00"})
			}, `Error mounts[0].type: found "proc\x00"; allowed: a string without NUL bytes`},
			{"nul in option", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Type: "proc", Options: []string{"ro", "\x00"}})
			}, `Error mounts[0].options[1]: found "\x00"; allowed: a string without NUL bytes`},
			{"no type", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Source: "/b"})
			}, `Error mounts[0].type: found nothing; allowed: a filesystem of /proc/filesystems, or "bind" or "rbind" in options`},
			{"type bind", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Type: "bind", Source: "/b"})
			}, `Error mounts[0].type: found "bind"; allowed: a filesystem of /proc/filesystems; for a bind mount add "bind" or "rbind" to options`},
			{"bind without source", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Options: []string{"rbind"}})
			}, "Error mounts[0].source: found nothing; allowed: the path to bind, absolute or relative to the bundle"},
			{"unknown option of a filesystem", func(s *specs.Spec) {
				mount(s, specs.Mount{
					Destination: "/a", Type: "xfs", Source: "/dev/sda",
					Options: []string{"inode64"},
				})
			}, ""},
			{"unknown option of a bind", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind", "size=1k"}})
			}, `Warning mounts[0].options[1]: found "size=1k"; allowed: an option of mount(8) for bind mounts: this one has no effect, it is a filesystem's, and a bind mount makes none`},
			{"label of a bind", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind", "context=x"}})
			}, `Warning mounts[0].options[1]: found "context=x"; allowed: an option of mount(8) for bind mounts: this one has no effect, it is a filesystem's, and a bind mount makes none`},
			{"option of mount(8) itself", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Source: "/b", Options: []string{
					"bind", "X-mount.mkdir",
					"X-mount.subdir=x",
				}})
			}, `Warning mounts[0].options[2]: found "X-mount.subdir=x"; allowed: an option of mount(8) for bind mounts: this one has no effect, it is a filesystem's, and a bind mount makes none`},
			{"option of the superblock on a bind", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind", "sync"}})
			}, `Warning mounts[0].options[1]: found "sync"; allowed: an option of the mount itself: this one is the filesystem's, which a bind mount leaves as it is`},
			{"over the root", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a/..", Type: "tmpfs"})
			}, `Error mounts[0].destination: found "/a/.."; allowed: a path below "/", or "remount" in options; what the root is say root and linux.rootfsPropagation`},
			{"remount of the root", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/", Options: []string{"remount", "nosuid"}})
			}, ""},
			{"contradiction", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind", "ro", "rw"}})
			}, `Warning mounts[0].options[1]: found "ro" beside "rw"; allowed: one of the two; the later one holds`},
			{"bind and rbind", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind", "rbind"}})
			}, `Warning mounts[0].options[0]: found "bind" beside "rbind"; allowed: one of the two; the later one holds`},
			{"tmpcopyup on another type", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Type: "proc", Options: []string{"tmpcopyup"}})
			}, `Error mounts[0].options: found "tmpcopyup" on type "proc"; allowed: "tmpcopyup" only with type tmpfs`},
			{"tmpcopyup on a bind", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Type: "tmpfs", Source: "/b", Options: []string{
					"bind",
					"tmpcopyup",
				}})
			}, `Error mounts[0].options: found "tmpcopyup" on a bind mount; allowed: "tmpcopyup" only with type tmpfs`},
			{"idmap without mappings", func(s *specs.Spec) {
				mount(s, specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind", "idmap"}})
			}, `Error mounts[0].options: found "idmap" or "ridmap" without mappings; allowed: uidMappings and gidMappings, or a user namespace whose mappings are taken`},
			{"idmap of the user namespace", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{Size: 1})
				mount(s, specs.Mount{Destination: "/a", Source: "/b", Options: []string{"bind", "ridmap"}})
			}, ""},
			{"mappings", func(s *specs.Spec) {
				mount(s, specs.Mount{
					Destination: "/a", Source: "/b", Options: []string{"bind", "idmap"},
					UIDMappings: []specs.LinuxIDMapping{{Size: 1}},
					GIDMappings: []specs.LinuxIDMapping{{Size: 1}},
				})
			}, ""},
			{"only uid mappings", func(s *specs.Spec) {
				mount(s, specs.Mount{
					Destination: "/a", Source: "/b", Options: []string{"bind", "idmap"},
					UIDMappings: []specs.LinuxIDMapping{{Size: 1}},
				})
			}, "Error mounts[0].gidMappings: found nothing; allowed: mappings, since uidMappings are given"},
			{"only gid mappings", func(s *specs.Spec) {
				mount(s, specs.Mount{
					Destination: "/a", Source: "/b", Options: []string{"bind", "idmap"},
					GIDMappings: []specs.LinuxIDMapping{{Size: 1}},
				})
			}, "Error mounts[0].uidMappings: found nothing; allowed: mappings, since gidMappings are given"},
			{"mappings without idmap", func(s *specs.Spec) {
				mount(s, specs.Mount{
					Destination: "/a", Source: "/b", Options: []string{"bind"},
					UIDMappings: []specs.LinuxIDMapping{{Size: 1}},
					GIDMappings: []specs.LinuxIDMapping{{Size: 1}},
				})
			}, `Warning mounts[0].options: found mappings without "idmap" or "ridmap"; allowed: "idmap" or "ridmap", lest an older runtime ignores the mappings`},
			{"empty mapping", func(s *specs.Spec) {
				mount(s, specs.Mount{
					Destination: "/a", Source: "/b", Options: []string{"bind", "idmap"},
					UIDMappings: []specs.LinuxIDMapping{{Size: 1}}, GIDMappings: []specs.LinuxIDMapping{{}},
				})
			}, "Error mounts[0].gidMappings[0].size: found 0; allowed: 1 or more"},
			{"second of two", func(s *specs.Spec) {
				s.Mounts = []specs.Mount{{Destination: "/proc", Type: "proc"}, {Type: "sysfs"}}
			}, "Error mounts[1].destination: found nothing; allowed: an absolute path in the container"},
		}},
		{"process", []rule{
			{"missing", func(s *specs.Spec) {
				s.Process = nil
			}, "Warning process: found nothing; allowed: an object, without which the container can be created but not started"},
			{"no args", func(s *specs.Spec) {
				s.Process.Args = nil
			}, "Error process.args: found nothing; allowed: at least one entry, the program to run"},
			{"empty program", func(s *specs.Spec) {
				s.Process.Args = []string{""}
			}, `Error process.args[0]: found ""; allowed: the program to run`},
			{"empty argument", func(s *specs.Spec) { s.Process.Args = []string{"echo", ""} }, ""},
			{"nul in args", func(s *specs.Spec) {
				s.Process.Args = []string{"echo", "a\x00b"}
			}, `Error process.args[1]: found "a\x00b"; allowed: a string without NUL bytes`},
			{"no cwd", func(s *specs.Spec) {
				s.Process.Cwd = ""
			}, "Error process.cwd: found nothing; allowed: an absolute path in the container"},
			{"relative cwd", func(s *specs.Spec) {
				s.Process.Cwd = "root"
			}, `Error process.cwd: found "root"; allowed: an absolute path in the container`},
			{"env without name", func(s *specs.Spec) {
				s.Process.Env = []string{"A=1", "=x"}
			}, `Error process.env[1]: found "=x"; allowed: NAME=value, with a name and without NUL bytes`},
			{"env without value", func(s *specs.Spec) {
				s.Process.Env = []string{"A"}
			}, `Error process.env[0]: found "A"; allowed: NAME=value, with a name and without NUL bytes`},
			{"env with empty value", func(s *specs.Spec) { s.Process.Env = []string{"A="} }, ""},
			{"env twice", func(s *specs.Spec) { s.Process.Env = []string{"A=1", "A=2"} }, ""},
			{"env with odd name", func(s *specs.Spec) { s.Process.Env = []string{"a.b-c=1"} }, ""},
			{"nul in env", func(s *specs.Spec) {
				s.Process.Env = []string{"A=\x00"}
			}, `Error process.env[0]: found "A=\x00"; allowed: NAME=value, with a name and without NUL bytes`},
			{"command line", func(s *specs.Spec) {
				s.Process.CommandLine = "cmd /c dir"
			}, `Error process.commandLine: found "cmd /c dir"; allowed: nothing: it is for windows; on linux use args`},
			{"console size", func(s *specs.Spec) {
				s.Process.Terminal, s.Process.ConsoleSize = true, &specs.Box{Height: 25, Width: 80}
			}, ""},
			{"console size without terminal", func(s *specs.Spec) {
				s.Process.ConsoleSize = &specs.Box{Height: 25, Width: 80}
			}, "Warning process.consoleSize: found a size; allowed: nothing, unless terminal is true: it is ignored"},
			{"console size of too much", func(s *specs.Spec) {
				s.Process.Terminal, s.Process.ConsoleSize = true, &specs.Box{Height: 65536, Width: 70000}
			}, "Error process.consoleSize.height: found 65536; allowed: 0 to 65535" + "\n" +
				"Error process.consoleSize.width: found 70000; allowed: 0 to 65535"},
			{"oom score", func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(-1000) }, ""},
			{"oom score too low", func(s *specs.Spec) {
				s.Process.OOMScoreAdj = ptr(-1001)
			}, "Error process.oomScoreAdj: found -1001; allowed: -1000 to 1000"},
			{"oom score too high", func(s *specs.Spec) {
				s.Process.OOMScoreAdj = ptr(1001)
			}, "Error process.oomScoreAdj: found 1001; allowed: -1000 to 1000"},
			{"newline in apparmor profile", func(s *specs.Spec) {
				s.Process.ApparmorProfile = "a\nb"
			}, `Error process.apparmorProfile: found "a\nb"; allowed: a label without NUL bytes and newlines`},
			{"nul in selinux label", func(s *specs.Spec) {
				s.Process.SelinuxLabel = "a\x00b"
			}, `Error process.selinuxLabel: found "a\x00b"; allowed: a label without NUL bytes and newlines`},
			{"affinity", func(s *specs.Spec) {
				s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "7", Final: "0-3, 7"}
			}, ""},
			{"bad affinity", func(s *specs.Spec) {
				s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "a", Final: "3-0"}
			}, `Error process.execCPUAffinity.initial: found "a"; allowed: numbers and ascending ranges separated by commas, such as "0-3,7"` + "\n" +
				`Error process.execCPUAffinity.final: found "3-0"; allowed: numbers and ascending ranges separated by commas, such as "0-3,7"`},
			{"io priority", func(s *specs.Spec) {
				s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE, Priority: 4}
			}, ""},
			{"io class", func(s *specs.Spec) {
				s.Process.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_NONE"}
			}, `Error process.ioPriority.class: found "IOPRIO_CLASS_NONE"; allowed: one of IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE`},
			{"io priority too high", func(s *specs.Spec) {
				s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
			}, "Error process.ioPriority.priority: found 8; allowed: 0 to 7"},
		}},
		{"user", []rule{
			{"ids", func(s *specs.Spec) {
				s.Process.User = specs.User{
					UID: 1000, GID: 4294967294, AdditionalGids: []uint32{5, 5},
					Umask: ptr(uint32(0o777)),
				}
			}, ""},
			{"no uid", func(s *specs.Spec) {
				s.Process.User.UID = 4294967295
			}, "Error process.user.uid: found 4294967295; allowed: 0 to 4294967294"},
			{"no gid", func(s *specs.Spec) {
				s.Process.User.GID = 4294967295
			}, "Error process.user.gid: found 4294967295; allowed: 0 to 4294967294"},
			{"no additional gid", func(s *specs.Spec) {
				s.Process.User.AdditionalGids = []uint32{1, 4294967295}
			}, "Error process.user.additionalGids[1]: found 4294967295; allowed: 0 to 4294967294"},
			{"too many groups", func(s *specs.Spec) {
				s.Process.User.AdditionalGids = make([]uint32, 65537)
			}, "Error process.user.additionalGids: found 65537 groups; allowed: at most 65536"},
			{"umask", func(s *specs.Spec) {
				s.Process.User.Umask = ptr(uint32(0o1000))
			}, "Error process.user.umask: found 512; allowed: 0 to 511 (octal 0777)"},
			{"username", func(s *specs.Spec) {
				s.Process.User.Username = "root"
			}, `Warning process.user.username: found "root"; allowed: nothing: it is for windows and ignored on linux; use uid and gid`},
			{"unmapped ids", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{ContainerID: 0, HostID: 1000, Size: 10})
				s.Process.User = specs.User{UID: 10, GID: 70000, AdditionalGids: []uint32{3, 65536}}
			}, "Error process.user.uid: found 10; allowed: an id that linux.uidMappings maps, since the container has a user namespace" + "\n" +
				"Error process.user.gid: found 70000; allowed: an id that linux.gidMappings maps, since the container has a user namespace" + "\n" +
				"Error process.user.additionalGids[1]: found 65536; allowed: an id that linux.gidMappings maps, since the container has a user namespace"},
			{"mapped ids", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{ContainerID: 5, HostID: 1000, Size: 10})
				s.Process.User = specs.User{UID: 14, GID: 65535}
			}, ""},
			{"joined user namespace", func(s *specs.Spec) {
				namespace(s, specs.UserNamespace, "/proc/7/ns/user")
				s.Process.User.UID = 70000
			}, ""},
		}},
		{"capabilities", []rule{
			{"known", func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{
					"CAP_CHOWN",
					"CAP_CHECKPOINT_RESTORE", "CAP_BPF",
				}}
			}, ""},
			{"unknown", func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_TEST"}}
			}, `Warning process.capabilities.bounding[1]: found "CAP_TEST"; allowed: a name of capabilities(7), such as CAP_CHOWN; this one is left out`},
			{"lower case", func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{Permitted: []string{"cap_chown"}}
			}, `Warning process.capabilities.permitted[0]: found "cap_chown"; allowed: a name of capabilities(7); write CAP_CHOWN; this one is left out`},
			{"without prefix", func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{Inheritable: []string{"SYS_ADMIN"}}
			}, `Warning process.capabilities.inheritable[0]: found "SYS_ADMIN"; allowed: a name of capabilities(7); write CAP_SYS_ADMIN; this one is left out`},
			{"ALL", func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{
					Effective: []string{"ALL"},
					Ambient:   []string{""},
				}
			}, `Warning process.capabilities.effective[0]: found "ALL"; allowed: a name of capabilities(7), such as CAP_CHOWN; this one is left out` + "\n" +
				`Warning process.capabilities.ambient[0]: found nothing; allowed: a name of capabilities(7), such as CAP_CHOWN; this one is left out`},
			{"effective not permitted", func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{
					Effective: []string{"CAP_KILL", "CAP_CHOWN"},
					Permitted: []string{"CAP_KILL"},
				}
			}, `Warning process.capabilities.effective[1]: found "CAP_CHOWN"; allowed: only what is in permitted, too: the kernel does not grant it`},
			{"ambient not inheritable", func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{
					Ambient:   []string{"CAP_KILL"},
					Permitted: []string{"CAP_KILL"},
				}
			}, `Warning process.capabilities.ambient[0]: found "CAP_KILL"; allowed: only what is in permitted and in inheritable, too: can't raise ambient capability CAP_KILL: the kernel does not grant it`},
			{"ambient", func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{
					Ambient:   []string{"CAP_KILL"},
					Permitted: []string{"CAP_KILL"}, Inheritable: []string{"CAP_KILL"},
					Bounding: []string{"CAP_KILL"},
				}
			}, ""},
			{"inheritable, not bounding", func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{Inheritable: []string{
					"CAP_KILL",
					"CAP_CHOWN",
				}, Bounding: []string{"CAP_KILL"}}
			}, `Warning process.capabilities.inheritable[1]: found "CAP_CHOWN"; allowed: only what is in bounding, too: the kernel does not grant it`},
		}},
		{"rlimits", []rule{
			{"good", func(s *specs.Spec) {
				s.Process.Rlimits = []specs.POSIXRlimit{
					{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 1 << 63},
					{Type: "RLIMIT_RTTIME"},
				}
			}, ""},
			{"unknown", func(s *specs.Spec) {
				s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_TEST"}}
			}, `Error process.rlimits[0].type: found "RLIMIT_TEST"; allowed: a resource of getrlimit(2): RLIMIT_AS, CORE, CPU, DATA, FSIZE, LOCKS, MEMLOCK, MSGQUEUE, NICE, NOFILE, NPROC, RSS, RTPRIO, RTTIME, SIGPENDING or STACK, each with RLIMIT_`},
			{"empty", func(s *specs.Spec) {
				s.Process.Rlimits = []specs.POSIXRlimit{{}}
			}, "Error process.rlimits[0].type: found nothing; allowed: a resource of getrlimit(2): RLIMIT_AS, CORE, CPU, DATA, FSIZE, LOCKS, MEMLOCK, MSGQUEUE, NICE, NOFILE, NPROC, RSS, RTPRIO, RTTIME, SIGPENDING or STACK, each with RLIMIT_"},
			{"soft above hard", func(s *specs.Spec) {
				s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 2, Hard: 1}}
			}, "Error process.rlimits[0].soft: found 2; allowed: at most the hard limit, 1"},
			{"twice", func(s *specs.Spec) {
				s.Process.Rlimits = []specs.POSIXRlimit{
					{Type: "RLIMIT_CORE"},
					{Type: "RLIMIT_AS"},
					{Type: "RLIMIT_CORE"},
				}
			}, `Error process.rlimits[2].type: found "RLIMIT_CORE" again; allowed: each type at most once`},
		}},
		{"scheduler", []rule{
			{"batch", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{
					Policy: specs.SchedBatch, Nice: -20,
					Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork},
				})
			}, ""},
			{"fifo", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedFIFO, Priority: 99})
			}, ""},
			{"deadline", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{
					Policy: specs.SchedDeadline, Runtime: 1024, Deadline: 2048,
					Period: 4096,
				})
			}, ""},
			{"deadline without period", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1024, Deadline: 2048})
			}, ""},
			{"no policy", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{})
			}, "Error process.scheduler.policy: found nothing; allowed: one of SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_ISO, SCHED_IDLE, SCHED_DEADLINE"},
			{"unknown policy", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: "SCHED_FAIR"})
			}, `Error process.scheduler.policy: found "SCHED_FAIR"; allowed: one of SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_ISO, SCHED_IDLE, SCHED_DEADLINE`},
			{"policy that Linux refuses", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedISO})
			}, `Warning process.scheduler.policy: found "SCHED_ISO"; allowed: a policy that Linux implements: the kernel refuses this one`},
			{"nice too low", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedOther, Nice: -21})
			}, "Error process.scheduler.nice: found -21; allowed: -20 to 19"},
			{"nice too high", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedOther, Nice: 20})
			}, "Error process.scheduler.nice: found 20; allowed: -20 to 19"},
			{"priority of other", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedOther, Priority: 1})
			}, "Error process.scheduler.priority: found 1; allowed: 0, unless policy is SCHED_FIFO or SCHED_RR"},
			{"fifo without priority", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedFIFO})
			}, "Error process.scheduler.priority: found 0; allowed: 1 to 99 with SCHED_FIFO"},
			{"flag", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{
					Policy: specs.SchedOther,
					Flags:  []specs.LinuxSchedulerFlag{"SCHED_FLAG_X"},
				})
			}, `Error process.scheduler.flags[0]: found "SCHED_FLAG_X"; allowed: SCHED_FLAG_ and one of RESET_ON_FORK, RECLAIM, DL_OVERRUN, KEEP_POLICY, KEEP_PARAMS, UTIL_CLAMP_MIN, UTIL_CLAMP_MAX`},
			{"deadline fields of other", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedOther, Runtime: 1, Deadline: 2, Period: 3})
			}, "Error process.scheduler.runtime: found 1; allowed: nothing, unless policy is SCHED_DEADLINE" + "\n" +
				"Error process.scheduler.deadline: found 2; allowed: nothing, unless policy is SCHED_DEADLINE" +
				"\n" +
				"Error process.scheduler.period: found 3; allowed: nothing, unless policy is SCHED_DEADLINE"},
			{"runtime too small", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1000, Deadline: 2048})
			}, "Error process.scheduler.runtime: found 1000; allowed: 1024 ns to the deadline (" +
				"sched_setattr: `SCHED_DEADLINE` runtime 1000 must be between 1024 and 9223372036854775807)"},
			{"no runtime", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedDeadline, Deadline: 2048})
			}, "Error process.scheduler.runtime: found 0; allowed: 1024 ns to the deadline (" +
				"sched_setattr: `SCHED_DEADLINE` requires `runtime`; " +
				"sched_setattr: `SCHED_DEADLINE` runtime must be greater than 0)"},
			{"no deadline", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1024, Period: 2048})
			}, "Error process.scheduler.deadline: found 0; allowed: the runtime to the period (" +
				"sched_setattr: `SCHED_DEADLINE` requires `deadline`)"},
			{"runtime and period too great", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{
					Policy: specs.SchedDeadline, Runtime: 1<<63 + 1,
					Deadline: 1<<63 + 2,
				})
			}, "Error process.scheduler.runtime: found 9223372036854775809; allowed: 1024 ns to the deadline (" +
				"sched_setattr: `SCHED_DEADLINE` runtime 9223372036854775809 must be between 1024 and 9223372036854775807)\n" +
				"Error process.scheduler.period: found 9223372036854775810; allowed: at most 9223372036854775807"},
			{"runtime above deadline", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 4096, Deadline: 2048})
			}, "Error process.scheduler.runtime: found 4096; allowed: 1024 ns to the deadline (" +
				"sched_setattr: `SCHED_DEADLINE` runtime 4096 must be <= deadline 2048)"},
			{"deadline above period", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{
					Policy: specs.SchedDeadline, Runtime: 1024, Deadline: 4096,
					Period: 2048,
				})
			}, "Error process.scheduler.deadline: found 4096; allowed: the runtime to the period (" +
				"sched_setattr: `SCHED_DEADLINE` deadline 4096 must be <= period 2048)"},
			{"period too great", func(s *specs.Spec) {
				scheduler(s, specs.Scheduler{
					Policy: specs.SchedDeadline, Runtime: 1024, Deadline: 4096,
					Period: 1 << 63,
				})
			}, "Error process.scheduler.period: found 9223372036854775808; allowed: at most 9223372036854775807"},
		}},
		{"hostname", []rule{
			{"good", func(s *specs.Spec) {
				s.Hostname, s.Domainname = "slartibartfast-1.Example", "example.test"
			}, ""},
			{"64 bytes", func(s *specs.Spec) {
				s.Hostname = strings.Repeat("a", 32) + "." + strings.Repeat("b", 31)
			}, ""},
			{"65 bytes", func(s *specs.Spec) {
				s.Hostname = strings.Repeat("a", 33) + "." + strings.Repeat("b", 31)
			}, `Error hostname: found "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"; allowed: at most 64 bytes`},
			{"label of 64", func(s *specs.Spec) {
				s.Hostname = strings.Repeat("a", 64)
			}, `Warning hostname: found "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"; allowed: labels of letters, digits and inner "-", each 1 to 63 bytes, separated by "." (RFC 1123); some resolvers refuse others`},
			{"blank", func(s *specs.Spec) {
				s.Hostname = "a b"
			}, `Warning hostname: found "a b"; allowed: labels of letters, digits and inner "-", each 1 to 63 bytes, separated by "." (RFC 1123); some resolvers refuse others`},
			{"leading dash", func(s *specs.Spec) {
				s.Hostname = "-a"
			}, `Warning hostname: found "-a"; allowed: labels of letters, digits and inner "-", each 1 to 63 bytes, separated by "." (RFC 1123); some resolvers refuse others`},
			{"trailing dash", func(s *specs.Spec) {
				s.Hostname = "a.b-"
			}, `Warning hostname: found "a.b-"; allowed: labels of letters, digits and inner "-", each 1 to 63 bytes, separated by "." (RFC 1123); some resolvers refuse others`},
			{"empty label", func(s *specs.Spec) {
				s.Domainname = "a..b"
			}, `Warning domainname: found "a..b"; allowed: labels of letters, digits and inner "-", each 1 to 63 bytes, separated by "." (RFC 1123); some resolvers refuse others`},
			{"nul", func(s *specs.Spec) {
				s.Hostname = "a\x00b"
			}, `Error hostname: found "a\x00b"; allowed: a string without NUL bytes`},
			{"umlaut", func(s *specs.Spec) {
				s.Hostname = "über"
			}, `Warning hostname: found "über"; allowed: labels of letters, digits and inner "-", each 1 to 63 bytes, separated by "." (RFC 1123); some resolvers refuse others`},
			{"underscore", func(s *specs.Spec) {
				s.Hostname = "my_host"
			}, `Warning hostname: found "my_host"; allowed: labels of letters, digits and inner "-", each 1 to 63 bytes, separated by "." (RFC 1123); some resolvers refuse others`},
			{"no uts namespace", func(s *specs.Spec) {
				without(s, specs.UTSNamespace)
				s.Hostname, s.Domainname = "a", "b"
			}, `Error hostname: found "a"; allowed: nothing, unless linux.namespaces has one of type uts` +
				"\n" +
				`Error domainname: found "b"; allowed: nothing, unless linux.namespaces has one of type uts`},
			{"joined uts namespace", func(s *specs.Spec) {
				without(s, specs.UTSNamespace)
				namespace(s, specs.UTSNamespace, "/proc/7/ns/uts")
				s.Hostname = "a"
			}, ""},
		}},
		{"platforms", []rule{
			{"all others", func(s *specs.Spec) {
				s.Windows, s.Solaris, s.ZOS, s.FreeBSD = &specs.Windows{}, &specs.Solaris{}, &specs.ZOS{},
					&specs.FreeBSD{}
			}, "Error freebsd: found a section of another platform; allowed: nothing: this platform is linux" + "\n" +
				"Error solaris: found a section of another platform; allowed: nothing: this platform is linux" +
				"\n" +
				"Error windows: found a section of another platform; allowed: nothing: this platform is linux" +
				"\n" +
				"Error zos: found a section of another platform; allowed: nothing: this platform is linux"},
			{"vm", func(s *specs.Spec) {
				s.VM = &specs.VM{}
			}, "Error vm: found a section for virtual machines; allowed: nothing, unless the handler runs virtual machines"},
		}},
		{"hooks", []rule{
			{"good", func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/bin/a", Args: []string{"a", ""}, Env: []string{"A=1"}, Timeout: ptr(1)}}, StartContainer: []specs.Hook{{Path: "/bin/b"}}} //nolint:staticcheck // deprecated, and still to be judged
			}, ""},
			{"every point", func(s *specs.Spec) {
				h := []specs.Hook{{Path: "a"}}
				s.Hooks = &specs.Hooks{Prestart: h, CreateRuntime: h, CreateContainer: h, StartContainer: h, Poststart: h, Poststop: h} //nolint:staticcheck // deprecated, and still to be judged
			}, `Error hooks.prestart[0].path: found "a"; allowed: an absolute path on the host` + "\n" +
				`Error hooks.createRuntime[0].path: found "a"; allowed: an absolute path on the host` + "\n" +
				`Error hooks.createContainer[0].path: found "a"; allowed: an absolute path on the host` + "\n" +
				`Error hooks.startContainer[0].path: found "a"; allowed: an absolute path in the container` +
				"\n" +
				`Error hooks.poststart[0].path: found "a"; allowed: an absolute path on the host` + "\n" +
				`Error hooks.poststop[0].path: found "a"; allowed: an absolute path on the host`},
			{"no path", func(s *specs.Spec) {
				hook(s, specs.Hook{})
			}, "Error hooks.createRuntime[0].path: found nothing; allowed: an absolute path on the host"},
			{"nul in args", func(s *specs.Spec) {
				hook(s, specs.Hook{Path: "/a", Args: []string{"\x00"}})
			}, `Error hooks.createRuntime[0].args[0]: found "\x00"; allowed: a string without NUL bytes`},
			{"env", func(s *specs.Spec) {
				hook(s, specs.Hook{Path: "/a", Env: []string{"A"}})
			}, `Error hooks.createRuntime[0].env[0]: found "A"; allowed: NAME=value, with a name and without NUL bytes`},
			{"timeout zero", func(s *specs.Spec) {
				hook(s, specs.Hook{Path: "/a", Timeout: ptr(0)})
			}, "Error hooks.createRuntime[0].timeout: found 0; allowed: a number of seconds greater than 0, or nothing"},
			{"timeout negative", func(s *specs.Spec) {
				hook(s, specs.Hook{Path: "/a", Timeout: ptr(-5)})
			}, "Error hooks.createRuntime[0].timeout: found -5; allowed: a number of seconds greater than 0, or nothing"},
		}},
		{"annotations", []rule{
			{"good", func(s *specs.Spec) {
				s.Annotations = map[string]string{"com.example.key": "", "plain": "x"}
			}, ""},
			{"empty key", func(s *specs.Spec) {
				s.Annotations = map[string]string{"": "x"}
			}, `Error annotations[""]: found an empty key; allowed: keys that are not empty`},
			{"of crun", func(s *specs.Spec) {
				s.Annotations = map[string]string{
					"run.oci.keep_original_groups": "1", "run.oci.mount_context_type": "rootcontext",
					"run.oci.hooks.stdout": "/a", "run.oci.hooks.stderr": "/a",
					"run.oci.pidfd_receiver": "/a", "run.oci.systemd.subgroup": "", "run.oci.delegate-cgroup": "",
					"run.oci.unknown": "x",
				}
			}, ""},
			{"of crun, refused", func(s *specs.Spec) {
				s.Annotations = map[string]string{
					"run.oci.mount_context_type": "x", "run.oci.hooks.stdout": "a", "run.oci.pidfd_receiver": "a",
					"run.oci.systemd.subgroup": "a",
					"run.oci.seccomp.receiver": "/a", "run.oci.seccomp_bpf_data": "AA",
					"run.oci.systemd.force_cgroup_v1": "/a", "run.oci.handler": "krun",
				}
			}, `Error annotations["run.oci.handler"]: found "krun"; allowed: no such annotation; other kinds of container are for another runtime (berth --runtime-type)` + "\n" +
				`Error annotations["run.oci.hooks.stdout"]: found "a"; allowed: the absolute path of a file on the host` + "\n" +
				`Error annotations["run.oci.mount_context_type"]: found "x"; allowed: context, fscontext, defcontext or rootcontext` + "\n" +
				`Error annotations["run.oci.pidfd_receiver"]: found "a"; allowed: the absolute path of a unix socket on the host` + "\n" +
				`Error annotations["run.oci.seccomp.receiver"]: found "/a"; allowed: no such annotation; linux.seccomp.listenerPath is the specification's field for it` + "\n" +
				`Error annotations["run.oci.seccomp_bpf_data"]: found "AA"; allowed: no such annotation; linux.seccomp says which filter there is` + "\n" +
				`Error annotations["run.oci.systemd.force_cgroup_v1"]: found "/a"; allowed: no such annotation; mounts may have one of type cgroup` + "\n" +
				`Warning annotations["run.oci.systemd.subgroup"]: found "a"; allowed: nothing: the container's process is in the cgroup of linux.cgroupsPath itself; without systemd's cgroups it is ignored, as by crun`},
		}},
		{"namespaces", []rule{
			{"all", func(s *specs.Spec) {
				s.Linux.Namespaces = nil
				for _, n := range []specs.LinuxNamespaceType{
					"pid", "network", "mount", "ipc", "uts", "cgroup",
					"time",
				} {
					namespace(s, n, "")
				}
			}, ""},
			{"none", func(s *specs.Spec) { s.Linux = nil }, ""},
			{"path", func(s *specs.Spec) {
				without(s, specs.PIDNamespace)
				namespace(s, specs.PIDNamespace, "/proc/1234/ns/pid")
			}, ""},
			{"unknown", func(s *specs.Spec) {
				namespace(s, "net", "")
			}, `Error linux.namespaces[5].type: found "net"; allowed: one of pid, network, mount, ipc, uts, user, cgroup, time`},
			{"empty", func(s *specs.Spec) {
				namespace(s, "", "")
			}, "Error linux.namespaces[5].type: found nothing; allowed: one of pid, network, mount, ipc, uts, user, cgroup, time"},
			{"twice", func(s *specs.Spec) {
				namespace(s, specs.PIDNamespace, "/proc/1234/ns/pid")
			}, `Error linux.namespaces[5].type: found "pid" again; allowed: each type at most once`},
			{"relative path", func(s *specs.Spec) {
				without(s, specs.PIDNamespace)
				namespace(s, specs.PIDNamespace, "ns/pid")
			}, `Error linux.namespaces[4].path: found "ns/pid"; allowed: an absolute path on the host`},
			{"mounts without mount namespace", func(s *specs.Spec) {
				without(s, specs.MountNamespace)
				s.Linux.MaskedPaths = []string{"/proc/kcore"}
			}, "Warning linux.namespaces: found no mount namespace; allowed: one of type mount, or what the document mounts is mounted on the host"},
		}},
		{"id mappings", []rule{
			{"good", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{ContainerID: 0, HostID: 1000, Size: 1},
					specs.LinuxIDMapping{ContainerID: 1, HostID: 100000, Size: 65535})
			}, ""},
			{"without user namespace", func(s *specs.Spec) {
				s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
			}, "Error linux.uidMappings: found mappings without a user namespace; allowed: nothing, unless linux.namespaces has one of type user"},
			{"missing", func(s *specs.Spec) {
				namespace(s, specs.UserNamespace, "")
			}, "Error linux.uidMappings: found nothing; allowed: at least one mapping, since linux.namespaces makes a new user namespace" + "\n" +
				"Error linux.gidMappings: found nothing; allowed: at least one mapping, since linux.namespaces makes a new user namespace"},
			{"of a joined namespace", func(s *specs.Spec) {
				namespace(s, specs.UserNamespace, "/proc/7/ns/user")
				s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
			}, ""},
			{"joined without", func(s *specs.Spec) {
				namespace(s, specs.UserNamespace, "/proc/7/ns/user")
			}, ""},
			{"size zero", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{ContainerID: 0, HostID: 1000})
			}, "Error process.user.uid: found 0; allowed: an id that linux.uidMappings maps, since the container has a user namespace" + "\n" +
				"Error linux.uidMappings[0].size: found 0; allowed: 1 or more"},
			{"container ids overlap", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{ContainerID: 0, HostID: 1000, Size: 10},
					specs.LinuxIDMapping{ContainerID: 9, HostID: 2000, Size: 10})
			}, "Error linux.uidMappings[1].containerID: found 9, an overlap with linux.uidMappings[0]; allowed: ranges that no other mapping has ids of"},
			{"host ids overlap", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{ContainerID: 20, HostID: 1000, Size: 10},
					specs.LinuxIDMapping{ContainerID: 0, HostID: 995, Size: 6})
			}, "Error linux.uidMappings[1].hostID: found 995, an overlap with linux.uidMappings[0]; allowed: ranges that no other mapping has ids of"},
			{"one overlaps two", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{ContainerID: 0, HostID: 0, Size: 100},
					specs.LinuxIDMapping{ContainerID: 10, HostID: 200, Size: 5},
					specs.LinuxIDMapping{ContainerID: 20, HostID: 300, Size: 5})
			}, "Error linux.uidMappings[1].containerID: found 10, an overlap with linux.uidMappings[0]; allowed: ranges that no other mapping has ids of" + "\n" +
				"Error linux.uidMappings[2].containerID: found 20, an overlap with linux.uidMappings[0]; allowed: ranges that no other mapping has ids of"},
			{"beyond 32 bits", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{ContainerID: 1, HostID: 2, Size: 4294967295})
			}, "Error process.user.uid: found 0; allowed: an id that linux.uidMappings maps, since the container has a user namespace" + "\n" +
				"Error linux.uidMappings[0]: found 1 + 4294967295; allowed: containerID + size of at most 4294967295" + "\n" +
				"Error linux.uidMappings[0]: found 2 + 4294967295; allowed: hostID + size of at most 4294967295"},
			{"up to the last id", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{ContainerID: 0, HostID: 0, Size: 4294967295})
			}, ""},
			{"too many", func(s *specs.Spec) {
				withUser(s, make([]specs.LinuxIDMapping, 341)...)
			}, "Error linux.uidMappings: found 341 mappings; allowed: at most 340"},
		}},
		{"time offsets", []rule{
			{"good", func(s *specs.Spec) {
				namespace(s, specs.TimeNamespace, "")
				s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {
					Secs:     -5,
					Nanosecs: 999999999,
				}, "boottime": {Secs: 1}}
			}, ""},
			{"without namespace", func(s *specs.Spec) {
				s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}}
			}, "Error linux.timeOffsets: found offsets without a new time namespace; allowed: nothing, unless linux.namespaces makes one of type time"},
			{"joined namespace", func(s *specs.Spec) {
				namespace(s, specs.TimeNamespace, "/proc/7/ns/time")
				s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}}
			}, "Error linux.timeOffsets: found offsets without a new time namespace; allowed: nothing, unless linux.namespaces makes one of type time"},
			{"clock", func(s *specs.Spec) {
				namespace(s, specs.TimeNamespace, "")
				s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"realtime": {Secs: 1}}
			}, `Error linux.timeOffsets["realtime"]: found the clock "realtime"; allowed: monotonic or boottime`},
			{"nanoseconds", func(s *specs.Spec) {
				namespace(s, specs.TimeNamespace, "")
				s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Nanosecs: 1000000000}}
			}, `Error linux.timeOffsets["boottime"].nanosecs: found 1000000000; allowed: 0 to 999999999`},
		}},
		{"devices", []rule{
			{"good", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{
					Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229,
					FileMode: ptr(os.FileMode(0o20666)), UID: ptr(uint32(0)), GID: ptr(uint32(0)),
				},
					specs.LinuxDevice{Path: "/run/pipe", Type: "p"}, specs.LinuxDevice{
						Path: "/run/pipe2",
						Type: "p", Major: -1,
					}, specs.LinuxDevice{
						Path: "/dev/u", Type: "u", Major: 4095,
						Minor: 1048575,
					})
			}, ""},
			{"type", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{Path: "/dev/a", Type: "d"})
			}, `Error linux.devices[0].type: found "d"; allowed: c or u (character), b (block), or p (pipe)`},
			{"no type", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{Path: "/dev/a"})
			}, "Error linux.devices[0].type: found nothing; allowed: c or u (character), b (block), or p (pipe)"},
			{"relative path", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{Path: "dev/a", Type: "c"})
			}, `Error linux.devices[0].path: found "dev/a"; allowed: an absolute path in the container`},
			{"major", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{Path: "/dev/a", Type: "c", Major: 4096})
			}, "Error linux.devices[0].major: found 4096; allowed: 0 to 4095"},
			{"minor", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{Path: "/dev/a", Type: "b", Minor: -1})
			}, "Error linux.devices[0].minor: found -1; allowed: 0 to 1048575"},
			{"mode", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{Path: "/dev/a", Type: "c", FileMode: ptr(os.ModeDevice | 0o666)})
			}, "Error linux.devices[0].fileMode: found 67109302; allowed: a mode of mknod(2) in decimal, such as 438 for octal 0666"},
			{"owner", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{
					Path: "/dev/a", Type: "c", UID: ptr(uint32(4294967295)),
					GID: ptr(uint32(4294967295)),
				})
			}, "Error linux.devices[0].uid: found 4294967295; allowed: 0 to 4294967294" + "\n" +
				"Error linux.devices[0].gid: found 4294967295; allowed: 0 to 4294967294"},
			{"same device", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{Path: "/dev/a", Type: "c", Major: 1},
					specs.LinuxDevice{Path: "/dev/b", Type: "u", Major: 1})
			}, `Warning linux.devices[1]: found "u 1:0", the same as linux.devices[0]; allowed: type, major and minor that no other device has`},
			{"same path", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{Path: "/dev/a", Type: "c", Major: 1},
					specs.LinuxDevice{Path: "/dev/a", Type: "c", Major: 2})
			}, `Error linux.devices[1].path: found "/dev/a", which is another device at linux.devices[0]; allowed: each path for one device only`},
			{"twice the same", func(s *specs.Spec) {
				devices(s, specs.LinuxDevice{Path: "/dev/a", Type: "c", Major: 1},
					specs.LinuxDevice{Path: "/dev/a", Type: "c", Major: 1})
			}, `Warning linux.devices[1].path: found "/dev/a" again; allowed: each device once`},
		}},
		{"net devices", []rule{
			{"good", func(s *specs.Spec) {
				s.Linux.NetDevices = map[string]specs.LinuxNetDevice{
					"eth0": {},
					"eth1": {Name: "container_eth1"}, "eth2": {Name: "net%d"}, "eth3": {Name: "net%d"},
				}
			}, ""},
			{"without namespace", func(s *specs.Spec) {
				without(s, specs.NetworkNamespace)
				s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}}
			}, "Error linux.netDevices: found devices without a network namespace; allowed: nothing, unless linux.namespaces has one of type network"},
			{"host name", func(s *specs.Spec) {
				s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a/b": {}}
			}, `Error linux.netDevices["a/b"]: found the device "a/b"; allowed: a network device's name: 1 to 15 bytes without "/", ":" or white space`},
			{"name", func(s *specs.Spec) {
				s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {Name: "a_name_of_16_byte"}}
			}, `Error linux.netDevices["eth0"].name: found "a_name_of_16_byte"; allowed: a network device's name: 1 to 15 bytes without "/", ":" or white space, or such a name with one "%d"`},
			{"template", func(s *specs.Spec) {
				s.Linux.NetDevices = map[string]specs.LinuxNetDevice{
					"eth0": {Name: "a%s"},
					"eth1": {Name: "a%d%d"},
				}
			}, `Error linux.netDevices["eth0"].name: found "a%s"; allowed: a network device's name: 1 to 15 bytes without "/", ":" or white space, or such a name with one "%d"` + "\n" +
				`Error linux.netDevices["eth1"].name: found "a%d%d"; allowed: a network device's name: 1 to 15 bytes without "/", ":" or white space, or such a name with one "%d"`},
			{"taken", func(s *specs.Spec) {
				s.Linux.NetDevices = map[string]specs.LinuxNetDevice{
					"eth0": {Name: "net0"},
					"eth1": {Name: "net0"},
				}
			}, `Error linux.netDevices["eth1"].name: found "net0", which "eth0" gets too; allowed: a name for each device`},
		}},
		{"cgroups path", []rule{
			{"absolute", func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/b:c" }, ""},
			{"relative", func(s *specs.Spec) { s.Linux.CgroupsPath = "a/b" }, ""},
			{"systemd", func(s *specs.Spec) { s.Linux.CgroupsPath = "machine.slice:berth:c1" }, ""},
			{"systemd nested slice", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "a-b.slice:cri-containerd:0123abc"
			}, ""},
			{"systemd default slice", func(s *specs.Spec) { s.Linux.CgroupsPath = ":berth:c1" }, ""},
			{"systemd root slice", func(s *specs.Spec) { s.Linux.CgroupsPath = "-.slice:berth:c1" }, ""},
			{"systemd without prefix", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "machine.slice::c1"
			}, ""},
			{"systemd slice as the unit", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "a.slice::b.slice"
			}, ""},
			{"systemd without name", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "machine.slice:berth:"
			}, `Error linux.cgroupsPath: found nothing as the unit; allowed: slice:prefix:name with a name of letters, digits and :-_.\@, prefix and name of at most 248 bytes`},
			{"systemd bad slice", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "machine:berth:c1"
			}, `Error linux.cgroupsPath: found "machine" as the slice; allowed: nothing, or a slice's name such as "machine.slice" or "a-b.slice"`},
			{"systemd slice with slash", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "a/b.slice:berth:c1"
			}, `Error linux.cgroupsPath: found "a/b.slice" as the slice; allowed: nothing, or a slice's name such as "machine.slice" or "a-b.slice"`},
			{"systemd slice with two dashes", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "a--b.slice:berth:c1"
			}, `Error linux.cgroupsPath: found "a--b.slice" as the slice; allowed: nothing, or a slice's name such as "machine.slice" or "a-b.slice"`},
			{"systemd unit with slash", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "a.slice:berth:../c1"
			}, `Error linux.cgroupsPath: found "berth-../c1" as the unit; allowed: slice:prefix:name with a name of letters, digits and :-_.\@, prefix and name of at most 248 bytes`},
			{"two parts", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "berth:c1"
			}, `Warning linux.cgroupsPath: found "berth:c1"; allowed: a path, or the three parts slice:prefix:name for systemd; this is read as a path`},
			{"four parts", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "a:b:c:d"
			}, `Warning linux.cgroupsPath: found "a:b:c:d"; allowed: a path, or the three parts slice:prefix:name for systemd; this is read as a path`},
			{"parent", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "/a/../../b"
			}, `Error linux.cgroupsPath: found "/a/../../b"; allowed: a path without ".."`},
			{"relative parent", func(s *specs.Spec) {
				s.Linux.CgroupsPath = ".."
			}, `Error linux.cgroupsPath: found ".."; allowed: a path without ".."`},
			{"newline", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "/a\nb"
			}, `Error linux.cgroupsPath: found "/a\nb"; allowed: a path without NUL bytes and newlines`},
			{"long element", func(s *specs.Spec) {
				s.Linux.CgroupsPath = "/" + strings.Repeat("a", 256)
			}, `Error linux.cgroupsPath: found "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"… (257 bytes); allowed: a path whose elements have at most 255 bytes`},
		}},
		{"device rules", []rule{
			{"good", func(s *specs.Spec) {
				resources(s).Devices = []specs.LinuxDeviceCgroup{
					{Access: "rwm"},
					{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(-1)), Access: "rw"},
					{Type: "a"},
				}
			}, ""},
			{"type", func(s *specs.Spec) {
				resources(s).Devices = []specs.LinuxDeviceCgroup{{Type: "p"}}
			}, `Error linux.resources.devices[0].type: found "p"; allowed: a (all), c (character), b (block), or nothing for all`},
			{"major", func(s *specs.Spec) {
				resources(s).Devices = []specs.LinuxDeviceCgroup{{Major: ptr(int64(-2))}}
			}, "Error linux.resources.devices[0].major: found -2; allowed: 0 to 4095, or nothing for all"},
			{"minor", func(s *specs.Spec) {
				resources(s).Devices = []specs.LinuxDeviceCgroup{{Minor: ptr(int64(1 << 20))}}
			}, "Error linux.resources.devices[0].minor: found 1048576; allowed: 0 to 1048575, or nothing for all"},
			{"access of all", func(s *specs.Spec) {
				resources(s).Devices = []specs.LinuxDeviceCgroup{{Access: "rwa"}}
			}, `Warning linux.resources.devices[0].access: found "rwa"; allowed: a composition of r (read), w (write) and m (mknod); the a is left out`},
			{"access of nothing else", func(s *specs.Spec) {
				resources(s).Devices = []specs.LinuxDeviceCgroup{{Access: "a"}}
			}, `Error linux.resources.devices[0].access: found "a"; allowed: a composition of r (read), w (write) and m (mknod)`},
			{"access", func(s *specs.Spec) {
				resources(s).Devices = []specs.LinuxDeviceCgroup{{Access: "rwx"}}
			}, `Error linux.resources.devices[0].access: found "rwx"; allowed: a composition of r (read), w (write) and m (mknod)`},
		}},
		{"memory", []rule{
			{"good", func(s *specs.Spec) {
				resources(s).Memory = &specs.LinuxMemory{Limit: ptr(int64(100000)), Reservation: ptr(int64(200000)), Swap: ptr(int64(100000)), Kernel: ptr(int64(-1)), Swappiness: ptr(uint64(100))} //nolint:staticcheck // deprecated, and still to be judged
			}, ""},
			{"unlimited", func(s *specs.Spec) {
				resources(s).Memory = &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))}
			}, ""},
			{"negative", func(s *specs.Spec) {
				resources(s).Memory = &specs.LinuxMemory{Limit: ptr(int64(-2)), Reservation: ptr(int64(-3)), Swap: ptr(int64(-4)), Kernel: ptr(int64(-5)), KernelTCP: ptr(int64(-6))} //nolint:staticcheck // deprecated, and still to be judged
			}, "Error linux.resources.memory.limit: found -2; allowed: a number of bytes, or -1 for no limit" + "\n" +
				"Error linux.resources.memory.reservation: found -3; allowed: a number of bytes, or -1 for no limit" + "\n" +
				"Error linux.resources.memory.swap: found -4; allowed: a number of bytes, or -1 for no limit" +
				"\n" +
				"Error linux.resources.memory.kernel: found -5; allowed: a number of bytes, or -1 for no limit" + "\n" +
				"Error linux.resources.memory.kernelTCP: found -6; allowed: a number of bytes, or -1 for no limit"},
			{"swap below limit", func(s *specs.Spec) {
				resources(s).Memory = &specs.LinuxMemory{Limit: ptr(int64(2048)), Swap: ptr(int64(1024))}
			}, "Error linux.resources.memory.swap: found 1024; allowed: at least the limit, 2048: it limits memory and swap together"},
			{"swap without limit", func(s *specs.Spec) {
				resources(s).Memory = &specs.LinuxMemory{Swap: ptr(int64(1024))}
			}, "Error linux.resources.memory.swap: found 1024; allowed: -1 or nothing, unless limit is given: it limits memory and swap together"},
			{"swap with no limit", func(s *specs.Spec) {
				resources(s).Memory = &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(1024))}
			}, "Error linux.resources.memory.swap: found 1024; allowed: -1 or nothing, unless limit is given: it limits memory and swap together"},
			{"swappiness", func(s *specs.Spec) {
				resources(s).Memory = &specs.LinuxMemory{Swappiness: ptr(uint64(101))}
			}, "Error linux.resources.memory.swappiness: found 101; allowed: 0 to 100"},
			{"kernel", func(s *specs.Spec) { resources(s).Memory = &specs.LinuxMemory{Kernel: ptr(int64(1024))} }, "Warning linux.resources.memory.kernel: found 1024; allowed: nothing: Linux has no such limit any more, and it is ignored; limit counts kernel memory, too"}, //nolint:staticcheck // deprecated, and still to be judged
		}},
		{"cpu", []rule{
			{"good", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{
					Shares: ptr(uint64(1024)), Quota: ptr(int64(1000000)),
					Burst: ptr(uint64(1000000)), Period: ptr(uint64(500000)), RealtimeRuntime: ptr(int64(950000)),
					RealtimePeriod: ptr(uint64(1000000)), Cpus: "2-3", Mems: "0-7", Idle: ptr(int64(1)),
				}
			}, ""},
			{"unset", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{
					Quota: ptr(int64(0)), Period: ptr(uint64(0)),
					Burst: ptr(uint64(5)),
				}
			}, ""},
			{"unlimited", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{Quota: ptr(int64(-1)), RealtimeRuntime: ptr(int64(-1))}
			}, ""},
			{"quota too small", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{Quota: ptr(int64(999))}
			}, "Error linux.resources.cpu.quota: found 999; allowed: 1000 microseconds or more, or -1 for no limit"},
			{"period too small", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{Period: ptr(uint64(999))}
			}, "Error linux.resources.cpu.period: found 999; allowed: 1000 to 1000000 microseconds"},
			{"period too great", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{Period: ptr(uint64(1000001))}
			}, "Error linux.resources.cpu.period: found 1000001; allowed: 1000 to 1000000 microseconds"},
			{"burst", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{Quota: ptr(int64(1000)), Burst: ptr(uint64(1001))}
			}, "Error linux.resources.cpu.burst: found 1001; allowed: at most the quota, 1000"},
			{"realtime", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{
					RealtimeRuntime: ptr(int64(2)),
					RealtimePeriod:  ptr(uint64(1)),
				}
			}, "Error linux.resources.cpu.realtimeRuntime: found 2; allowed: at most the realtimePeriod, 1"},
			{"realtime negative", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{RealtimeRuntime: ptr(int64(-2))}
			}, "Error linux.resources.cpu.realtimeRuntime: found -2; allowed: a number of microseconds, or -1 for no limit"},
			{"lists", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{Cpus: "0-", Mems: "1,,2"}
			}, `Error linux.resources.cpu.cpus: found "0-"; allowed: numbers and ascending ranges separated by commas, such as "0-3,7"` + "\n" +
				`Error linux.resources.cpu.mems: found "1,,2"; allowed: numbers and ascending ranges separated by commas, such as "0-3,7"`},
			{"idle", func(s *specs.Spec) {
				resources(s).CPU = &specs.LinuxCPU{Idle: ptr(int64(2))}
			}, "Error linux.resources.cpu.idle: found 2; allowed: 0 or 1"},
		}},
		{"other resources", []rule{
			{"pids", func(s *specs.Spec) { resources(s).Pids = &specs.LinuxPids{Limit: ptr(int64(0))} }, ""},
			{"pids without limit", func(s *specs.Spec) { resources(s).Pids = &specs.LinuxPids{} }, ""},
			{"pids unlimited", func(s *specs.Spec) {
				resources(s).Pids = &specs.LinuxPids{Limit: ptr(int64(-1))}
			}, ""},
			{"pids negative", func(s *specs.Spec) {
				resources(s).Pids = &specs.LinuxPids{Limit: ptr(int64(-2))}
			}, "Error linux.resources.pids.limit: found -2; allowed: 0 to 4194304, or -1 for no limit"},
			{"pids too great", func(s *specs.Spec) {
				resources(s).Pids = &specs.LinuxPids{Limit: ptr(int64(4194305))}
			}, "Error linux.resources.pids.limit: found 4194305; allowed: 0 to 4194304, or -1 for no limit"},
			{"block io", func(s *specs.Spec) {
				resources(s).BlockIO = &specs.LinuxBlockIO{
					Weight:                ptr(uint16(10)),
					LeafWeight:            ptr(uint16(1000)),
					WeightDevice:          []specs.LinuxWeightDevice{{LeafWeight: ptr(uint16(1))}},
					ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 1}},
				}
			}, ""},
			{"block weights", func(s *specs.Spec) {
				resources(s).BlockIO = &specs.LinuxBlockIO{
					Weight:     ptr(uint16(1001)),
					LeafWeight: ptr(uint16(1001)),
					WeightDevice: []specs.LinuxWeightDevice{
						{Weight: ptr(uint16(1001))},
						{LeafWeight: ptr(uint16(1001))},
					},
				}
			}, "Error linux.resources.blockIO.weight: found 1001; allowed: 1 to 1000" + "\n" +
				"Error linux.resources.blockIO.leafWeight: found 1001; allowed: 1 to 1000" + "\n" +
				"Error linux.resources.blockIO.weightDevice[0].weight: found 1001; allowed: 1 to 1000" + "\n" +
				"Error linux.resources.blockIO.weightDevice[1].leafWeight: found 1001; allowed: 1 to 1000"},
			{"block device without weight", func(s *specs.Spec) {
				resources(s).BlockIO = &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{}}}
			}, "Error linux.resources.blockIO.weightDevice[0]: found neither weight nor leafWeight; allowed: at least one of weight and leafWeight"},
			{"block devices", func(s *specs.Spec) {
				d := []specs.LinuxThrottleDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: -1}}}
				e := []specs.LinuxThrottleDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Minor: 1 << 20}}}
				resources(s).BlockIO = &specs.LinuxBlockIO{
					ThrottleReadBpsDevice: d, ThrottleWriteBpsDevice: e,
					ThrottleReadIOPSDevice: d, ThrottleWriteIOPSDevice: e,
				}
			}, "Error linux.resources.blockIO.throttleReadBpsDevice[0].major: found -1; allowed: 0 to 4095" +
				"\n" +
				"Error linux.resources.blockIO.throttleWriteBpsDevice[0].minor: found 1048576; allowed: 0 to 1048575" + "\n" +
				"Error linux.resources.blockIO.throttleReadIOPSDevice[0].major: found -1; allowed: 0 to 4095" +
				"\n" +
				"Error linux.resources.blockIO.throttleWriteIOPSDevice[0].minor: found 1048576; allowed: 0 to 1048575"},
			{"huge pages", func(s *specs.Spec) {
				resources(s).HugepageLimits = []specs.LinuxHugepageLimit{
					{Pagesize: "2MB"},
					{Pagesize: "64KB"},
					{Pagesize: "1GB"},
				}
			}, ""},
			{"huge page size", func(s *specs.Spec) {
				resources(s).HugepageLimits = []specs.LinuxHugepageLimit{
					{Pagesize: "64kB"},
					{Pagesize: "02MB"},
					{Pagesize: ""},
					{Pagesize: "MB"},
					{Pagesize: "2M"},
				}
			}, `Error linux.resources.hugepageLimits[0].pageSize: found "64kB"; allowed: <size><K, M or G>B, such as 64KB, 2MB or 1GB` + "\n" +
				`Error linux.resources.hugepageLimits[1].pageSize: found "02MB"; allowed: <size><K, M or G>B, such as 64KB, 2MB or 1GB` + "\n" +
				`Error linux.resources.hugepageLimits[2].pageSize: found nothing; allowed: <size><K, M or G>B, such as 64KB, 2MB or 1GB` + "\n" +
				`Error linux.resources.hugepageLimits[3].pageSize: found "MB"; allowed: <size><K, M or G>B, such as 64KB, 2MB or 1GB` + "\n" +
				`Error linux.resources.hugepageLimits[4].pageSize: found "2M"; allowed: <size><K, M or G>B, such as 64KB, 2MB or 1GB`},
			{"network", func(s *specs.Spec) {
				resources(s).Network = &specs.LinuxNetwork{
					Priorities: []specs.LinuxInterfacePriority{{Name: "eth0"}, {Name: ""}, {Name: "a b"}},
				}
			}, `Error linux.resources.network.priorities[1].name: found nothing; allowed: a network device's name: 1 to 15 bytes without "/", ":" or white space` + "\n" +
				`Error linux.resources.network.priorities[2].name: found "a b"; allowed: a network device's name: 1 to 15 bytes without "/", ":" or white space`},
			{"rdma", func(s *specs.Spec) {
				resources(s).Rdma = map[string]specs.LinuxRdma{"mlx5_1": {HcaObjects: ptr(uint32(1))}}
			}, ""},
			{"rdma without limits", func(s *specs.Spec) {
				resources(s).Rdma = map[string]specs.LinuxRdma{"mlx5_1": {}}
			}, `Error linux.resources.rdma["mlx5_1"]: found neither hcaHandles nor hcaObjects; allowed: at least one of hcaHandles and hcaObjects`},
			{"rdma name", func(s *specs.Spec) {
				resources(s).Rdma = map[string]specs.LinuxRdma{"a b": {HcaHandles: ptr(uint32(1))}}
			}, `Error linux.resources.rdma["a b"]: found the device "a b"; allowed: a device's name without white space`},
			{"unified", func(s *specs.Spec) {
				resources(s).Unified = map[string]string{
					"memory.high": "1",
					"io.max":      "259:0 rbps=2097152\n253:0 rbps=1", "new_one": "x",
				}
			}, ""},
			{"unified path", func(s *specs.Spec) {
				resources(s).Unified = map[string]string{"../memory.max": "1"}
			}, `Error linux.resources.unified["../memory.max"]: found the file "../memory.max"; allowed: the name of a file in the container's cgroup, such as "memory.high"`},
			{"unified dots", func(s *specs.Spec) {
				resources(s).Unified = map[string]string{"..": "1"}
			}, `Error linux.resources.unified[".."]: found the file ".."; allowed: the name of a file in the container's cgroup, such as "memory.high"`},
			{"unified procs", func(s *specs.Spec) {
				resources(s).Unified = map[string]string{"cgroup.procs": "1"}
			}, `Warning linux.resources.unified["cgroup.procs"]: found "1"; allowed: nothing: it moves the host's processes into the container's limits`},
		}},
		{"intelRdt", []rule{
			{"good", func(s *specs.Spec) {
				s.Linux.IntelRdt = &specs.LinuxIntelRdt{
					ClosID: "guaranteed_group", L3CacheSchema: "L3:0=7f0",
					MemBwSchema: "MB:0=20;1=70", Schemata: []string{"L3:0=7f0;1=1f"},
				}
			}, ""},
			{"default class", func(s *specs.Spec) {
				s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "/"}
			}, ""},
			{"dots", func(s *specs.Spec) {
				s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: ".."}
			}, `Error linux.intelRdt.closID: found ".."; allowed: the name of a directory in resctrl, or "/" for its root`},
			{"slash", func(s *specs.Spec) {
				s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "a/b"}
			}, `Error linux.intelRdt.closID: found "a/b"; allowed: the name of a directory in resctrl, or "/" for its root`},
			{"l3", func(s *specs.Spec) {
				s.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "0=7f0"}
			}, `Warning linux.intelRdt.l3CacheSchema: found "0=7f0"; allowed: one line that starts with "L3:"`},
			{"mb", func(s *specs.Spec) {
				s.Linux.IntelRdt = &specs.LinuxIntelRdt{MemBwSchema: "L3:0=1"}
			}, `Error linux.intelRdt.memBwSchema: found "L3:0=1"; allowed: one line that starts with "MB:"`},
			{"mb newline", func(s *specs.Spec) {
				s.Linux.IntelRdt = &specs.LinuxIntelRdt{MemBwSchema: "MB:0=20\nL3:0=1"}
			}, `Error linux.intelRdt.memBwSchema: found "MB:0=20\nL3:0=1"; allowed: one line that starts with "MB:"`},
			{"schemata newline", func(s *specs.Spec) {
				s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"L3:0=1", "L2:0=1\n"}}
			}, `Error linux.intelRdt.schemata[1]: found "L2:0=1\n"; allowed: one line without a newline`},
		}},
		{"memory policy", []rule{
			{"good", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{
					Mode: specs.MpolInterleave, Nodes: "2-3",
					Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes},
				})
			}, ""},
			{"preferred without nodes", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred})
			}, ""},
			{"mode", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{Mode: "MPOL_BEST"})
			}, `Error linux.memoryPolicy.mode: found "MPOL_BEST"; allowed: MPOL_ and one of DEFAULT, BIND, INTERLEAVE, WEIGHTED_INTERLEAVE, PREFERRED, PREFERRED_MANY, LOCAL`},
			{"no mode", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{})
			}, "Error linux.memoryPolicy.mode: found nothing; allowed: MPOL_ and one of DEFAULT, BIND, INTERLEAVE, WEIGHTED_INTERLEAVE, PREFERRED, PREFERRED_MANY, LOCAL"},
			{"nodes of default", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{Mode: specs.MpolDefault, Nodes: "0"})
			}, `Error linux.memoryPolicy.nodes: found "0"; allowed: nothing with MPOL_DEFAULT`},
			{"bind without nodes", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{Mode: specs.MpolBind})
			}, "Error linux.memoryPolicy.nodes: found nothing; allowed: at least one node with MPOL_BIND"},
			{"nodes", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "x"})
			}, `Error linux.memoryPolicy.nodes: found "x"; allowed: numbers and ascending ranges separated by commas, such as "0-3,7"`},
			{"flags", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{
					Mode: specs.MpolBind, Nodes: "0",
					Flags: []specs.MemoryPolicyFlagType{"MPOL_F_X"},
				})
			}, `Error linux.memoryPolicy.flags[0]: found "MPOL_F_X"; allowed: one of MPOL_F_NUMA_BALANCING, MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES`},
			{"both flags", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{
					Mode: specs.MpolBind, Nodes: "0",
					Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes, specs.MpolFRelativeNodes},
				})
			}, "Error linux.memoryPolicy.flags: found MPOL_F_STATIC_NODES beside MPOL_F_RELATIVE_NODES; allowed: one of the two"},
			{"balancing", func(s *specs.Spec) {
				policy(s, specs.LinuxMemoryPolicy{
					Mode: specs.MpolInterleave, Nodes: "0",
					Flags: []specs.MemoryPolicyFlagType{specs.MpolFNumaBalancing},
				})
			}, `Error linux.memoryPolicy.flags[0]: found "MPOL_F_NUMA_BALANCING" with MPOL_INTERLEAVE; allowed: it only with MPOL_BIND and MPOL_PREFERRED_MANY`},
		}},
		{"sysctl", []rule{
			{"good", func(s *specs.Spec) {
				sysctls(s, "net.ipv4.ip_forward", "1", "net/ipv4/conf/eth0.100/rp_filter", "1",
					"kernel.shm_rmid_forced", "1", "kernel.msgmax", "1", "kernel.sem", "1 2 3 4",
					"fs.mqueue.msg_max", "1", "kernel.domainname", "x")
			}, ""},
			{"no network namespace", func(s *specs.Spec) {
				without(s, specs.NetworkNamespace)
				sysctls(s, "net.core.somaxconn", "1")
			}, `Error linux.sysctl["net.core.somaxconn"]: found no network namespace; allowed: it only if linux.namespaces has one of type network`},
			{"no ipc namespace", func(s *specs.Spec) {
				without(s, specs.IPCNamespace)
				sysctls(s, "kernel.shmmax", "1", "kernel.msgmni", "1", "kernel.sem", "1",
					"fs.mqueue.queues_max", "1")
			}, `Error linux.sysctl["fs.mqueue.queues_max"]: found no ipc namespace; allowed: it only if linux.namespaces has one of type ipc` + "\n" +
				`Error linux.sysctl["kernel.msgmni"]: found no ipc namespace; allowed: it only if linux.namespaces has one of type ipc` + "\n" +
				`Error linux.sysctl["kernel.sem"]: found no ipc namespace; allowed: it only if linux.namespaces has one of type ipc` + "\n" +
				`Error linux.sysctl["kernel.shmmax"]: found no ipc namespace; allowed: it only if linux.namespaces has one of type ipc`},
			{"no uts namespace", func(s *specs.Spec) {
				without(s, specs.UTSNamespace)
				sysctls(s, "kernel.domainname", "b")
			}, `Error linux.sysctl["kernel.domainname"]: found no uts namespace; allowed: it only if linux.namespaces has one of type uts`},
			{"joined network namespace", func(s *specs.Spec) {
				without(s, specs.NetworkNamespace)
				namespace(s, specs.NetworkNamespace, "/run/netns/a")
				sysctls(s, "net.core.somaxconn", "1")
			}, ""},
			{"host", func(s *specs.Spec) {
				sysctls(s, "vm.overcommit_memory", "1", "kernel.core_pattern", "/x")
			}, `Error linux.sysctl["kernel.core_pattern"]: found a parameter of the whole host; allowed: parameters of namespaces: net.* (network), kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* (ipc), kernel.domainname (uts), user.* (user)` + "\n" +
				`Error linux.sysctl["vm.overcommit_memory"]: found a parameter of the whole host; allowed: parameters of namespaces: net.* (network), kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* (ipc), kernel.domainname (uts), user.* (user)`},
			{"user", func(s *specs.Spec) {
				sysctls(s, "user.max_user_namespaces", "1")
			}, `Error linux.sysctl["user.max_user_namespaces"]: found no user namespace; allowed: it only if linux.namespaces has one of type user`},
			{"user with a user namespace", func(s *specs.Spec) {
				withUser(s, specs.LinuxIDMapping{Size: 1})
				sysctls(s, "user.max_user_namespaces", "1")
			}, ""},
			{"escape", func(s *specs.Spec) {
				sysctls(s, "net/../kernel/core_pattern", "|/x", "net.//.kernel.core_pattern", "|/x")
			}, `Error linux.sysctl["net.//.kernel.core_pattern"]: found the parameter "net.//.kernel.core_pattern"; allowed: a parameter of sysctl(8), such as net.ipv4.ip_forward or net/ipv4/ip_forward` + "\n" +
				`Error linux.sysctl["net/../kernel/core_pattern"]: found the parameter "net/../kernel/core_pattern"; allowed: a parameter of sysctl(8), such as net.ipv4.ip_forward or net/ipv4/ip_forward`},
			{"empty", func(s *specs.Spec) {
				sysctls(s, "", "1")
			}, `Error linux.sysctl[""]: found the parameter ""; allowed: a parameter of sysctl(8), such as net.ipv4.ip_forward or net/ipv4/ip_forward`},
			{"one element", func(s *specs.Spec) {
				sysctls(s, "net", "1")
			}, `Error linux.sysctl["net"]: found the parameter "net"; allowed: a parameter of sysctl(8), such as net.ipv4.ip_forward or net/ipv4/ip_forward`},
			{"twice", func(s *specs.Spec) {
				sysctls(s, "net.ipv4.ip_forward", "1", "net/ipv4/ip_forward", "0")
			}, `Error linux.sysctl["net/ipv4/ip_forward"]: found the parameter that "net.ipv4.ip_forward" is, too; allowed: each parameter once`},
			{"nul", func(s *specs.Spec) {
				sysctls(s, "net.ipv4.ip_forward", "1\x00")
			}, `Error linux.sysctl["net.ipv4.ip_forward"]: found "1\x00"; allowed: a string without NUL bytes`},
			{"hostname", func(s *specs.Spec) {
				sysctls(s, "kernel.hostname", "b")
			}, `Error linux.sysctl["kernel.hostname"]: found "b"; allowed: nothing: hostname is the field for it`},
			{"equal to domainname", func(s *specs.Spec) {
				s.Domainname = "a"
				sysctls(s, "kernel/domainname", "a")
			}, ""},
			{"beside domainname", func(s *specs.Spec) {
				s.Domainname = "a"
				sysctls(s, "kernel.domainname", "b")
			}, `Error linux.sysctl["kernel.domainname"]: found "b"; allowed: nothing beside domainname, which says "a"`},
		}},
		{"seccomp", []rule{
			{"good", func(s *specs.Spec) {
				c := seccomp(s)
				c.DefaultErrnoRet, c.Architectures, c.Flags = ptr(uint(38)), []specs.Arch{
					specs.ArchX86_64,
					specs.ArchSHEB,
				}, []specs.LinuxSeccompFlag{
					"SECCOMP_FILTER_FLAG_TSYNC",
					specs.LinuxSeccompFlagLog,
				}
				c.Syscalls[0].Args = []specs.LinuxSeccompArg{{Index: 5, Op: specs.OpMaskedEqual}}
			}, ""},
			{"no default action", func(s *specs.Spec) {
				seccomp(s).DefaultAction = ""
			}, "Error linux.seccomp.defaultAction: found nothing; allowed: SCMP_ACT_ and one of KILL, KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, ALLOW, LOG, NOTIFY"},
			{"default action", func(s *specs.Spec) {
				seccomp(s).DefaultAction = "SCMP_ACT_DENY"
			}, `Error linux.seccomp.defaultAction: found "SCMP_ACT_DENY"; allowed: SCMP_ACT_ and one of KILL, KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, ALLOW, LOG, NOTIFY`},
			{"action", func(s *specs.Spec) {
				seccomp(s).Syscalls[0].Action = "ALLOW"
			}, `Error linux.seccomp.syscalls[0].action: found "ALLOW"; allowed: SCMP_ACT_ and one of KILL, KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, ALLOW, LOG, NOTIFY`},
			{"default errno of allow", func(s *specs.Spec) {
				c := seccomp(s)
				c.DefaultAction, c.DefaultErrnoRet = specs.ActAllow, ptr(uint(1))
			}, "Error linux.seccomp.defaultErrnoRet: found 1 with SCMP_ACT_ALLOW; allowed: nothing, unless the action is SCMP_ACT_ERRNO or SCMP_ACT_TRACE"},
			{"errno of kill", func(s *specs.Spec) {
				c := seccomp(s)
				c.Syscalls[0].Action, c.Syscalls[0].ErrnoRet = specs.ActKill, ptr(uint(1))
			}, "Error linux.seccomp.syscalls[0].errnoRet: found 1 with SCMP_ACT_KILL; allowed: nothing, unless the action is SCMP_ACT_ERRNO or SCMP_ACT_TRACE"},
			{"errno too great", func(s *specs.Spec) {
				seccomp(s).DefaultErrnoRet = ptr(uint(4096))
			}, "Error linux.seccomp.defaultErrnoRet: found 4096; allowed: 0 to 4095"},
			{"trace value too great", func(s *specs.Spec) {
				c := seccomp(s)
				c.Syscalls[0].Action, c.Syscalls[0].ErrnoRet = specs.ActTrace, ptr(uint(65536))
			}, "Error linux.seccomp.syscalls[0].errnoRet: found 65536; allowed: 0 to 65535"},
			{"architecture", func(s *specs.Spec) {
				seccomp(s).Architectures = []specs.Arch{"amd64"}
			}, `Error linux.seccomp.architectures[0]: found "amd64"; allowed: an architecture of libseccomp, such as SCMP_ARCH_X86_64 or SCMP_ARCH_AARCH64`},
			{"flag", func(s *specs.Spec) {
				seccomp(s).Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_NEW_LISTENER"}
			}, `Error linux.seccomp.flags[0]: found "SECCOMP_FILTER_FLAG_NEW_LISTENER"; allowed: SECCOMP_FILTER_FLAG_ and one of TSYNC, LOG, SPEC_ALLOW, WAIT_KILLABLE_RECV`},
			{"killable without notify", func(s *specs.Spec) {
				seccomp(s).Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}
			}, `Warning linux.seccomp.flags[0]: found "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"; allowed: it only beside the action SCMP_ACT_NOTIFY: it is left out`},
			{"notify", func(s *specs.Spec) {
				c := seccomp(s)
				c.Syscalls[0].Action, c.ListenerPath, c.ListenerMetadata, c.Flags = specs.ActNotify,
					"/run/x.sock", "m", []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}
			}, ""},
			{"notify without listener", func(s *specs.Spec) {
				seccomp(s).Syscalls[0].Action = specs.ActNotify
			}, "Error linux.seccomp.listenerPath: found nothing; allowed: the path of a socket, since SCMP_ACT_NOTIFY is used"},
			{"metadata without listener", func(s *specs.Spec) {
				seccomp(s).ListenerMetadata = "m"
			}, `Error linux.seccomp.listenerMetadata: found "m"; allowed: nothing, unless listenerPath is set`},
			{"no names", func(s *specs.Spec) {
				seccomp(s).Syscalls[0].Names = nil
			}, "Error linux.seccomp.syscalls[0].names: found nothing; allowed: at least one system call's name"},
			{"empty name", func(s *specs.Spec) {
				seccomp(s).Syscalls[0].Names = []string{"read", ""}
			}, `Error linux.seccomp.syscalls[0].names[1]: found ""; allowed: a system call's name`},
			{"unknown name", func(s *specs.Spec) {
				seccomp(s).Syscalls[0].Names = []string{"read", "brand_new_call"}
			}, `Warning linux.seccomp.syscalls[0].names[1]: found "brand_new_call"; allowed: a system call that the runtime knows; this one is left out`},
			{"unknown name that fails", func(s *specs.Spec) {
				seccomp(s).Syscalls[0].Names = []string{"read", "brand_new_call"}
				s.Annotations = map[string]string{"run.oci.seccomp_fail_unknown_syscall": "1"}
			}, `Error linux.seccomp.syscalls[0].names[1]: found "brand_new_call"; allowed: a system call that the runtime knows, as annotations["run.oci.seccomp_fail_unknown_syscall"] asks`},
			{"argument index", func(s *specs.Spec) {
				seccomp(s).Syscalls[0].Args = []specs.LinuxSeccompArg{
					{Op: specs.OpEqualTo},
					{Index: 6, Op: specs.OpEqualTo},
				}
			}, "Error linux.seccomp.syscalls[0].args[1].index: found 6; allowed: 0 to 5"},
			{"operator", func(s *specs.Spec) {
				seccomp(s).Syscalls[0].Args = []specs.LinuxSeccompArg{{Op: "EQ"}}
			}, `Error linux.seccomp.syscalls[0].args[0].op: found "EQ"; allowed: SCMP_CMP_ and one of NE, LT, LE, EQ, GE, GT, MASKED_EQ`},
			{"no operator", func(s *specs.Spec) {
				seccomp(s).Syscalls[0].Args = []specs.LinuxSeccompArg{{}}
			}, "Error linux.seccomp.syscalls[0].args[0].op: found nothing; allowed: SCMP_CMP_ and one of NE, LT, LE, EQ, GE, GT, MASKED_EQ"},
		}},
		{"rootfs", []rule{
			{"propagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "unbindable" }, ""},
			{"recursive propagation", func(s *specs.Spec) {
				s.Linux.RootfsPropagation = "rslave"
			}, `Warning linux.rootfsPropagation: found "rslave"; allowed: one of shared, slave, private, unbindable; it is read as the recursive form`},
			{"unknown propagation", func(s *specs.Spec) {
				s.Linux.RootfsPropagation = "public"
			}, `Error linux.rootfsPropagation: found "public"; allowed: one of shared, slave, private, unbindable`},
			{"paths", func(s *specs.Spec) {
				s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
			}, ""},
			{"masked paths", func(s *specs.Spec) {
				s.Linux.MaskedPaths = []string{"/proc/kcore", "proc/keys", ""}
			}, `Error linux.maskedPaths[1]: found "proc/keys"; allowed: an absolute path in the container` +
				"\n" +
				`Error linux.maskedPaths[2]: found nothing; allowed: an absolute path in the container`},
			{"readonly paths", func(s *specs.Spec) {
				s.Linux.ReadonlyPaths = []string{"proc/sys"}
			}, `Error linux.readonlyPaths[0]: found "proc/sys"; allowed: an absolute path in the container`},
			{"masked root", func(s *specs.Spec) {
				s.Linux.MaskedPaths = []string{"//."}
			}, `Error linux.maskedPaths[0]: found "//."; allowed: a path below "/"`},
			{"nul in masked path", func(s *specs.Spec) {
				s.Linux.MaskedPaths = []string{"/\x00"}
			}, `Error linux.maskedPaths[0]: found "/\x00"; allowed: an absolute path in the container`},
			{"mount label", func(s *specs.Spec) {
				s.Linux.MountLabel = "a\x00"
			}, `Error linux.mountLabel: found "a\x00"; allowed: a string without NUL bytes`},
		}},
		{"personality", []rule{
			{"good", func(s *specs.Spec) {
				s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
			}, ""},
			{"domain", func(s *specs.Spec) {
				s.Linux.Personality = &specs.LinuxPersonality{Domain: "LINUX64"}
			}, `Error linux.personality.domain: found "LINUX64"; allowed: LINUX or LINUX32`},
			{"no domain", func(s *specs.Spec) {
				s.Linux.Personality = &specs.LinuxPersonality{}
			}, "Error linux.personality.domain: found nothing; allowed: LINUX or LINUX32"},
			{"flags", func(s *specs.Spec) {
				s.Linux.Personality = &specs.LinuxPersonality{
					Domain: specs.PerLinux,
					Flags:  []specs.LinuxPersonalityFlag{"ADDR_NO_RANDOMIZE"},
				}
			}, `Error linux.personality.flags[0]: found "ADDR_NO_RANDOMIZE"; allowed: no flags: the specification has none yet`},
		}},
	} {
		for _, r := range section.rules {
			t.Run(section.name+"/"+r.name, func(t *testing.T) {
				s := good()
				r.mutate(s)
				check(t, validate.Spec(s, validate.Options{KnownSyscall: known}), r.want)
			})
		}
	}
}

// lines shows faults as the tables have them.
func lines(faults document.Faults) string {
	var b strings.Builder
	for i, f := range faults {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(string(f.Severity) + " " + f.Error())
	}
	return b.String()
}

func check(t *testing.T, faults document.Faults, want string) {
	t.Helper()
	if got := lines(faults); got != want {
		t.Errorf("faults:\n%s\nwant:\n%s", got, want)
	}
}
