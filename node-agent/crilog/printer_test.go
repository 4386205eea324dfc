// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
)

func TestPrinter(t *testing.T) {
	var current, older strings.Builder
	for n := range 300 {
		to := &older
		if n >= 100 {
			to = &current
		}
		stream := "stdout"
		if n%100 == 99 {
			stream = "stderr"
		}
		fmt.Fprintf(to, "2026-01-02T03:%02d:%02d.000000000Z %s F line %d\n", n/60, n%60, stream, n)
	}
	current.WriteString(
		"2026-01-02T04:00:00.000000000Z stdout P long \n2026-01-02T04:00:01.000000000Z stdout F line\n")
	current.WriteString("no entry\n2026-01-02T04:00:02.000000000Z stdout P prompt> ")
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	for name, content := range map[string]string{path: current.String() + "\n", path +
		".1": older.String()} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lines := func(from, to int, format string) string {
		var b strings.Builder
		for n := from; n < to; n++ {
			if n%100 != 99 {
				fmt.Fprintf(&b, format+"\n", n)
			}
		}
		return b.String()
	}
	at := func(h, m, s int) time.Time { return time.Date(2026, 1, 2, h, m, s, 0, time.UTC) }
	for name, tc := range map[string]struct {
		p        Printer
		out, err string
	}{
		"all": {
			Printer{Tail: -1},
			lines(0, 300, "line %d") + "long line\nprompt> ",
			"line 99\nline 199\nline 299\n",
		},
		"the last lines": {
			Printer{Tail: 4},
			lines(297, 300, "line %d") + "long line\nprompt> ",
			"line 299\n",
		},
		"no lines": {Printer{Tail: 0}, "prompt> ", ""},
		"more than there are": {
			Printer{Tail: 1000},
			lines(0, 300, "line %d") + "long line\nprompt> ",
			"line 99\nline 199\nline 299\n",
		},
		"over the rotation": {
			Printer{Tail: 202},
			lines(100, 300, "line %d") + "long line\nprompt> ",
			"line 99\nline 199\nline 299\n",
		},
		"since": {Printer{Tail: -1, Since: at(3, 4, 57)}, lines(297, 300, "line %d") +
			"long line\nprompt> ", "line 299\n"},
		"since and tail":   {Printer{Tail: 2, Since: at(3, 4, 57)}, "long line\nprompt> ", "line 299\n"},
		"since the middle": {Printer{Tail: -1, Since: at(4, 0, 1)}, "line\nprompt> ", ""},
		"timestamps": {
			Printer{Tail: 1, Timestamps: true},
			"2026-01-02T04:00:00.000000000Z long line\n2026-01-02T04:00:02.000000000Z prompt> ", "",
		},
		"prefix": {Printer{Tail: 2, Prefix: "x | "}, "x | long line\nx | prompt> \n", "x | line 299\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, err bytes.Buffer
			tc.p.Streams = &Streams{Out: &out, Err: &err}
			if e := tc.p.print(context.Background(), path, false, nil); e != nil {
				t.Fatal(e)
			}
			if out.String() != tc.out || err.String() != tc.err {
				t.Errorf("found %q and %q; want %q and %q", out.String(), err.String(), tc.out, tc.err)
			}
		})
	}
}

// hook is a writer that calls a function before each write.
type hook struct {
	to     io.Writer
	before func()
}

func (h hook) Write(data []byte) (int, error) {
	h.before()
	return h.to.Write(data)
}

// TestPrinterRotation rotates a log while its first line is printed: no part is passed over.
func TestPrinterRotation(t *testing.T) {
	for name, tc := range map[string]struct {
		follow    bool
		parts     int // before the first line is printed
		rotations int
		want      string
	}{
		"printed":             {false, 3, 1, "line 0\nline 1\nline 2\n"},
		"followed":            {true, 1, 1, "line 0\nline 1\n"},
		"followed, twice":     {true, 1, 2, "line 0\nline 1\nline 2\n"},
		"followed from parts": {true, 2, 2, "line 0\nline 1\nline 2\nline 3\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path, n := filepath.Join(t.TempDir(), "0.log"), 0
			rotate := func() {
				t.Helper()
				for i := n; i > 0; i-- { // as the supervisor does
					from := path
					if i > 1 {
						from = fmt.Sprintf("%s.%d", path, i-1)
					}
					if err := os.Rename(from, fmt.Sprintf("%s.%d", path, i)); err != nil {
						t.Fatal(err)
					}
				}
				err := os.WriteFile(path, fmt.Appendf(nil, "2026-01-02T03:00:00Z stdout F line %d\n", n), 0o600)
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			for range tc.parts {
				rotate()
			}
			var out bytes.Buffer
			rotating := hook{&out, func() {
				for n < tc.parts+tc.rotations {
					rotate()
				}
			}}
			p := Printer{Streams: &Streams{Out: rotating, Err: rotating}, Tail: -1}
			looks := 0
			err := p.print(t.Context(), path, tc.follow, func() (string, error) {
				if looks++; looks > 3 {
					return "", errors.New("removed")
				}
				return path, nil
			})
			if err != nil || out.String() != tc.want {
				t.Errorf("found %q, %v; want %q", out.String(), err, tc.want)
			}
		})
	}
}

// TestPrinterWhileRotated prints a log that is rotated all the time: there is always a log, and each
// line comes once.
func TestPrinterWhileRotated(t *testing.T) {
	leaktest.Check(t)
	path := filepath.Join(t.TempDir(), "0.log")
	write := func(path string, n int) error {
		return os.WriteFile(path, fmt.Appendf(nil, "2026-01-02T03:00:00Z stdout F %d\n", n), 0o600)
	}
	if err := write(path, 0); err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-end:
				return
			default:
			}
			pause := func() { time.Sleep(50 * time.Microsecond) }
			err := write(path+".new", n)
			for i := 3; i > 0; i-- { // as the supervisor does
				from := path
				if i > 1 {
					from = fmt.Sprintf("%s.%d", path, i-1)
				}
				if rerr := os.Rename(from, fmt.Sprintf("%s.%d", path, i)); !errors.Is(rerr, fs.ErrNotExist) {
					err = errors.Join(err, rerr)
				}
				pause()
			}
			if err = errors.Join(err, os.Rename(path+".new", path)); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	for range 300 {
		if begun, err := Begun(path); !begun || err != nil {
			t.Errorf("found %t, %v; want a log", begun, err)
		}
		var out bytes.Buffer
		p := Printer{Streams: &Streams{Out: &out, Err: &out}, Tail: -1}
		if err := p.Print(t.Context(), path); err != nil {
			t.Error(err)
		}
		lines := strings.Fields(out.String())
		for i, l := range lines {
			if first, _ := strconv.Atoi(lines[0]); l != strconv.Itoa(first+i) {
				t.Errorf("found the lines %v", lines)
				break
			}
		}
	}
	close(end)
	writer.Wait()
}
