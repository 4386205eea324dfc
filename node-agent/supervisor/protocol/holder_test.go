// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
)

// recorder is a Store that writes down what it is asked.
type recorder []string

func (r *recorder) Add(name string, _ int) error { *r = append(*r, "add "+name); return nil }
func (r *recorder) Remove(name string) error     { *r = append(*r, "remove "+name); return nil }

func duplicate(t *testing.T, fd int) int {
	t.Helper()
	fd, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func openNull(t *testing.T) int {
	t.Helper()
	f := open(t)
	defer f.Close()
	return duplicate(t, int(f.Fd()))
}

func open(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestHolderStores stores each descriptor once, and none of a container before under the name of
// the one that follows it.
func TestHolderStores(t *testing.T) {
	leaktest.Check(t)
	var calls recorder
	h := &Holder{Store: &calls}
	defer h.Close()
	asked := func(want ...string) {
		t.Helper()
		for i, w := range want {
			want[i] = w + "." + Key("web")
		}
		if !slices.Equal(calls, want) {
			t.Errorf("the store was asked %q; want %q", calls, want)
		}
		calls = nil
	}
	first, out := openNull(t), openNull(t)
	h.put("web", descriptors{first, out, -1})
	asked("add pidfd", "add stdout")
	h.put("web", descriptors{duplicate(t, first), duplicate(t, out), -1})
	asked()
	h.put("web", descriptors{openNull(t), -1, -1})
	asked("remove pidfd", "add pidfd", "remove stdout")
	h.put("web", noDescriptors())
	asked("remove pidfd")
	h.put("web", descriptors{openNull(t), -1, -1})
	asked("add pidfd")
	h.Close()
	asked()
}

// TestHolderAdopts takes over what an earlier holder had stored, passes it on, and drops what the
// supervisor does not know.
func TestHolderAdopts(t *testing.T) {
	leaktest.Check(t)
	var calls recorder
	h := &Holder{Store: &calls}
	defer h.Close()
	if err := h.Adopt(map[string]*os.File{
		"pidfd." + Key("web"): open(t), "stdout." + Key("web"): open(t), "pidfd." + Key("old"): open(t),
		"other": open(t), "other.x": open(t),
	}); err != nil {
		t.Fatal(err)
	}
	files, err := h.list()
	if err != nil || len(files) != 4 || h.Len() != 2 {
		t.Fatalf("found %d files of %d containers, %v; want the list and 3 of 2", len(files),
			h.Len(), err)
	}
	closeFiles(files)
	if len(calls) > 0 {
		t.Errorf("the store was asked %q; want nothing: it has them", calls)
	}
	h.keep(map[string]bool{Key("web"): true})
	if want := "remove pidfd." + Key("old"); len(calls) != 1 || calls[0] != want || h.Len() != 1 {
		t.Errorf("the store was asked %q; want %q", calls, want)
	}
}
