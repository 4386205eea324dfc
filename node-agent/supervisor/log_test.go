// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

var entryPattern = regexp.MustCompile(`^(\S+) (stdout|stderr) ([FP]) (.*)$`)

// logEntry is one line of a CRI log.
type logEntry struct {
	stream, tag, text string
}

// readLog reads a log file. One that is written to at that moment may end within an entry: a reader
// sees a write page by page.
func readLog(t *testing.T, path string) []byte {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 || b[len(b)-1] == '\n' || time.Now().After(end) {
			return b
		}
	}
}

// parseLog reads a log file strictly: it fails on anything that is not a whole entry.
func parseLog(t *testing.T, path string) []logEntry {
	t.Helper()
	b := readLog(t, path)
	if len(b) == 0 {
		return nil
	}
	if b[len(b)-1] != '\n' {
		t.Fatalf("%s ends within an entry: %q", path, b[max(0, len(b)-40):])
	}
	var out []logEntry
	for n, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		m := entryPattern.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("%s:%d is no entry: %.80q", path, n+1, line)
		}
		if _, err := time.Parse(timeFormat, m[1]); err != nil ||
			len(m[1]) != len("2006-01-02T15:04:05.000000000Z") {
			t.Fatalf("%s:%d: time %q", path, n+1, m[1])
		}
		out = append(out, logEntry{m[2], m[3], m[4]})
	}
	return out
}

// parseAll reads a log and its rotated files, oldest first.
func parseAll(t *testing.T, path string) []logEntry {
	t.Helper()
	var out []logEntry
	for i := 1000; i >= 1; i-- {
		p := path + "." + strconv.Itoa(i)
		if _, err := os.Stat(p); err == nil {
			out = append(out, parseLog(t, p)...)
		}
	}
	return append(out, parseLog(t, path)...)
}

// join puts partial entries together again.
func join(entries []logEntry, stream string) []string {
	var lines []string
	var part strings.Builder
	for _, e := range entries {
		if e.stream != stream {
			continue
		}
		part.WriteString(e.text)
		if e.tag == "F" {
			lines = append(lines, part.String())
			part.Reset()
		}
	}
	if part.Len() > 0 {
		lines = append(lines, part.String())
	}
	return lines
}

// Whatever the lines and the pieces in which they arrive, from both streams at once, and wherever
// rotation falls: each stream's lines are in the files once, whole and in order, and no file is
// larger than it may be.
func TestLogKeepsEveryLineOverRotation(t *testing.T) {
	leaktest.Check(t)
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			path := filepath.Join(t.TempDir(), "sub", "0.log")
			limit := int64(protocol.MinLogBytes + rng.IntN(100<<10))
			f, err := openLog(protocol.Log{Path: path, LogLimits: protocol.LogLimits{
				MaxBytes: limit,
				MaxFiles: 1000,
			}})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string][]string{}
			for _, s := range []string{"stdout", "stderr"} {
				for i := range 300 {
					n := rng.IntN(120)
					switch rng.IntN(20) {
					case 0:
						n = 0
					case 1:
						n = maxEntry - 1 + rng.IntN(3)
					case 2:
						n = rng.IntN(5 * maxEntry)
					}
					want[s] = append(want[s], fmt.Sprintf("%s-%d-%s", s, i, strings.Repeat("x", n)))
				}
			}
			var wg sync.WaitGroup
			for s, lines := range want {
				chunks := rand.New(rand.NewPCG(seed, uint64(len(s[3:]))+uint64(s[3])))
				wg.Go(func() {
					data := []byte(strings.Join(lines, "\n") + "\n")
					var rest []byte
					for len(data) > 0 {
						n := min(len(data), 1+chunks.IntN(1+chunks.IntN(64<<10)))
						// A copy that is overwritten after: add may keep nothing of it.
						piece := bytes.Clone(data[:n])
						rest = f.add(s, rest, piece, false, nil)
						clear(piece)
						data = data[n:]
					}
					if len(rest) != 0 {
						t.Errorf("%s: %d bytes are left over", s, len(rest))
					}
				})
			}
			wg.Wait()
			f.close()
			if lost, err := f.health(); lost != 0 || err != nil {
				t.Fatalf("lost %d, %v", lost, err)
			}
			entries := parseAll(t, path)
			for s := range want {
				got := join(entries, s)
				if len(got) != len(want[s]) {
					t.Fatalf("%s: %d lines, want %d", s, len(got), len(want[s]))
				}
				for i := range got {
					if got[i] != want[s][i] {
						t.Fatalf("%s: line %d is %.60q (%d), want %.60q (%d)", s, i, got[i], len(got[i]), want[s][i],
							len(want[s][i]))
					}
				}
			}
			files, _ := filepath.Glob(path + "*")
			if len(files) < 3 {
				t.Fatalf("files %v: no rotation", files)
			}
			for _, p := range files {
				fi, _ := os.Stat(p)
				if fi.Size() > limit {
					t.Errorf("%s has %d bytes, limit %d", p, fi.Size(), limit)
				}
				if fi.Mode().Perm() != 0o640 {
					t.Errorf("%s has mode %o", p, fi.Mode().Perm())
				}
			}
		})
	}
}

func TestLogRotationKeepsMaxFiles(t *testing.T) {
	leaktest.Check(t)
	path := filepath.Join(t.TempDir(), "0.log")
	f, err := openLog(protocol.Log{
		Path:      path,
		LogLimits: protocol.LogLimits{MaxBytes: protocol.MinLogBytes, MaxFiles: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	for i := range 4000 {
		f.add("stdout", nil, fmt.Appendf(nil, "line %d with some more text to fill the file\n", i),
			false, nil)
	}
	files, _ := filepath.Glob(path + "*")
	got, want := strings.Join(files, " "), strings.Join([]string{path, path + ".1", path + ".2"}, " ")
	if got != want {
		t.Fatalf("files %s, want %s", got, want)
	}
	// What is kept is the end, without a gap.
	lines := join(parseAll(t, path), "stdout")
	first, _ := strconv.Atoi(strings.Fields(lines[0])[1])
	for i, l := range lines {
		if want := fmt.Sprintf("line %d with some more text to fill the file", first+i); l != want {
			t.Fatalf("line %d is %q, want %q", i, l, want)
		}
	}
	if first+len(lines) != 4000 {
		t.Fatalf("the last line is %d", first+len(lines)-1)
	}
}

func TestLogPartialLines(t *testing.T) {
	leaktest.Check(t)
	long := strings.Repeat("a", maxEntry)
	for _, tc := range []struct {
		name   string
		pieces []string
		want   []string // tag and text
	}{
		{"whole", []string{"a\nb\n"}, []string{"Fa", "Fb"}},
		{"empty line", []string{"\n\n"}, []string{"F", "F"}},
		{"in pieces", []string{"a", "b", "c\nd", "\n"}, []string{"Fabc", "Fd"}},
		{"no end", []string{"a\nb"}, []string{"Fa", "Pb"}},
		{"just fits", []string{long + "\n"}, []string{"F" + long}},
		{"one more", []string{long + "b\n"}, []string{"P" + long, "Fb"}},
		{"fits, then its end", []string{long, "\n"}, []string{"F" + long}},
		{"two and a bit", []string{long + long + "c\nd\n"}, []string{"P" + long, "P" + long, "Fc", "Fd"}},
		{"carriage return and NUL stay", []string{"a\r\x00b\n"}, []string{"Fa\r\x00b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "0.log")
			f, err := openLog(protocol.Log{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			var rest []byte
			for _, p := range tc.pieces {
				rest = f.add("stderr", rest, []byte(p), false, nil)
			}
			f.add("stderr", rest, nil, true, nil)
			f.close()
			var got []string
			for _, e := range parseLog(t, path) {
				got = append(got, e.tag+e.text)
			}
			if strings.Join(got, "|") != strings.Join(tc.want, "|") {
				t.Fatalf("got %.100q, want %.100q", got, tc.want)
			}
		})
	}
}

// A disk that is full for a while: the writer is not held up, the loss is counted and reported, no
// entry is cut in two, and it goes on when there is room again.
func TestLogFullDisk(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=96k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "0.log")
	f, err := openLog(protocol.Log{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	line := func(i int) string { return fmt.Sprintf("line %d %s", i, strings.Repeat("y", 700)) }
	for i := range 100 {
		// Two at a time, so that one batch may be written in part.
		f.add("stdout", nil, []byte(line(2*i)+"\n"+line(2*i+1)+"\n"), false, nil)
	}
	lost, ferr := f.health()
	if lost == 0 || !errors.Is(ferr, unix.ENOSPC) {
		t.Fatalf("lost %d, error %v; want some, and ENOSPC", lost, ferr)
	}
	got := parseLog(t, path)
	if len(got)+int(lost) != 200 {
		t.Fatalf("%d written and %d lost, of 200", len(got), lost)
	}
	for i, e := range got {
		if e.text != line(i) {
			t.Fatalf("entry %d is %.30q…", i, e.text)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	f.add("stdout", nil, []byte("room again\n"), false, nil)
	if _, err := f.health(); err != nil {
		t.Fatalf("error stays: %v", err)
	}
	if e := parseLog(t, path); e[len(e)-1].text != "room again" {
		t.Fatalf("last entry %q", e[len(e)-1].text)
	}
}

// A rotation that cannot be done loses nothing: the file grows, and the error is reported.
func TestLogRotationFails(t *testing.T) {
	leaktest.Check(t)
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.MkdirAll(path+".1/not-empty", 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := openLog(protocol.Log{
		Path:      path,
		LogLimits: protocol.LogLimits{MaxBytes: protocol.MinLogBytes, MaxFiles: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	for i := range 2000 {
		f.add("stdout", nil, fmt.Appendf(nil, "line %d and more\n", i), false, nil)
	}
	if lost, err := f.health(); lost != 0 || err == nil {
		t.Fatalf("lost %d, error %v", lost, err)
	}
	if got := parseLog(t, path); len(got) != 2000 {
		t.Fatalf("%d lines", len(got))
	}
}

func TestLogAppendsAfterACutEntry(t *testing.T) {
	leaktest.Check(t)
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte("2026-01-02T15:04:05.000000000Z stdout F cut o"),
		0o640); err != nil {
		t.Fatal(err)
	}
	f, err := openLog(protocol.Log{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	f.add("stdout", nil, []byte("next\n"), false, nil)
	f.close()
	got := parseLog(t, path)
	if len(got) != 2 || got[0].text != "cut o" || got[1].text != "next" {
		t.Fatalf("got %q", got)
	}
}

func TestLogRefusesOtherThanFiles(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{fifo, link, dir} {
		if f, err := openLog(protocol.Log{Path: p}); err == nil {
			f.close()
			t.Errorf("%s was opened", p)
		}
	}
}

// TestLogTakesOtherLimits: a lower number of files removes the oldest, a smaller size rotates the
// file that is larger, and no other line is lost. What the next supervisor opens has the limits
// that it is given.
func TestLogTakesOtherLimits(t *testing.T) {
	leaktest.Check(t)
	path := filepath.Join(t.TempDir(), "0.log")
	big := protocol.LogLimits{MaxBytes: 128 << 10, MaxFiles: 5}
	f, err := openLog(protocol.Log{Path: path, LogLimits: big})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	for _, other := range []string{path + ".9x", path + "x.9", filepath.Join(filepath.Dir(path),
		"1.log.9")} {
		if err := os.WriteFile(other, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next := 0
	write := func(bytes int64) {
		for ; bytes > 0; bytes -= 100 {
			f.add("stdout", nil, fmt.Appendf(nil, "%09d %s\n", next, strings.Repeat("x", 40)), false, nil)
			next++
		}
	}
	// files asserts the sizes of the files, the current one first, and that their lines are the
	// last ones without a gap.
	files := func(want ...func(int64) bool) {
		t.Helper()
		for i := range 8 {
			name := path
			if i > 0 {
				name += "." + strconv.Itoa(i)
			}
			fi, err := os.Stat(name)
			switch {
			case i >= len(want) && err == nil:
				t.Errorf("%s is there", name)
			case i < len(want) && err != nil:
				t.Error(err)
			case i < len(want) && !want[i](fi.Size()):
				t.Errorf("%s has %d bytes", name, fi.Size())
			}
		}
		lines := join(parseAll(t, path), "stdout")
		for i, l := range lines {
			if n, _ := strconv.Atoi(strings.Fields(l)[0]); n != next-len(lines)+i {
				t.Fatalf("line %d of %d is %q; want line %d", i, len(lines), l, next-len(lines)+i)
			}
		}
		if lost, err := f.health(); lost != 0 || err != nil {
			t.Errorf("lost %d lines: %v", lost, err)
		}
	}
	between := func(least, most int64) func(int64) bool {
		return func(n int64) bool { return n >= least && n <= most }
	}
	large, small := between(100<<10, 128<<10), between(1, 32<<10)
	write(5 * 128 << 10)
	files(between(1, 128<<10), large, large, large, large)

	f.limit(protocol.LogLimits{MaxBytes: big.MaxBytes, MaxFiles: 3})
	files(between(1, 128<<10), large, large)
	write(100 << 10)
	f.limit(protocol.LogLimits{MaxBytes: protocol.MinLogBytes, MaxFiles: 3})
	write(100)
	files(small, between(32<<10, 128<<10), large)
	write(200 << 10)
	files(small, small, small)

	f.limit(big)
	write(5 * 128 << 10)
	files(between(1, 128<<10), large, large, large, large)
	f.limit(protocol.LogLimits{MaxFiles: 2})
	write(300 << 10)
	files(func(n int64) bool { return n > 300<<10 }, large)
	for _, other := range []string{path + ".9x", path + "x.9", filepath.Join(filepath.Dir(path),
		"1.log.9")} {
		if _, err := os.Stat(other); err != nil {
			t.Error(err)
		}
	}
}
