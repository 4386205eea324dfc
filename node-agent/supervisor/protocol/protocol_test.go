// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/internal/leaktest"
)

// TestCreateRequestChecksID: an id that could be another file's name, or an option of a runtime, is
// refused before anything is done.
func TestCreateRequestChecksID(t *testing.T) {
	leaktest.Check(t)
	for _, id := range []string{
		"a", "default_web_0a1b2c3d", "_x", "A.b+c-d",
		strings.Repeat("a", containerid.MaxSupervised),
	} {
		if err := (&CreateRequest{ID: id, Bundle: "/b"}).Validate(); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{
		"", ".", "..", "../x", "a/b", "-a", ".a", "a b", "a\x00", "ä",
		strings.Repeat("a", containerid.MaxSupervised+1),
	} {
		if err := (&CreateRequest{ID: id, Bundle: "/b"}).Validate(); err == nil ||
			!strings.HasPrefix(err.Error(), "id: found ") {
			t.Errorf("%q: found error %v", id, err)
		}
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	leaktest.Check(t)
	for _, c := range codes {
		werr := Encode(fmt.Errorf("start web: %w", c.err))
		if !errors.Is(werr, c.err) || werr.Error() != "start web: "+c.err.Error() {
			t.Errorf("%v became %v", c.err, werr)
		}
		for _, other := range codes {
			if other.err != c.err && errors.Is(werr, other.err) {
				t.Errorf("%v is %v too", c.err, other.err)
			}
		}
	}
	if werr := Encode(errors.New("mounts[3]: EINVAL")); werr.Code != "" ||
		werr.Error() != "mounts[3]: EINVAL" {
		t.Errorf("got %+v", werr)
	}
	if werr := Encode(errors.New(strings.Repeat("x", MaxLine))); len(werr.Message) != maxMessage {
		t.Errorf("a message of %d bytes", len(werr.Message))
	}
}

// TestUnreachable: a request that was not sent is told apart from one whose outcome is unknown.
func TestUnreachable(t *testing.T) {
	leaktest.Check(t)
	path := filepath.Join(t.TempDir(), "s")
	create := func(want error) {
		t.Helper()
		_, err := NewClient(path).Create(t.Context(), CreateRequest{ID: "x"})
		for _, e := range []error{ErrUnreachable, ErrUnknownOutcome} {
			if errors.Is(err, e) != (e == want) {
				t.Errorf("found %v; want %v", err, want)
			}
		}
	}
	create(ErrUnreachable) // nobody listens
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := make(chan []any, 2)
	go func() {
		for lines := range answers {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for _, line := range lines {
				_ = WriteLine(c, line)
			}
			if len(lines) > 0 { // what the client sends is taken, and not answered
				_, _ = bufio.NewReader(c).ReadString('\n')
			}
			c.Close()
		}
	}()
	defer close(answers)
	answers <- nil
	create(ErrUnreachable) // it ends before the handshake
	answers <- []any{Hello{
		Protocol: Name, MinVersion: MinVersion, MaxVersion: MaxVersion,
		Version: MaxVersion,
	}}
	create(ErrUnknownOutcome) // it ends after it
}

func TestReadLineIsBounded(t *testing.T) {
	leaktest.Check(t)
	const frame = len(`{"op":""}` + "\n")
	for _, size := range []int{
		frame, LineBuffer - 1, LineBuffer, LineBuffer + 1, 3*LineBuffer - 1,
		MaxLine - 1, MaxLine,
	} {
		op := strings.Repeat("x", size-frame)
		r := bufio.NewReaderSize(strings.NewReader(strings.Repeat(`{"op":"`+op+`"}`+"\n", 2)), LineBuffer)
		for range 2 {
			var q Request
			if err := ReadLine(r, &q); err != nil || q.Op != op {
				t.Errorf("a line of %d bytes: found %d (%v)", size, len(q.Op), err)
			}
		}
	}
	for _, size := range []int{MaxLine + 1, 2 * MaxLine} {
		r := bufio.NewReaderSize(strings.NewReader(`{"op":"`+strings.Repeat("x", size-frame)+`"}`+"\n"),
			LineBuffer)
		var q Request
		if err := ReadLine(r, &q); !errors.Is(err, ErrMalformed) {
			t.Errorf("a line of %d bytes: got %v", size, err)
		}
	}
}

// TestUpdateOfTheLogIsAnOperationOfItsOwn: a supervisor that does not know UpdateRequest.Log would
// skip it and answer that all is done. It does not know the operation, either.
func TestUpdateOfTheLogIsAnOperationOfItsOwn(t *testing.T) {
	leaktest.Check(t)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ops := make(chan string, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			var q Request
			if ReadLine(r, &Hello{}) == nil &&
				WriteLine(c, Hello{Protocol: Name, MinVersion: 1, MaxVersion: 1, Version: 1}) == nil &&
				ReadLine(r, &q) == nil {
				ops <- q.Op
				_ = WriteLine(c, Reply{})
			}
			c.Close()
		}
	}()
	limits, log := &specs.LinuxResources{}, &LogLimits{MaxFiles: 2}
	for want, requests := range map[string][]UpdateRequest{
		"update":     {{To: limits}},
		"update log": {{Log: log}, {To: limits, Log: log}},
	} {
		for _, r := range requests {
			if err := NewClient(socket).Update(t.Context(), "x", r); err != nil {
				t.Fatal(err)
			}
			if got := <-ops; got != want {
				t.Errorf("%+v: found the operation %q; want %q", r, got, want)
			}
		}
	}
}
