// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// exchange swaps pairs of names in a directory, over and over, until the test ends: what a
// container does that shares the directory.
func (w *world) exchange(dir string, pairs ...[2]string) {
	w.t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	w.must(err)
	var stop atomic.Bool
	ended := make(chan int)
	go func() {
		swaps := 0
		for !stop.Load() {
			for _, p := range pairs {
				if unix.Renameat2(fd, p[0], fd, p[1], unix.RENAME_EXCHANGE) == nil {
					swaps++
				}
			}
		}
		ended <- swaps
	}()
	w.t.Cleanup(func() {
		stop.Store(true)
		swaps := <-ended
		unix.Close(fd)
		if swaps < 100 {
			w.t.Errorf("no race: only %d swaps", swaps)
		}
	})
}

// rounds calls f so many times, or for so long, whichever is less.
func rounds(t *testing.T, most int, limit time.Duration, f func() (ran bool)) {
	t.Helper()
	n, ran := 0, 0
	for end := time.Now().Add(limit); n < most && time.Now().Before(end) && !t.Failed(); n++ {
		if f() {
			ran++
		}
	}
	t.Logf("%d containers, of which %d ran", n, ran)
}

// TestRacedVolume: CVE-2021-30465, CVE-2024-45310: a directory of a volume, below which the second
// container mounts, is a symbolic link to the host at one moment and a directory at the next.
func TestRacedVolume(t *testing.T) {
	w := newWorld(t)
	outside, contents := w.outside()
	before := contents()
	volume, secret := filepath.Join(w.dir, "volume"), filepath.Join(w.dir, "secret")
	for _, dir := range []string{"volume/target", "secret"} {
		w.must(os.MkdirAll(filepath.Join(w.dir, dir), 0o755))
	}
	w.must(os.WriteFile(filepath.Join(secret, "file"), nil, 0o644))
	w.must(os.Symlink(outside, filepath.Join(volume, "link")))
	// What the link means inside is a directory of the container's.
	w.must(os.MkdirAll(w.file(outside), 0o755))
	w.exchange(volume, [2]string{"target", "link"})
	bind := func(from, to string) specs.Mount {
		return specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"rbind"}}
	}
	spec := mounted(w.sh("test -e "+outside+"/file && echo seen; true"), bind(volume, "/volume"),
		bind(secret, "/volume/target/made/deep"), bind(secret+"/file", "/volume/target/name"),
		specs.Mount{Destination: "/volume/target", Type: "tmpfs", Source: "tmpfs"})
	rounds(t, 300, 20*time.Second, func() bool {
		out, _, err := w.try(spec)
		if out != "" {
			t.Errorf("it printed %q", out)
		}
		if after := contents(); after != before {
			t.Errorf("outside, before:\n%s\nand after:\n%s", before, after)
		}
		return err == nil
	})
}

// TestRacedRoot: the same of the root filesystem, for everything that a container's creation makes
// or opens in it.
func TestRacedRoot(t *testing.T) {
	w := newWorld(t)
	outside, contents := w.outside()
	before := contents()
	w.must(os.MkdirAll(w.file(outside), 0o755))
	w.must(os.MkdirAll(w.file("/swap"), 0o755))
	w.write("/swap/file", "", 0o644)
	w.write("/swap/masked", "", 0o644)
	w.must(os.Symlink("../../../../../../../.."+outside, w.file("/link")))
	w.exchange(w.file("/"), [2]string{"swap", "link"})
	for name, change := range map[string]func(*specs.Spec){
		"tmpfs": func(s *specs.Spec) {
			mounted(s, specs.Mount{
				Destination: "/swap/a/b", Type: "tmpfs", Source: "tmpfs",
				Options: []string{"tmpcopyup"},
			})
		},
		"bind": func(s *specs.Spec) {
			mounted(s, specs.Mount{
				Destination: "/swap/c/d", Type: "bind", Source: w.file("/bin/busybox"),
				Options: []string{"bind"},
			})
		},
		"copied link": func(s *specs.Spec) {
			mounted(s, specs.Mount{
				Destination: "/swap/e/f", Type: "bind", Source: w.file("/bin/sh"),
				Options: []string{"bind", "copy-symlink"},
			})
		},
		"device": func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{
				{Path: "/swap/g/null", Type: "c", Major: 1, Minor: 3},
				{Path: "/swap/fifo", Type: "p"},
			}
		},
		"working directory": func(s *specs.Spec) { s.Process.Cwd = "/swap/h/i" },
		"masked": func(s *specs.Spec) {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/swap/masked", "/swap/file"},
				[]string{"/swap"}
		},
		"nested": func(s *specs.Spec) {
			mounted(s, specs.Mount{Destination: "/swap/n", Type: "tmpfs", Source: "tmpfs"},
				specs.Mount{
					Destination: "/swap/n/file", Type: "bind", Source: w.file("/bin/busybox"),
					Options: []string{"bind"},
				})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := *w
			s.t = t
			spec := w.sh("test -e " + outside + "/file && echo seen; true")
			change(spec)
			rounds(t, 40, 4*time.Second, func() bool {
				out, _, err := s.try(spec)
				if out != "" {
					t.Errorf("it printed %q", out)
				}
				if after := contents(); after != before {
					t.Errorf("outside, before:\n%s\nand after:\n%s", before, after)
				}
				return err == nil
			})
		})
	}
}

// TestRacedKernelFilesystems: CVE-2019-19921, CVE-2023-27561: a procfs is where the document says,
// or nowhere.
func TestRacedKernelFilesystems(t *testing.T) {
	w := newWorld(t)
	for _, dir := range []string{"/proc", "/sys", "/elsewhere"} {
		w.must(os.MkdirAll(w.file(dir), 0o755))
	}
	w.must(os.Symlink("/elsewhere", w.file("/link")))
	w.must(os.Symlink("/elsewhere", w.file("/link2")))
	w.exchange(w.file("/"), [2]string{"proc", "link"}, [2]string{"sys", "link2"})
	spec := w.sh("cd /elsewhere; ls -A")
	spec.Mounts = []specs.Mount{spec.Mounts[0], spec.Mounts[5]}
	rounds(t, 60, 6*time.Second, func() bool {
		out, _, err := w.try(spec)
		if out != "" {
			t.Errorf("a kernel filesystem is elsewhere: it has %q", out)
		}
		return err == nil
	})
}

// TestRacedLiveMounts: a mount added to a running container stays inside, whatever its processes do
// to the destination.
func TestRacedLiveMounts(t *testing.T) {
	w := newWorld(t)
	outside, contents := w.outside()
	before := contents()
	for _, dir := range []string{"/swap", outside} {
		w.must(os.MkdirAll(w.file(dir), 0o755))
	}
	w.must(os.Symlink("../../../../../../../../.."+outside, w.file("/link")))
	w.must(os.Symlink("/proc/self/fd/3", w.file("/magic")))
	s := w.start(w.sleeping(nil))
	w.exchange(w.file("/"), [2]string{"swap", "link"}, [2]string{"swap", "magic"})
	m := []specs.Mount{
		{Destination: "/swap/a/b", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/swap/c", Type: "bind", Source: outside, Options: []string{"rbind", "ro"}},
	}
	rounds(t, 100, 5*time.Second, func() bool {
		err := w.rt.AddMounts(background, w.id, m)
		if after := contents(); after != before {
			t.Errorf("outside, before:\n%s\nand after:\n%s", before, after)
		}
		return err == nil
	})
	if err := unix.Kill(s.PID, 0); err != nil {
		t.Errorf("the container: %v", err)
	}
}

// TestRacedNull: CVE-2025-31133: the image's /dev/null is another file at times, and masks what it
// should with none of them.
func TestRacedNull(t *testing.T) {
	for _, bound := range []bool{true, false} {
		t.Run(fmt.Sprintf("bound=%v", bound), func(t *testing.T) {
			w := newWorld(t)
			dev := w.file("/dev")
			w.must(os.MkdirAll(filepath.Join(dev, "pts"), 0o755))
			w.must(unix.Mknod(filepath.Join(dev, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
			w.must(os.Symlink("/proc/version", filepath.Join(dev, "other")))
			w.exchange(dev, [2]string{"null", "other"})
			spec := w.sh("cat /proc/version; stat -c %t:%T /proc/version")
			spec.Linux.MaskedPaths = []string{"/proc/version"}
			spec.Mounts = spec.Mounts[:1]
			if bound {
				mounted(spec, specs.Mount{
					Destination: "/dev", Type: "bind", Source: dev,
					Options: []string{"rbind"},
				})
			}
			rounds(t, 60, 6*time.Second, func() bool {
				out, _, err := w.try(spec)
				// It may find the link in the device's place, and does not run then.
				if err == nil && out != "1:3\n" {
					t.Errorf("it printed %q", out)
				}
				return err == nil
			})
		})
	}
}

// TestRacedConsole: CVE-2025-52565: /dev/console and /dev/pts are links at times; the terminal is
// mounted over nothing else.
func TestRacedConsole(t *testing.T) {
	w := newWorld(t)
	outside, contents := w.outside()
	before := contents()
	dev := filepath.Join(w.dir, "dev")
	w.must(os.MkdirAll(filepath.Join(dev, "pts"), 0o755))
	w.must(os.WriteFile(filepath.Join(dev, "console"), nil, 0o600))
	w.must(os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(dev, "link")))
	w.must(os.MkdirAll(filepath.Join(dev, "other"), 0o755))
	w.must(os.Symlink(outside, filepath.Join(dev, "link2")))
	w.must(os.MkdirAll(w.file(outside), 0o755))
	w.exchange(dev, [2]string{"console", "link"}, [2]string{"pts", "link2"})
	socket := filepath.Join(w.dir, "s")
	listener, err := net.Listen("unix", socket)
	w.must(err)
	ended := make(chan struct{})
	defer func() { listener.Close(); <-ended }()
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			// Nobody reads what is sent: the terminal is there for as long as the connection.
			defer conn.Close()
		}
	}()
	spec := w.sh("grep -E 'core_pattern|/file' /proc/self/mountinfo > /found; true")
	spec.Process.Terminal = true
	spec.Mounts[1] = specs.Mount{
		Destination: "/dev", Type: "bind", Source: dev,
		Options: []string{"rbind"},
	}
	spec.Mounts = spec.Mounts[:3]
	w.save(spec)
	rounds(t, 60, 6*time.Second, func() bool {
		s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle(), ConsoleSocket: socket})
		if err == nil {
			w.must(w.rt.Start(background, w.id))
			reap(s.PID)
			w.must(w.rt.Delete(background, w.id, true))
			if found, err := os.ReadFile(w.file("/found")); err != nil || len(found) > 0 {
				t.Errorf("mounted over another file: %s, %v", found, err)
			}
		}
		if after := contents(); after != before {
			t.Errorf("outside, before:\n%s\nand after:\n%s", before, after)
		}
		return err == nil
	})
}

// TestFakeProc: CVE-2025-52881: kernel parameters are written to the kernel, also if the document
// or the image replaces /proc.
func TestFakeProc(t *testing.T) {
	w := newWorld(t)
	fake := filepath.Join(w.dir, "fake")
	for _, dir := range []string{"kernel", "net/ipv4"} {
		w.must(os.MkdirAll(filepath.Join(fake, dir), 0o755))
	}
	victim := filepath.Join(fake, "kernel/msgmax")
	w.must(os.WriteFile(victim, []byte("untouched"), 0o644))
	w.must(os.WriteFile(filepath.Join(fake, "other"), []byte("untouched"), 0o644))
	w.must(os.Symlink("../other", filepath.Join(fake, "kernel/link")))
	w.exchange(filepath.Join(fake, "kernel"), [2]string{"msgmax", "link"})
	spec := mounted(w.sh("cat /real/sys/kernel/msgmax"), specs.Mount{
		Destination: "/proc/sys",
		Type:        "bind", Source: fake, Options: []string{"rbind"},
	},
		specs.Mount{Destination: "/real", Type: "proc", Source: "proc"})
	spec.Linux.Sysctl = map[string]string{"kernel.msgmax": "4242"}
	rounds(t, 30, 4*time.Second, func() bool {
		w.prints(spec, "4242\n")
		for _, name := range []string{"kernel/msgmax", "kernel/link", "other"} {
			if data, err := os.ReadFile(filepath.Join(fake, name)); err == nil &&
				string(data) != "untouched" {
				t.Errorf("%s: %q", name, data)
			}
		}
		return true
	})
}
