// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/image"
)

// TestImages: the node's store accepts the tool's image in each format.
func TestImages(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	probe := filepath.Join(dir, "probe")
	if err := os.WriteFile(probe, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := image.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var base string
	for _, format := range []string{"oci-archive", "oci", "docker-archive"} {
		t.Run(format, func(t *testing.T) {
			out := filepath.Join(dir, format)
			args := []string{
				"--busybox", "--add", probe + ":/bin/probe", "--cmd", `["/bin/probe","-x"]`,
				"--env", "A=b", "--user", "1000", "--format", format, "-o",
			}
			if err := run(append(args, out)); err != nil {
				t.Fatal(err)
			}
			img, err := store.Ensure(context.Background(), format+":"+out, image.Default)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(img.Config.Cmd, []string{"/bin/probe", "-x"}) || img.Config.User != "1000" ||
				!slices.Contains(img.Config.Env, "A=b") || len(img.Layers) != 2 {
				t.Errorf("got %+v", img)
			}
			if base == "" {
				base = img.Layers[0]
			}
			if img.Layers[0] != base {
				t.Error("the base layer is not shared")
			}
			if to, err := os.Readlink(filepath.Join(img.Layers[0], "bin/ls")); err != nil ||
				to != "/bin/busybox" {
				t.Errorf("bin/ls: %q, %v", to, err)
			}
			if info, err := os.Stat(filepath.Join(img.Layers[0], "tmp")); err != nil ||
				info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
				t.Errorf("tmp: %v, %v", info, err)
			}
			if info, err := os.Stat(filepath.Join(img.Layers[1], "bin/probe")); err != nil ||
				info.Mode() != 0o755 {
				t.Errorf("bin/probe: %v, %v", info, err)
			}
			if format == "oci" {
				return
			}
			if err := run(append(args, out+"2")); err != nil {
				t.Fatal(err)
			}
			a, _ := os.ReadFile(out)
			b, _ := os.ReadFile(out + "2")
			if len(a) == 0 || !bytes.Equal(a, b) {
				t.Error("the same input gave other bytes")
			}
		})
	}
	t.Run("other architecture", func(t *testing.T) {
		arch := "arm64"
		if runtime.GOARCH == arch {
			arch = "amd64"
		}
		out := filepath.Join(dir, "foreign")
		if err := run([]string{"--add", probe + ":/probe", "--arch", arch, "-o", out}); err != nil {
			t.Fatal(err)
		}
		var pe *image.PlatformError
		if _, err := store.Ensure(context.Background(), "oci-archive:"+out,
			image.Default); !errors.As(err, &pe) {
			t.Errorf("got %v", err)
		}
	})
}

// TestOutputBesideInput: temporary files beside the output do not become part of an image of that
// directory.
func TestOutputBesideInput(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app"), []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "image.tar")
	var images [2][]byte
	for i := range images {
		err := run([]string{"--add", dir + ":/", "--compress", "none", "-o", out})
		if err == nil {
			images[i], err = os.ReadFile(out)
		}
		if err := errors.Join(err, os.Remove(out)); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(images[i], []byte(".image-")) {
			t.Error("the image holds a temporary directory")
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same input gave other bytes")
	}
}

// TestCopyOverHardLink: a file that a later --copy replaces does not take its hard links with it.
func TestCopyOverHardLink(t *testing.T) {
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	err := errors.Join(os.Mkdir(name("root"), 0o755), os.WriteFile(name("root/a"),
		[]byte("of the root"), 0o644), os.WriteFile(name("other"), []byte("another"), 0o644))
	for _, link := range []string{"root/b", "root/c"} {
		err = errors.Join(err, os.Link(name("root/a"), name(link)))
	}
	if err != nil {
		t.Fatal(err)
	}
	tr := tree{}
	if err := errors.Join(tr.copy(name("root"), "/", nil), tr.copy(name("other"), "/a",
		nil)); err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	if err := tr.tar(&layer); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for r := tar.NewReader(&layer); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		content, err2 := io.ReadAll(r)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h.Linkname + ":" + string(content)
	}
	want := map[string]string{"./": ":", "a": ":another", "b": ":of the root", "c": "b:"}
	if !maps.Equal(found, want) {
		t.Errorf("found %q; want %q", found, want)
	}
}

// TestFaults: bad flags are named with what is allowed.
func TestFaults(t *testing.T) {
	for text, args := range map[string]string{
		"-o: found nothing":        "--busybox",
		"neither --busybox":        "-o x",
		"found 0 arguments":        "rootfs -o x",
		"found no directory":       "rootfs /etc/passwd -o x",
		"which is in the root":     "rootfs /etc -o /etc/x.tar",
		`unknown flag: --busybox`:  "rootfs /etc --busybox -o x",
		"--copy keeps all of it":   "--add /dev/null:/null -o x",
		`--format: found "rar"`:    "--busybox --format rar -o x",
		`--env: found "=b"`:        "--busybox --env =b -o x",
		"allowed: SRC:DST":         "--add /nowhere -o x",
		"no such file":             "--add /nowhere:/x -o x",
		`found argument "rest"`:    "--busybox -o x rest",
		"a JSON array of strings:": "--busybox --cmd [1 -o x",
	} {
		if err := run(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want %q", args, err, text)
		}
	}
}

// TestRootfs: a root filesystem arrives in the node's store as it was.
func TestRootfs(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "root:fs") // a colon is nothing special here
	sh := func(script string) string {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-ec", script)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
		return string(out)
	}
	if err := os.Mkdir(root, 0o750); err != nil {
		t.Fatal(err)
	}
	sh(`mkdir -p bin dev home/user tmp empty mnt; echo su >bin/su; chmod 4755 bin/su; echo w >bin/wall; chown 0:5 bin/wall; chmod 2755 bin/wall; chmod 1777 tmp
		ln bin/su bin.hard; ln bin/su a.hard; ln -s su bin/link; chown -h 7:8 bin/link; echo x >home/user/f; chown -R 1000:1001 home/user; chmod 600 home/user/f; touch -d 2001-02-03T04:05:06.5Z home/user/f
		mknod dev/null c 1 3; chmod 666 dev/null; mknod dev/sda b 8 0; chown 0:6 dev/sda; mkfifo dev/pipe; chmod 711 empty; touch -d 2002-01-01 empty; mount -t tmpfs none mnt; echo other >mnt/f`)
	defer unix.Unmount(filepath.Join(root, "mnt"), unix.MNT_DETACH)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	if err := errors.Join(unix.Setxattr(filepath.Join(root, "bin/wall"), "security.capability",
		[]byte(capability), 0), unix.Setxattr(filepath.Join(root, "home"), "user.note", []byte("n"),
		0)); err != nil {
		t.Fatal(err)
	}
	// What find and getfattr say of each file, but for the mount and the sizes of directories.
	describe := func(at string) string {
		out, err := exec.Command("/bin/sh", "-ec",
			`cd "$0"; find . -xdev -path ./mnt -prune -o -printf '%p %y %m %U:%G %n %TY-%Tm-%Td_%TH:%TM:%TS %l\n' | sed '/ d /s/ [0-9]* \([0-9]*-\)/ \1/' | sort; find . -type f | sort | xargs cat; stat -c '%n %t:%T' dev/*`, at).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	out := filepath.Join(dir, "rootfs.tar")
	if err := run([]string{"rootfs", root, "--cmd", "/bin/su", "-o", out}); err != nil {
		t.Fatal(err)
	}
	store, err := image.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	img, err := store.Ensure(context.Background(), "oci-archive:"+out, image.Default)
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Layers) != 1 || !slices.Equal(img.Config.Cmd, []string{"/bin/su"}) {
		t.Fatalf("got %+v", img)
	}
	if err := unix.Unmount(filepath.Join(root, "mnt"), 0); err != nil {
		t.Fatal(err)
	}
	if want, got := describe(root), describe(img.Layers[0]); got != want {
		t.Errorf("found\n%s\nwant\n%s", got, want)
	}
	if entries, err := os.ReadDir(filepath.Join(img.Layers[0], "mnt")); err != nil ||
		len(entries) != 0 {
		t.Errorf("found %v of a mounted filesystem, %v", entries, err)
	}
	for name, kv := range map[string][2]string{
		"bin/wall": {"security.capability", capability},
		"home":     {"user.note", "n"},
	} {
		buf := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(img.Layers[0], name), kv[0], buf)
		if err != nil || string(buf[:max(n, 0)]) != kv[1] {
			t.Errorf("%s: %s is %q, %v", name, kv[0], buf[:max(n, 0)], err)
		}
	}
	again := filepath.Join(dir, "again.tar")
	for _, to := range []string{out, again} {
		if err := run([]string{"rootfs", root, "--cmd", "/bin/su", "-o", to}); err != nil {
			t.Fatal(err)
		}
	}
	a, _ := os.ReadFile(out)
	b, _ := os.ReadFile(again)
	if len(a) == 0 || !bytes.Equal(a, b) {
		t.Error("the same input gave other bytes")
	}

	for text, script := range map[string]string{
		"found a socket":      `python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("dev/log")'`,
		"device 0:0":          "mknod gone c 0 0",
		"begins with .wh.":    "touch .wh.x",
		"allowed: the merged": "mkdir o; setfattr -n trusted.overlay.opaque -v y o 2>/dev/null || python3 -c 'import os; os.setxattr(\"o\", \"trusted.overlay.opaque\", b\"y\")'",
	} {
		before := sh("ls -A . dev")
		sh(script)
		if err := run([]string{"rootfs", root, "-o", again}); err == nil || !strings.Contains(err.Error(),
			text) {
			t.Errorf("%s: found %v", text, err)
		}
		sh("rm -rf dev/log gone .wh.x o")
		if sh("ls -A . dev") != before {
			t.Fatal("the test does not clean up")
		}
	}
	for text, script := range map[string]string{
		"found mode urwx":         "chmod 4700 bin/su",
		"found file capabilities": "true",
	} {
		sh(script)
		if err := run([]string{"--add", filepath.Join(dir, "root:fs") + ":/x", "-o", again}); err == nil {
			t.Error("a colon in SRC was taken")
		}
		if err := os.Rename(root, filepath.Join(dir, "plain")); err != nil {
			t.Fatal(err)
		}
		source := filepath.Join(dir, "plain", "bin", "su")
		if text == "found file capabilities" {
			source = filepath.Join(dir, "plain", "bin", "wall2")
			if err := errors.Join(os.WriteFile(source, nil, 0o755),
				unix.Setxattr(source, "security.capability", []byte(capability), 0)); err != nil {
				t.Fatal(err)
			}
		}
		if err := run([]string{"--add", source + ":/x", "-o", again}); err == nil ||
			!strings.Contains(err.Error(), text) {
			t.Errorf("--add: found %v; want %q", err, text)
		}
		if err := run([]string{"--copy", source + ":/x", "-o", again}); err != nil {
			t.Errorf("--copy: %v", err)
		}
		if err := os.Rename(filepath.Join(dir, "plain"), root); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHelp: each command has a help of its own, with an example.
func TestHelp(t *testing.T) {
	for _, args := range []string{"--help", "help build", "busybox --help", "rootfs -h", "help"} {
		c := command()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetArgs(strings.Fields(args))
		if err := c.Execute(); err != nil || !strings.Contains(out.String(), "Examples:") ||
			!strings.Contains(out.String(), "berth-image") || !strings.Contains(out.String(), "--format") {
			t.Errorf("%s: found %v, %s", args, err, out.String())
		}
	}
}
