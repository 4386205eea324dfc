// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

const globs = "*/*.json"

// machine is a state directory, and the part of it that survives a loss of power.
type machine struct {
	*testing.T
	dir  string
	boot int
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) open() *Journal {
	m.Helper()
	j, err := openJournal(m.dir, fmt.Sprintf("boot-%08d", m.boot), []string{globs})
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() {
		if !j.closed {
			_ = j.Close()
		}
	})
	return j
}

func (m *machine) put(j *Journal, name, content string) {
	m.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o700); err != nil {
		m.Fatal(err)
	}
	if err := j.Replace(m.path(name), []byte(content), Options{}); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) flush(j *Journal) {
	m.Helper()
	if err := j.Flush(m.Context()); err != nil {
		m.Fatal(err)
	}
}

// has asserts what a file holds; "" is that it is gone.
func (m *machine) has(name, content string) {
	m.Helper()
	got, err := os.ReadFile(m.path(name))
	if content == "" && !errors.Is(err, fs.ErrNotExist) || string(got) != content {
		m.Errorf("%s: found %q (%v); want %q", name, got, err, content)
	}
}

// lost simulates a power loss that leaves the journal's first bytes, and nothing of any other file.
func (m *machine) lost(journal []byte) {
	m.Helper()
	m.boot++
	if err := os.WriteFile(m.path(JournalFile), journal, 0o600); err != nil {
		m.Fatal(err)
	}
	names, err := filepath.Glob(m.path(globs))
	if err != nil {
		m.Fatal(err)
	}
	for _, name := range names {
		if err := os.Truncate(name, 0); err != nil {
			m.Fatal(err)
		}
	}
}

func (m *machine) journal() []byte {
	m.Helper()
	b, err := os.ReadFile(m.path(JournalFile))
	if err != nil {
		m.Fatal(err)
	}
	return b
}

// TestJournalSurvivesPowerLoss: after a power loss each file has its last flushed content, whatever
// has become of the file, and removed files are gone.
func TestJournalSurvivesPowerLoss(t *testing.T) {
	leaktest.Check(t)
	m := &machine{T: t, dir: t.TempDir()}
	j := m.open()
	m.put(j, "a/1.json", "first")
	m.put(j, "a/1.json", "second")
	m.put(j, "b/2.json", "other")
	m.put(j, "c/3.json", "to be removed")
	if err := errors.Join(os.RemoveAll(m.path("c")), j.RemovedAll(m.path("c"))); err != nil {
		t.Fatal(err)
	}
	m.flush(j)
	safe := m.journal()
	m.put(j, "a/1.json", "not flushed")
	m.put(j, "d/4.json", "not flushed")
	m.lost(safe)
	if err := os.RemoveAll(m.path("b")); err != nil { // even the directory did not come to the disk
		t.Fatal(err)
	}
	j = m.open()
	m.has("a/1.json", "second")
	m.has("b/2.json", "other")
	m.has("c/3.json", "")
	m.has("d/4.json", "")

	// Within a boot, the files are the truth, even those that a killed process has not put into the
	// journal.
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path("a/1.json"), []byte("third"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path("b/new.json"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(m.path("b/2.json")); err != nil {
		t.Fatal(err)
	}
	j = m.open()
	m.flush(j)
	m.lost(m.journal())
	m.open()
	m.has("a/1.json", "third")
	m.has("b/new.json", "new")
	m.has("b/2.json", "")
}

// TestJournalTornTail cuts the journal off at each byte behind what was flushed, and flips each:
// what was flushed is there, what was not is there whole or not at all, and no stale entry comes
// back behind a new one.
func TestJournalTornTail(t *testing.T) {
	leaktest.Check(t)
	m := &machine{T: t, dir: t.TempDir()}
	j := m.open()
	m.put(j, "a/1.json", "flushed")
	m.flush(j)
	safe := int(j.end)
	m.put(j, "a/1.json", "torn 01")
	m.put(j, "a/1.json", "stale 2")
	m.flush(j)
	whole := m.journal()[:j.end]
	entry := (len(whole) - safe) / 2
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for i := safe; i < len(whole); i++ {
		for _, flip := range []bool{false, true} {
			b := bytes.Clone(whole[:i])
			if flip {
				b = bytes.Clone(whole)
				b[i] ^= 0x40
			}
			m.lost(b)
			want := "flushed"
			if i >= safe+entry {
				want = "torn 01"
			}
			j := m.open()
			m.has("a/1.json", want)
			m.put(j, "a/1.json", "new 003") // as long as the one that was cut off
			m.flush(j)
			b = m.journal()
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			m.lost(b)
			j = m.open()
			m.has("a/1.json", "new 003")
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestJournalRefuses opens a journal of a newer version, and files that hold no journal.
func TestJournalRefuses(t *testing.T) {
	leaktest.Check(t)
	for name, tc := range map[string]struct{ content, want string }{
		"newer": {"newer", "found version 2; allowed: 1"},
		"empty": {"", "found no header"},
		"text":  {strings.Repeat("no journal", 10), "found no header"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &machine{T: t, dir: t.TempDir()}
			content := []byte(tc.content)
			if name == "newer" {
				content, _ = encode(kindHeader, "", []byte(`{"version":2,"boot":"x"}`))
			}
			if err := os.WriteFile(m.path(JournalFile), content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := openJournal(m.dir, "x", nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("found %v; want %q", err, tc.want)
			}
		})
	}
}

// TestJournalIsShortened: a journal does not grow with the number of writes, and loses nothing as
// it is written anew.
func TestJournalIsShortened(t *testing.T) {
	leaktest.Check(t)
	m := &machine{T: t, dir: t.TempDir()}
	j := m.open()
	big := strings.Repeat("x", 64<<10)
	var most int64
	for i := range 1000 {
		m.put(j, fmt.Sprintf("d/%d.json", i%7), fmt.Sprint(i, big))
		if i%50 == 0 {
			m.flush(j)
			most = max(most, j.end)
		}
	}
	m.flush(j)
	if limit := int64(journalSlack + 51*len(big) + 2*8*len(big)); most > limit {
		t.Errorf("the journal took %d bytes; want at most %d", most, limit)
	}
	m.lost(m.journal())
	m.open()
	for i := 993; i < 1000; i++ {
		m.has(fmt.Sprintf("d/%d.json", i%7), fmt.Sprint(i, big))
	}
}

// TestJournalGroups: many that wait together share few flushes, and one alone does not wait for
// others.
func TestJournalGroups(t *testing.T) {
	leaktest.Check(t)
	m := &machine{T: t, dir: t.TempDir()}
	j := m.open()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			m.put(j, fmt.Sprintf("%d/r.json", i), "content")
			if err := j.Flush(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m.lost(m.journal())
	j = m.open()
	for i := range 200 {
		m.has(fmt.Sprintf("%d/r.json", i), "content")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Replace(m.path("x.json"), nil, Options{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("found %v for a closed journal; want ErrClosed", err)
	}
}

// TestJournalOnFullDisk: a file out of the reserve has room in the journal, too, and so has an
// agent that starts then.
func TestJournalOnFullDisk(t *testing.T) {
	leaktest.Check(t)
	dir := smallDisk(t)
	m := &machine{T: t, dir: dir}
	j := m.open()
	r := NewReserve(dir)
	m.put(j, "a/1.json", "first")
	fill(t, dir)
	for i := range 50 { // more than the journal's room beside its reserve
		err := j.Replace(m.path("a/1.json"), bytes.Repeat([]byte("y"), 1000+i), Options{Reserve: r})
		if err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = m.open()
	if err := j.Replace(m.path("a/1.json"), []byte("last"), Options{Reserve: r}); err != nil {
		t.Fatal(err)
	}
	m.flush(j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	m.boot++
	m.open()
	m.has("a/1.json", "last")
}

// TestJournalRestoresOnFullDisk: a file whose content was lost with the power has room, although
// something else has taken all of the disk since.
func TestJournalRestoresOnFullDisk(t *testing.T) {
	leaktest.Check(t)
	dir := smallDisk(t)
	m := &machine{T: t, dir: dir}
	j := m.open()
	content := strings.Repeat("x", 10_000)
	for i := range 10 {
		m.put(j, fmt.Sprintf("a/%d.json", i), content)
	}
	m.flush(j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	m.boot++
	for i := range 10 {
		if err := os.Truncate(m.path(fmt.Sprintf("a/%d.json", i)), 0); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, dir)
	m.open()
	for i := range 10 {
		m.has(fmt.Sprintf("a/%d.json", i), content)
	}
}

// smallDisk mounts a tmpfs of 4 MiB for the length of the test, and returns its directory.
func smallDisk(t *testing.T) string {
	t.Helper()
	needs.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("berth-test", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}
