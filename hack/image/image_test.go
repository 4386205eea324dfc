// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/berth-run/berth/node-agent/image"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// TestImages: what the tool makes in each format is an image that the node's store takes.
func TestImages(t *testing.T) {
	needRoot(t)
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
			args := []string{"--busybox", "--add", probe + ":/bin/probe", "--cmd", `["/bin/probe","-x"]`, "--env", "A=b", "--user", "1000", "--format", format, "-o"}
			if err := run(append(args, out)); err != nil {
				t.Fatal(err)
			}
			img, err := store.Ensure(context.Background(), format+":"+out, image.Default)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(img.Config.Cmd, []string{"/bin/probe", "-x"}) || img.Config.User != "1000" || !slices.Contains(img.Config.Env, "A=b") || len(img.Layers) != 2 {
				t.Errorf("got %+v", img)
			}
			if base == "" {
				base = img.Layers[0]
			}
			if img.Layers[0] != base {
				t.Error("the base layer is not shared")
			}
			if to, err := os.Readlink(filepath.Join(img.Layers[0], "bin/ls")); err != nil || to != "/bin/busybox" {
				t.Errorf("bin/ls: %q, %v", to, err)
			}
			if info, err := os.Stat(filepath.Join(img.Layers[0], "tmp")); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
				t.Errorf("tmp: %v, %v", info, err)
			}
			if info, err := os.Stat(filepath.Join(img.Layers[1], "bin/probe")); err != nil || info.Mode() != 0o755 {
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
		if _, err := store.Ensure(context.Background(), "oci-archive:"+out, image.Default); !errors.As(err, &pe) {
			t.Errorf("got %v", err)
		}
	})
}

// TestFaults: bad flags are named with what is allowed.
func TestFaults(t *testing.T) {
	for text, args := range map[string]string{
		"-o: found nothing":        "--busybox",
		"neither --busybox":        "-o x",
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
