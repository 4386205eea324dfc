// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// heldRegistry is a registry that sends half of the only layer of its image, and the other half once
// the test says so.
type heldRegistry struct {
	*httptest.Server
	reference string
	digest    string
	sent      chan struct{} // closed once half is sent
	release   chan struct{}
}

// heldSize is the size of the file in the layer.
const heldSize = 8_000_000

func newHeldRegistry(t *testing.T) *heldRegistry {
	t.Helper()
	h := &heldRegistry{sent: make(chan struct{}), release: make(chan struct{})}
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	img := imageOf(t, map[string]string{"data": strings.Repeat("x", heldSize)})
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+blob.String()) {
			w = &holder{ResponseWriter: w, left: heldSize / 2, hold: func() {
				once.Do(func() { close(h.sent) })
				select {
				case <-h.release:
				case <-r.Context().Done():
				}
			}}
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	h.reference = strings.TrimPrefix(h.URL, "http://") + "/app:1"
	reference, err := name.ParseReference(h.reference)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if err := remote.Write(reference, img, remote.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
	h.digest = digestOf(t, img)
	return h
}

// untilHalf waits until half of the layer is sent.
func (h *heldRegistry) untilHalf(t *testing.T) {
	t.Helper()
	select {
	case <-h.sent:
	case <-time.After(time.Minute):
		t.Fatal("found no request for the layer within a minute")
	}
}

// holder passes so many bytes, and then calls hold once.
type holder struct {
	http.ResponseWriter
	left int
	hold func()
}

func (h *holder) Write(b []byte) (int, error) {
	if h.hold == nil || len(b) <= h.left {
		h.left -= len(b)
		return h.ResponseWriter.Write(b)
	}
	n, err := h.ResponseWriter.Write(b[:h.left])
	if err != nil {
		return n, err
	}
	_ = http.NewResponseController(h.ResponseWriter).Flush()
	h.hold()
	h.hold = nil
	m, err := h.ResponseWriter.Write(b[h.left:])
	return n + m, err
}

// screen is a terminal on which a program writes.
type screen struct {
	columns int
	master  *os.File
	slave   *os.File

	mu   sync.Mutex
	text bytes.Buffer
	done chan struct{}
}

func newScreen(t *testing.T, columns int) *screen {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{columns: columns, master: os.NewFile(uintptr(fd), "ptmx"), done: make(chan struct{})}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{
		Row: 24, Col: uint16(columns),
	}); err != nil {
		t.Fatal(err)
	}
	s.slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.text.Write(b)
		}), s.master)
	}()
	t.Cleanup(func() {
		s.slave.Close()
		s.master.Close()
		<-s.done
	})
	return s
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// rows returns what a person sees: the text after its control characters have had their effect.
func (s *screen) rows(t *testing.T) []string {
	t.Helper()
	s.mu.Lock()
	text := s.text.String()
	s.mu.Unlock()
	rows, row, column := [][]byte{nil}, 0, 0
	for len(text) > 0 {
		if rest, ok := strings.CutPrefix(text, "\033[K"); ok {
			rows[row], text = rows[row][:min(column, len(rows[row]))], rest
			continue
		}
		c := text[0]
		text = text[1:]
		newline := c == '\n'
		switch {
		case c == '\r':
			column = 0
			continue
		case c < ' ' && !newline:
			t.Fatalf("found the control character %q", c)
		}
		if newline || column == s.columns {
			if row++; row == len(rows) {
				rows = append(rows, nil)
			}
			if !newline {
				column = 0
			}
		}
		if newline {
			continue
		}
		for len(rows[row]) <= column {
			rows[row] = append(rows[row], ' ')
		}
		rows[row][column] = c
		column++
	}
	var out []string
	for _, r := range rows {
		out = append(out, string(r))
	}
	return out
}

// shows waits until the screen has these rows.
func (s *screen) shows(t *testing.T, want ...string) {
	t.Helper()
	text := strings.Join(want, "\n")
	s.until(t, func(rows []string) bool { return strings.Join(rows, "\n") == text }, text)
}

// until waits until the screen is as wanted.
func (s *screen) until(t *testing.T, ok func(rows []string) bool, want string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		rows := s.rows(t)
		if ok(rows) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("found the screen\n%s\nwant\n%s", strings.Join(rows, "\n"), want)
		}
	}
}

// pullOn begins a pull whose output goes to files, and returns a function that waits for its end.
func pullOn(t *testing.T, reference string, out, errs *os.File) (wait func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, programs+"/berth-agent", "image", "pull", "--state-dir", t.TempDir(), reference)
	c.Stdout, c.Stderr = out, errs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c.Wait
}

// TestPullProgressOnTerminal: a person sees one line, which begins with nothing, shows the half that
// has come while the rest is awaited, and stays with the whole; below it is the reference with the
// digest. On a terminal that is too narrow, the line is cut and does not run into a second row.
func TestPullProgressOnTerminal(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	for _, columns := range []int{120, 40} {
		t.Run(fmt.Sprint(columns, " columns"), func(t *testing.T) {
			reg, s := newHeldRegistry(t), newScreen(t, columns)
			cut := func(line string) string { return line[:min(len(line), columns-1)] }
			s.shows(t, "")
			wait := pullOn(t, reg.reference, s.slave, s.slave)
			reg.untilHalf(t)
			s.shows(t, cut("downloaded 4.0 of 8.0 MB, 49%, unpacked 0.0 of 8.0 MB, 0% (0 of 1 layers)"))
			close(reg.release)
			if err := wait(); err != nil {
				t.Fatalf("%v: found the screen %q", err, s.rows(t))
			}
			id := reg.reference + "@" + reg.digest
			rows := []string{cut("downloaded 8.0 of 8.0 MB, 100%, unpacked 8.0 of 8.0 MB, 100% (1 of 1 layers)")}
			for len(id) > columns {
				rows, id = append(rows, id[:columns]), id[columns:]
			}
			s.shows(t, append(rows, id, "")...)
		})
	}
}

// TestPullProgressOfFailure: the error stands below the line of a pull that fails, and not in it.
func TestPullProgressOfFailure(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg, s := newHeldRegistry(t), newScreen(t, 500)
	wait := pullOn(t, reg.reference, s.slave, s.slave)
	reg.untilHalf(t)
	const half = "downloaded 4.0 of 8.0 MB, 49%, unpacked 0.0 of 8.0 MB, 0% (0 of 1 layers)"
	s.shows(t, half)
	reg.CloseClientConnections()
	reg.Close() // it answers no request for the rest
	var exit *exec.ExitError
	if err := wait(); !errors.As(err, &exit) {
		t.Fatalf("found %v; want a failure", err)
	}
	s.until(t, func(rows []string) bool {
		return len(rows) > 2 && rows[0] == half && strings.Contains(rows[1], reg.reference)
	}, half+"\n[the error, with "+reg.reference+"]")
}

// TestPullProgressWithoutTerminal: standard error has a line for each layer that is done, nothing
// before, and no control characters; standard output has the reference with the digest alone, also
// if only that is a terminal.
func TestPullProgressWithoutTerminal(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg, s := newHeldRegistry(t), newScreen(t, 500)
	errs, err := os.Create(t.TempDir() + "/errs")
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	wait := pullOn(t, reg.reference, s.slave, errs)
	reg.untilHalf(t)
	// The agent shows progress each 100 ms where it does.
	if text, err := os.ReadFile(errs.Name()); err != nil || len(text) > 0 {
		t.Errorf("in between: found %q, %v", text, err)
	}
	close(reg.release)
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	s.shows(t, reg.reference+"@"+reg.digest, "")
	text, err := os.ReadFile(errs.Name())
	if err != nil || !strings.HasPrefix(string(text), "layer 1 of 1: ") ||
		!strings.HasSuffix(string(text), ", 8.0 MB\n") || strings.ContainsAny(string(text), "\r\033") {
		t.Errorf("found %q, %v", text, err)
	}
}
