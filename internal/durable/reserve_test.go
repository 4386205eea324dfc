// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// fill writes to a file of the directory until the filesystem is full.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "fill"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{16 << 10, 4 << 10, 1} { // to the last byte
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
}

func TestReserve(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("berth-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, 0) }()
	r := NewReserve(dir)
	path := filepath.Join(dir, "x")
	if err := r.Replace(path, []byte("first"), Options{}); err != nil {
		t.Fatal(err)
	}
	fill(t, dir)
	if err := Replace(path, []byte("second"), Options{}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the filesystem is not full: %v", err)
	}
	for i := range 20 { // each out of what the last one gave back
		want := bytes.Repeat([]byte(strconv.Itoa(i%10)), 3000)
		if err := r.Replace(path, want, Options{}); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("write %d: found %q, %v", i, got, err)
		}
	}
	if err := r.Replace(path, make([]byte, reserveSize+1), Options{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("found %v for what has no room; want ENOSPC", err)
	}
}
