// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/accounts"
)

// outside returns a directory of the host that an image tries to reach, and what is in it.
func (w *world) outside() (dir string, contents func() string) {
	w.t.Helper()
	dir = filepath.Join(w.dir, "outside")
	w.must(os.MkdirAll(filepath.Join(dir, "pts"), 0o755))
	w.must(os.WriteFile(filepath.Join(dir, "file"), []byte("the host's"), 0o644))
	return dir, func() string {
		var b strings.Builder
		w.must(filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err == nil && info.Mode().IsRegular() {
				var data []byte
				data, err = os.ReadFile(path)
				fmt.Fprintf(&b, "%s %s %s\n", path, info.Mode(), data)
			} else {
				fmt.Fprintf(&b, "%s\n", path)
			}
			return err
		}))
		return b.String()
	}
}

// TestKernelFilesystemsOnSymlinks: CVE-2019-16884, CVE-2019-19921, CVE-2023-27561: a procfs
// elsewhere leaves paths unmasked.
func TestKernelFilesystemsOnSymlinks(t *testing.T) {
	for path, mount := range map[string]string{
		"/proc": "mounts[0] (/proc)",
		"/sys":  "mounts[5] (/sys)",
	} {
		t.Run(path[1:], func(t *testing.T) {
			w := newWorld(t)
			w.must(os.MkdirAll(w.file("/elsewhere"), 0o755))
			w.must(os.Symlink("/elsewhere", w.file(path)))
			w.fails(w.sh("true"), mount+": openat2: too many levels of symbolic links")
		})
	}
}

// TestDevOnASymlink: CVE-2026-41579, CVE-2026-47766: /dev of the image leads out.
func TestDevOnASymlink(t *testing.T) {
	for name, up := range map[string]string{"absolute": "", "relative": "../../../../../../../../.."} {
		for _, mounted := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s,mounted=%v", name, mounted), func(t *testing.T) {
				w := newWorld(t)
				dir, contents := w.outside()
				before := contents()
				w.must(os.Symlink(up+dir, w.file("/dev")))
				spec := w.sh("echo it ran")
				if !mounted {
					spec.Mounts = spec.Mounts[:1]
				}
				// It may fail or make the path inside the root; it does nothing outside.
				if out, _, err := w.try(spec); err == nil && out != "it ran\n" {
					t.Errorf("it printed %q", out)
				}
				// The same where the link's target is inside as well.
				w.must(os.MkdirAll(w.file(dir), 0o755))
				if out, _, err := w.try(spec); err != nil || out != "it ran\n" {
					t.Errorf("with the link's target inside: %q, %v", out, err)
				}
				if after := contents(); after != before {
					t.Errorf("outside, before:\n%s\nand after:\n%s", before, after)
				}
			})
		}
	}
}

// TestDestinationThroughASymlink: mounts, devices, masked paths and the working directory stay
// inside, wherever the image's links point.
func TestDestinationThroughASymlink(t *testing.T) {
	w := newWorld(t)
	dir, contents := w.outside()
	before := contents()
	source := filepath.Join(w.dir, "source")
	w.must(os.MkdirAll(source, 0o755))
	w.must(os.MkdirAll(w.file(dir), 0o755)) // what the link means inside
	w.must(os.Symlink(dir, w.file("/link")))
	w.must(os.Symlink("../../../../../../../../../.."+dir, w.file("/up")))
	spec := w.sh("ls " + dir + "; pwd; grep -c outside /proc/self/mountinfo")
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/link/bound", Type: "bind", Source: source, Options: []string{"rbind"}},
		specs.Mount{Destination: "/up/new/tmpfs", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/link/../../../../link/dots", Type: "tmpfs", Source: "tmpfs"},
	)
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/link/null", Type: "c", Major: 1, Minor: 3}}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = []string{"/link/file"}, []string{"/up/file"}
	spec.Process.Cwd = "/link/cwd"
	out := w.run(spec)
	if !strings.HasPrefix(out, "bound\ncwd\n") || !strings.Contains(out, "null\n") {
		t.Errorf("it printed:\n%s", out)
	}
	if after := contents(); after != before {
		t.Errorf("outside, before:\n%s\nand after:\n%s", before, after)
	}
	// What a link leads to that is not there is made inside, like any other place, and nowhere
	// else.
	nowhere := filepath.Join(w.dir, "made/by/link")
	for name, above := range map[string]string{
		"/dangling": "",
		"/climbing": "../../../../../../../../../..",
	} {
		place := nowhere + name
		w.must(os.Symlink(above+place, w.file(name)))
		spec = w.sh("ls " + place)
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: name, Type: "bind",
			Source: filepath.Dir(source), Options: []string{"rbind"},
		})
		if out, _, err := w.try(spec); err != nil || !strings.Contains(out, "source") {
			t.Errorf("%s: it printed %q, %v", name, out, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(w.dir, "made")); err == nil {
		t.Error("the link's target was made on the host")
	}
}

// TestWorkingDirectoryIsADescriptor: no working directory leads to a descriptor of the runtime
// (CVE-2024-21626).
func TestWorkingDirectoryIsADescriptor(t *testing.T) {
	w := newWorld(t)
	for n := 3; n <= 32; n++ {
		for _, proc := range []string{"self", "thread-self"} {
			spec := w.sh("pwd; ls")
			spec.Process.Cwd = fmt.Sprintf("/proc/%s/fd/%d", proc, n)
			w.fails(spec, "process.cwd: ")
		}
	}
	w.must(os.Symlink("/proc/self/fd/7", w.file("/cwd")))
	spec := w.sh("pwd; ls")
	spec.Process.Cwd = "/cwd"
	w.fails(spec, "process.cwd: ")
	// CVE-2026-55686 (podman): one below a link of the image is not created on the host.
	dir, contents := w.outside()
	before, owner := contents(), ownerOf(t, dir)
	w.must(os.Symlink(dir, w.file("/link")))
	spec.Process.Cwd = "/link/cwd"
	spec.Process.User = specs.User{UID: 1000, GID: 1000}
	w.fails(spec, "process.cwd: openat2: no such file or directory")
	w.must(os.MkdirAll(w.file(dir), 0o755)) // what the link means inside
	w.prints(spec, dir+"/cwd\n")
	if contents() != before || ownerOf(t, dir) != owner {
		t.Errorf("outside is:\n%s%s\nbefore:\n%s%s", contents(), ownerOf(t, dir), before, owner)
	}
}

// TestMountedPasswd: the home directory is that of the passwd file that the container sees, which a
// mount may have brought.
func TestMountedPasswd(t *testing.T) {
	w := newWorld(t)
	w.write("/etc/passwd", "root:x:0:0::/of-the-image:/bin/sh\n", 0o644)
	w.must(os.MkdirAll(filepath.Join(w.bundle(), "etc"), 0o755))
	w.must(os.WriteFile(filepath.Join(w.bundle(), "etc/passwd"),
		[]byte("root:x:0:0::/of-the-mount:/bin/sh\n"), 0o644))
	w.must(os.MkdirAll(filepath.Join(w.dir, "empty"), 0o755))
	bind := func(source, destination string) specs.Mount {
		return specs.Mount{
			Destination: destination, Type: "bind", Source: source,
			Options: []string{"rbind"},
		}
	}
	for name, c := range map[string]struct {
		mounts []specs.Mount
		masked []string
		want   string
	}{
		"none": {nil, nil, "/of-the-image"},
		"the file": {
			[]specs.Mount{bind(filepath.Join(w.bundle(), "etc/passwd"), "/etc/passwd")},
			nil, "/of-the-mount",
		},
		"its folder":      {[]specs.Mount{bind("etc", "/etc/")}, nil, "/of-the-mount"},
		"another":         {[]specs.Mount{bind("etc", "/etc/passwd.d")}, nil, "/of-the-image"},
		"an empty folder": {[]specs.Mount{bind(filepath.Join(w.dir, "empty"), "/etc")}, nil, "/"},
		"the last": {[]specs.Mount{
			bind(filepath.Join(w.dir, "empty"), "/etc"),
			bind("etc", "/etc"),
		}, nil, "/of-the-mount"},
		"tmpfs": {[]specs.Mount{{Destination: "/etc", Type: "tmpfs", Source: "tmpfs"}}, nil, "/"},
		"tmpcopyup": {[]specs.Mount{{
			Destination: "/etc", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"tmpcopyup"},
		}}, nil, "/of-the-image"},
		"masked": {nil, []string{"/etc"}, "/"},
	} {
		t.Run(name, func(t *testing.T) {
			v := *w
			v.t = t
			spec := mounted(w.sh("echo $HOME"), c.mounts...)
			spec.Linux.MaskedPaths = c.masked
			v.prints(spec, c.want+"\n")
		})
	}
}

// TestPasswd: one that is a fifo hangs nothing, nor does one of endless size or a link to the
// host's; and nothing is taken from any of them.
func TestPasswd(t *testing.T) {
	for name, make := range map[string]func(w *world, path string) error{
		"fifo": func(_ *world, path string) error { return unix.Mkfifo(path, 0o666) },
		// One that somebody has open, and has written to: it would be read, or waited for.
		"open fifo": func(w *world, path string) error {
			if err := unix.Mkfifo(path, 0o666); err != nil {
				return err
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err == nil {
				w.t.Cleanup(func() { f.Close() })
				_, err = f.WriteString("root:x:0:0::/stolen:/bin/sh\n")
			}
			return err
		},
		"huge": func(_ *world, path string) error {
			line := "u:x:77:77::/home:/bin/sh\n"
			return os.WriteFile(path, []byte(strings.Repeat(line, accounts.MaxFile/len(line)+1)+
				"root:x:0:0::/stolen:/bin/sh\n"), 0o644)
		},
		"folder": func(_ *world, path string) error { return os.Mkdir(path, 0o755) },
		"device": func(_ *world, path string) error {
			return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
		},
		"outside": func(w *world, path string) error {
			file := filepath.Join(w.dir, "passwd")
			if err := os.WriteFile(file, []byte("root:x:0:0::/stolen:/bin/sh\n"), 0o644); err != nil {
				return err
			}
			return os.Symlink("../../../../../../../../.."+file, path)
		},
		"sparse": func(_ *world, path string) error {
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(path, 1<<40)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.must(os.MkdirAll(w.file("/etc"), 0o755))
			w.must(make(w, w.file("/etc/passwd")))
			w.save(w.sh("echo $HOME"))
			var out string
			var status unix.WaitStatus
			var err error
			w.answers("the container's start", func() { out, status, err = w.tryWith(CreateOptions{}) })
			if err != nil || status != 0 || out != "/\n" {
				t.Errorf("it printed %q, and ended with %v, %v; want /", out, status, err)
			}
		})
	}
}

// TestFakeDefaultDevice: CVE-2025-31133: a file of the image at /dev/null is neither used nor
// mistaken for the device.
func TestFakeDefaultDevice(t *testing.T) {
	w := newWorld(t)
	w.must(os.MkdirAll(w.file("/dev"), 0o755))
	w.must(os.Symlink("/proc/sysrq-trigger", w.file("/dev/null")))
	spec := w.sh("true")
	spec.Mounts = spec.Mounts[:1] // without a /dev of its own
	w.fails(spec, "linux.devices (default): expect: file exists")

	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/dev", Type: "bind",
		Source: w.file("/dev"), Options: []string{"rbind"},
	})
	spec.Linux.MaskedPaths = []string{"/proc/version"}
	spec.Process.Args[2] = "cat /proc/version; stat -c %t:%T /proc/version"
	w.prints(spec, "1:3\n") // the host's own

	// The device that is asked for and there already is fine.
	spec = w.sh("stat -c %t:%T /dev/null /dev/x")
	spec.Mounts = spec.Mounts[:1]
	w.must(os.Remove(w.file("/dev/null")))
	w.must(unix.Mknod(w.file("/dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	w.must(unix.Mknod(w.file("/dev/x"), unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))))
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 10, Minor: 229}}
	w.prints(spec, "1:3\na:e5\n")
	for what, d := range map[string]specs.LinuxDevice{
		"number": {Type: "c", Major: 10, Minor: 228},
		"kind":   {Type: "b", Major: 10, Minor: 229}, "fifo": {Type: "p"},
	} {
		d.Path = "/dev/x"
		spec.Linux.Devices[0] = d
		t.Log(what)
		w.fails(spec, "linux.devices[0] (/dev/x): expect: file exists")
	}
}

// TestDevicesOfTheImageAreLinksToMounts: CVE-2026-88264, CVE-2026-88265 (crun): without a mount on
// /dev, the image's /dev/null and /dev/console lead to a file of the host, by a bind mount of the
// container or by a path of the host.
func TestDevicesOfTheImageAreLinksToMounts(t *testing.T) {
	w := newWorld(t)
	dir, contents := w.outside()
	file := filepath.Join(dir, "file")
	socket := w.listen()
	for name, target := range map[string]string{
		"bind mount": "/data/file", "host": file, "climbing": "../../../../../../../../.." + file,
		"nowhere on the host": filepath.Join(dir, "new"),
	} {
		for _, device := range []string{"/dev/null", "/dev/console"} {
			t.Run(name+" "+filepath.Base(device), func(t *testing.T) {
				v := *w
				v.t = t
				v.must(os.RemoveAll(v.file("/dev")))
				v.must(os.Mkdir(v.file("/dev"), 0o755))
				v.must(os.Symlink(target, v.file(device)))
				before, owner := contents(), ownerOf(t, file)
				spec := v.sh("echo written > " + device)
				spec.Process.User = specs.User{UID: 1000, GID: 1000}
				spec.Mounts = []specs.Mount{
					spec.Mounts[0],
					{Destination: "/data", Type: "bind", Source: dir, Options: []string{"rbind"}},
					{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
				}
				options, want := CreateOptions{Bundle: v.bundle()}, "linux.devices (default): expect: file exists"
				if device == "/dev/console" {
					spec.Process.Terminal = true
					options.ConsoleSocket = socket
					want = "process.terminal: openat2: too many levels of symbolic links"
				}
				v.save(spec)
				s, err := v.rt.Create(background, v.id, options)
				if err == nil {
					v.end(v.id, s.PID)
				}
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("found %v; want %s", err, want)
				}
				if after := contents(); after != before || ownerOf(t, file) != owner {
					t.Errorf("outside, before:\n%s%v\nand after:\n%s%v", before, owner, after, ownerOf(t, file))
				}
			})
		}
	}
}

// listen returns a console socket that accepts connections and reads nothing.
func (w *world) listen() string {
	w.t.Helper()
	socket := filepath.Join(w.dir, "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	w.must(err)
	w.t.Cleanup(func() { unix.Close(fd) })
	w.must(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}))
	w.must(unix.Listen(fd, 16))
	return socket
}

// ownerOf returns the owner and the mode of a file.
func ownerOf(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode)
}

// TestConsoleIsASymlink: CVE-2025-52565 and its like: nothing is mounted where the image's link
// leads.
func TestConsoleIsASymlink(t *testing.T) {
	w := newWorld(t)
	socket := w.listen()
	source := filepath.Join(w.dir, "dev")
	w.must(os.MkdirAll(filepath.Join(source, "pts"), 0o755))
	w.must(os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(source, "console")))
	spec := w.sh("true")
	spec.Process.Terminal = true
	spec.Mounts[1] = specs.Mount{
		Destination: "/dev", Type: "bind", Source: source,
		Options: []string{"rbind"},
	}
	spec.Mounts = spec.Mounts[:3]
	w.save(spec)
	_, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle(), ConsoleSocket: socket})
	if err == nil || !strings.Contains(err.Error(),
		"process.terminal: openat2: too many levels of symbolic links") {
		t.Errorf("found %v", err)
	}
}

// TestFailuresLeaveNothing has a document for each kind of step that can fail; newWorld counts what
// is left.
func TestFailuresLeaveNothing(t *testing.T) {
	w := newWorld(t)
	for words, change := range map[string]func(*specs.Spec){
		"mounts[7] (/x): open_tree: no such file or directory": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{
				Destination: "/x", Type: "bind",
				Source: "/does/not/exist", Options: []string{"bind"},
			})
		},
		"mounts[7] (/x): fsopen: no such device": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nosuchfs", Source: "none"})
		},
		"mounts[7] (/x): fsconfig: invalid argument": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{
				Destination: "/x", Type: "tmpfs", Source: "tmpfs",
				Options: []string{"nosuchoption=1"},
			})
		},
		"linux.sysctl.kernel.msgmax: write: invalid argument": func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"kernel.msgmax": "words"}
		},
		"process.cwd: mkdirat: not a directory": nil,
	} {
		spec := w.sh("true")
		if change != nil {
			change(spec)
			w.fails(spec, words)
			continue
		}
		w.write("/file", "", 0o644)
		spec.Process.Cwd = "/file/below"
		w.fails(spec, "process.cwd: ")
	}
}
