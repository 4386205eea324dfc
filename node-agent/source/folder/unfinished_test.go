// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// restless has f run again and again until the returned function is called.
func restless(f func()) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
			select {
			case <-end:
				tick.Stop()
				return
			default:
				f()
			}
		}
	}()
	return func() { close(end); <-ended }
}

// TestSlowRewrite writes a file of two documents anew, with a pause between them: the second goes
// on as it was. The pause is longer than a directory must rest to be looked at.
func TestSlowRewrite(t *testing.T) {
	t.Parallel()
	two := [2]string{container("a", ""), "---\n" + container("b", "")}
	for name, rewrite := range map[string]func(path string) error{
		"by a process that keeps it open": func(path string) error {
			f, err := os.Create(path)
			if err != nil {
				return err
			}
			defer f.Close()
			// Longer than a document that is gone is waited for.
			for _, part := range []string{two[0][:40], two[0][40:], two[1]} {
				if _, err := f.WriteString(part); err != nil {
					return err
				}
				time.Sleep(2 * time.Second)
			}
			return nil
		},
		"by a process for each document": func(path string) error {
			if err := os.WriteFile(path, []byte(two[0]), 0o600); err != nil {
				return err
			}
			time.Sleep(time.Second)
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString(two[1])
			return err
		},
		"after it was removed": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte("# new\n"+two[0]), 0o600); err != nil {
				return err
			}
			time.Sleep(time.Second)
			return os.WriteFile(path, []byte("# new\n"+two[0]+two[1]), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := watch(t, t.TempDir(), t.TempDir(), func(o *Options) {
				// A pause takes longer on a busy machine.
				o.Resync, o.Rewrite, o.Debounce = 0, 10*time.Second, 2*time.Second
				if strings.Contains(name, "open") {
					o.Rewrite = 1500 * time.Millisecond
				}
			})
			path := w.path("x.yaml")
			if err := os.WriteFile(path, []byte(two[0]+two[1]), 0o600); err != nil {
				t.Fatal(err)
			}
			w.until("both", func() bool { return wanted(w.f) == "a b" })
			a, b := w.uid("a"), w.uid("b")
			stop := restless(func() {
				if w.uid("a") != a || w.uid("b") != b || w.generation("a") != 1 || w.generation("b") != 1 {
					t.Errorf("found %q wanted, generations %d and %d; want both as they were", wanted(w.f),
						w.generation("a"), w.generation("b"))
				}
			})
			if err := rewrite(path); err != nil {
				t.Error(err)
			}
			w.stays("both", func() bool { return wanted(w.f) == "a b" })
			stop()

			// A document that is gone for good is removed.
			if err := os.WriteFile(path, []byte(two[1]), 0o600); err != nil {
				t.Fatal(err)
			}
			w.until("b alone", func() bool { return wanted(w.f) == "b" })
			if w.uid("b") != b || w.generation("b") != 1 {
				t.Errorf("found UID %s, generation %d of the other; want %s, 1", w.uid("b"),
					w.generation("b"), b)
			}
		})
	}
}

// TestFileThatStaysOpen has a process that never closes a manifest: what it has written counts
// after a while.
func TestFileThatStaysOpen(t *testing.T) {
	t.Parallel()
	w := watch(t, t.TempDir(), t.TempDir())
	f, err := os.Create(w.path("x.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(container("a", "")); err != nil {
		t.Fatal(err)
	}
	w.until("the Container of an open file", func() bool { return wanted(w.f) == "a" })
}

// TestRestlessDirectory writes files fifty times a second: a manifest beside them is seen as soon
// as elsewhere.
func TestRestlessDirectory(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(path string, i int) error{
		"that is no manifest": func(path string, i int) error {
			return os.WriteFile(path+".log", []byte(fmt.Sprint(i)), 0o600)
		},
		"the same manifest": func(path string, _ int) error {
			return os.WriteFile(path, []byte(container("x", "")), 0o600)
		},
		"a manifest by rename": func(path string, i int) error {
			err := os.WriteFile(path+".new", []byte(fmt.Sprintf("# %d\n", i)+container("x", "")), 0o600)
			if err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
		"a manifest that is removed first": func(path string, i int) error {
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				return err
			}
			time.Sleep(5 * time.Millisecond)
			return os.WriteFile(path, []byte(fmt.Sprintf("# %d\n", i)+container("x", "")), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			// Without looks at intervals, one that comes by the changes shows that they are seen. A
			// manifest that is removed first is there again in time on a busy machine, too.
			w := watch(t, dir, t.TempDir(), func(o *Options) {
				o.Resync, o.Debounce = time.Hour, 3*time.Second
			})
			if err := os.WriteFile(w.path("x.yaml"), []byte(container("x", "")), 0o600); err != nil {
				t.Fatal(err)
			}
			w.until("the first", func() bool { return w.uid("x") != "" })
			uid, i := w.uid("x"), 0
			stop := restless(func() {
				i++
				if err := write(w.path("x.yaml"), i); err != nil {
					t.Error(err)
				}
			})
			defer stop()
			if err := os.WriteFile(w.path("a.yaml"), []byte(container("a", "")), 0o600); err != nil {
				t.Fatal(err)
			}
			w.until("the other manifest", func() bool { return w.uid("a") != "" })
			w.stays("both", func() bool { return w.uid("a") != "" && w.uid("x") == uid })
			if err := os.Remove(w.path("a.yaml")); err != nil {
				t.Fatal(err)
			}
			w.until("the other is removed", func() bool { return w.f.Get(key("a")) == nil })
		})
	}
}
