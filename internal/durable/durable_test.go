// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestReplace replaces a file: content and mode are the new ones, and no temporary file is left.
func TestReplace(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "record.json")
	for i, o := range []Options{
		{},
		{Mode: 0o640},
		{Sync: true},
		{Temporary: filepath.Join(dir, "other")},
	} {
		want := fmt.Sprint("content ", i)
		if err := Replace(path, []byte(want), o); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%+v: found %q, %v; want %q", o, got, err, want)
		}
		mode := o.Mode
		if mode == 0 {
			mode = 0o600
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%+v: found mode %v, %v; want %v", o, fi.Mode(), err, mode)
		}
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("found %v, %v; want record.json alone", names, err)
	}
}

// TestReplaceFollowsNoLink has a link in the place of the temporary file: its target stays as it
// is.
func TestReplaceFollowsNoLink(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, ".record.new")); err != nil {
		t.Fatal(err)
	}
	if err := Replace(filepath.Join(dir, "record"), []byte("data"), Options{}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("the target of the link holds %q", b)
	}
	if fi, err := os.Lstat(filepath.Join(dir, "record")); err != nil || !fi.Mode().IsRegular() {
		t.Errorf("found %v, %v; want a regular file", fi, err)
	}
}

// TestReplaceFails leaves the old file as it is and no temporary file.
func TestReplaceFails(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, []byte("data"), Options{}); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("found %v; want the directory alone", names)
	}
	err := Replace(filepath.Join(dir, "missing", "record"), nil, Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("found %v; want fs.ErrNotExist", err)
	}
}

// TestReplaceSurvivesKill kills a process that replaces a file again and again: whatever the
// moment, the file is whole.
func TestReplaceSurvivesKill(t *testing.T) {
	leaktest.Check(t)
	if path := os.Getenv("DURABLE_TEST_FILE"); path != "" {
		for i := 0; ; i++ {
			line := strings.Repeat(string(rune('a'+i%26)), 1<<16)
			if err := Replace(path, []byte(line), Options{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "record")
	for range 10 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReplaceSurvivesKill$")
		cmd.Env = append(os.Environ(), "DURABLE_TEST_FILE="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(path); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the process wrote no file")
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		b, err := os.ReadFile(path)
		if err != nil || len(b) != 1<<16 || strings.Trim(string(b), string(b[0])) != "" {
			t.Fatalf("found %d bytes, %v; want %d equal ones", len(b), err, 1<<16)
		}
		os.Remove(path)
	}
}

// TestLocks holds a lock: others fail or wait until it is released.
func TestLocks(t *testing.T) {
	leaktest.Check(t)
	path := filepath.Join(t.TempDir(), "lock")
	if Locked(path) {
		t.Error("a file that does not exist counts as locked")
	}
	held, err := TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if !Locked(path) {
		t.Error("the lock is not seen")
	}
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("a second TryLock: found %v; want ErrLocked", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Lock(short, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock: found %v; want context.DeadlineExceeded", err)
	}
	got := make(chan error, 1)
	go func() {
		f, err := Lock(t.Context(), path)
		if err == nil {
			f.Close()
		}
		got <- err
	}()
	held.Close()
	if err := <-got; err != nil {
		t.Errorf("Lock after the release: %v", err)
	}
	if Locked(path) {
		t.Error("the released lock is still seen")
	}
}
