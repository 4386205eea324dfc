// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// busyboxTree creates a small, complete user space from Debian's busybox-static.
func busyboxTree() (tree, error) {
	deb, err := debianPackage("busybox-static")
	if err != nil {
		return nil, err
	}
	program, err := fileOfPackage(deb, "bin/busybox", "usr/bin/busybox")
	if err != nil {
		return nil, err
	}
	applets, err := applets(program)
	if err != nil {
		return nil, err
	}
	t := tree{}
	t.file("bin/busybox", 0o755, program)
	for _, a := range applets {
		if a != "bin/busybox" {
			t.symlink(a, "/bin/busybox")
		}
	}
	for _, d := range []string{
		"dev", "etc", "home", "mnt", "opt", "proc", "run", "srv", "sys",
		"usr/bin", "usr/sbin", "usr/lib", "var", "var/log",
	} {
		t.dir(d, 0o755)
	}
	t.dir("root", 0o700)
	t.dir("tmp", 0o1777)
	t.dir("var/tmp", 0o1777)
	t.file("etc/passwd", 0o644,
		[]byte("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	t.file("etc/group", 0o644,
		[]byte("root:x:0:\ndaemon:x:1:\nadm:x:4:user\nuser:x:1000:\nnogroup:x:65534:\n"))
	t.file("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	t.file("etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n"))
	t.file("etc/os-release", 0o644,
		[]byte("ID=busybox\nNAME=\"BusyBox\"\nPRETTY_NAME=\"BusyBox of Debian, made by berth's hack/image\"\n"))
	return t, nil
}

// applets asks the program itself, so that the links always fit its build.
func applets(program []byte) ([]string, error) {
	dir, err := os.MkdirTemp("", "berth-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "busybox")
	if err := os.WriteFile(file, program, 0o700); err != nil {
		return nil, err
	}
	out, err := exec.Command(file, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list-full: %w", err)
	}
	names := strings.Fields(string(out))
	if len(names) == 0 {
		return nil, errors.New("busybox --list-full: no applets")
	}
	return names, nil
}

// debianPackage returns the path of a package's newest .deb, downloaded once to the user's cache.
func debianPackage(name string) (string, error) {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(home, ".cache")
	}
	cache = filepath.Join(cache, "berth", "deb")
	if found, _ := filepath.Glob(filepath.Join(cache, name+"_*.deb")); len(found) > 0 {
		return found[len(found)-1], nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// Downloaded beside the cache and renamed into it: an interrupted download must not be taken
	// for the package, nor one of another process of this tool.
	tmp, err := os.MkdirTemp(cache, ".download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := apt(tmp, "download", name); err != nil {
		// A machine that never ran apt-get update knows no package.
		if err := apt(tmp, "update"); err != nil {
			return "", err
		}
		if err := apt(tmp, "download", name); err != nil {
			return "", err
		}
	}
	found, _ := filepath.Glob(filepath.Join(tmp, name+"_*.deb"))
	if len(found) != 1 {
		return "", fmt.Errorf("apt-get download %s left %d packages; one was expected", name, len(found))
	}
	final := filepath.Join(cache, filepath.Base(found[0]))
	return final, os.Rename(found[0], final)
}

func apt(dir string, args ...string) error {
	// The download directory belongs to this user, not to apt's own sandbox user.
	cmd := exec.Command("apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// fileOfPackage reads the first of the named files that a .deb holds.
func fileOfPackage(deb string, names ...string) ([]byte, error) {
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("dpkg-deb: %w", err)
	}
	var data []byte
	r := tar.NewReader(out)
	for {
		h, nextErr := r.Next()
		if nextErr == io.EOF {
			break
		}
		if nextErr != nil {
			err = nextErr
			break
		}
		for _, n := range names {
			if data == nil && h.Typeflag == tar.TypeReg && strings.TrimPrefix(h.Name, "./") == n {
				data, err = io.ReadAll(r)
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = io.Copy(io.Discard, out)
	if waitErr := cmd.Wait(); waitErr != nil || err != nil {
		return nil, fmt.Errorf("%s: %w", deb, errors.Join(err, waitErr))
	}
	if data == nil {
		return nil, fmt.Errorf("%s holds none of %s", deb, strings.Join(names, ", "))
	}
	return data, nil
}
