// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// inode returns the number of the namespace at path.
func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func testNamespaces(t *testing.T) Namespaces {
	t.Helper()
	needs.Root(t)
	n := Namespaces{Dir: filepath.Join(t.TempDir(), "netns")}
	t.Cleanup(func() {
		ids, err := n.List()
		if err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if err := n.Remove(id); err != nil {
				t.Error(err)
			}
		}
	})
	return n
}

// threadsOutside returns the threads of the process that are in another network namespace.
func threadsOutside(own uint64) (out []string) {
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, task := range tasks {
		var st unix.Stat_t
		if unix.Stat(task, &st) == nil && st.Ino != own {
			out = append(out, task)
		}
	}
	return out
}

// A namespace is created once, has loopback, and no thread of the agent stays in it.
func TestNamespaceIsPinned(t *testing.T) {
	leaktest.Check(t)
	n := testNamespaces(t)
	own := inode(t, "/proc/self/ns/net")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := n.Ensure(fmt.Sprint("c", i), 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[uint64]bool{own: true}
	for i := range 20 {
		path := n.Path(fmt.Sprint("c", i))
		was := inode(t, path)
		if seen[was] {
			t.Errorf("c%d is in the namespace of another", i)
		}
		seen[was] = true
		if _, err := n.Ensure(fmt.Sprint("c", i), 0); err != nil || inode(t, path) != was {
			t.Errorf("c%d: Ensure has made another namespace of it (%v)", i, err)
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		strangers := threadsOutside(own)
		if len(strangers) == 0 {
			break
		}
		if time.Now().After(deadline) { // a thread ends a little later than its goroutine
			t.Errorf("found %q in other network namespaces", strangers)
			break
		}
	}
	var flags string
	done := make(chan struct{})
	go func() { // its thread ends with it
		defer close(done)
		lockInto(t, n.Path("c0"))
		data, err := os.ReadFile("/proc/thread-self/net/if_inet6")
		if err != nil {
			data, err = os.ReadFile("/proc/thread-self/net/dev")
		}
		if err != nil {
			t.Error(err)
		}
		flags = string(data)
	}()
	<-done
	if !strings.Contains(flags, "lo") {
		t.Errorf("found no address of lo: %q", flags)
	}
}

// An agent that was killed between the two mounts of a container with mapped ids leaves a user
// namespace, which does not count as the owner of the next network namespace.
func TestUserNamespaceOfAKilledAgent(t *testing.T) {
	leaktest.Check(t)
	n := testNamespaces(t)
	if _, err := n.Ensure("half", 1<<30); err != nil {
		t.Fatal(err)
	}
	if err := unpin(n.Path("half")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Ensure("half", 0); err != nil {
		t.Fatal(err)
	}
	if same, err := n.SameUsers("half", false); !same || err != nil {
		t.Errorf("found %t, %v; want a namespace that belongs to the node's users", same, err)
	}
}

// An agent that was killed between creating the file and mounting the namespace leaves a file.
func TestNamespaceOfAKilledAgent(t *testing.T) {
	leaktest.Check(t)
	n := testNamespaces(t)
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.Path("half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if exists, err := n.Exists("half"); exists || err != nil {
		t.Errorf("a file without a mount: found %v, %v; want no namespace", exists, err)
	}
	if _, err := n.Ensure("half", 0); err != nil {
		t.Fatal(err)
	}
	if exists, err := n.Exists("half"); !exists || err != nil {
		t.Errorf("after Ensure: found %v, %v; want a namespace", exists, err)
	}
	for range 2 {
		if err := n.Remove("half"); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := n.List(); len(ids) > 0 || err != nil {
		t.Errorf("after Remove: found %v, %v; want nothing", ids, err)
	}
}
