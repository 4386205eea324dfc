// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// hangs is a handler of a container that is a child of the test. One of its calls does not answer.
type hangs struct {
	handler.Handler
	call  string        // the call that hangs
	begun chan struct{} // gets a value when it does
	// if not nil, the call does not end with its context, but when this is closed
	stubborn chan struct{}
	cmd      *exec.Cmd
}

func (h *hangs) hang(ctx context.Context, call string) error {
	if call != h.call {
		return nil
	}
	h.begun <- struct{}{}
	if h.stubborn != nil {
		<-h.stubborn
		return unix.EIO
	}
	<-ctx.Done()
	return ctx.Err()
}

func (h *hangs) Create(ctx context.Context, _, _ string, stdio handler.Stdio) (int, error) {
	if err := h.hang(ctx, "create"); err != nil {
		return 0, err
	}
	h.cmd.Stdout, h.cmd.Stderr = stdio.Stdout, stdio.Stderr
	if err := h.cmd.Start(); err != nil {
		return 0, err
	}
	return h.cmd.Process.Pid, nil
}

func (h *hangs) Start(ctx context.Context, _ string) error { return h.hang(ctx, "start") }

func (h *hangs) State(context.Context, string) (*specs.State, error) {
	return &specs.State{Status: specs.StateStopped}, nil
}

func (h *hangs) Kill(ctx context.Context, _ string, sig unix.Signal, _ bool) error {
	if err := h.hang(ctx, "kill"); err != nil {
		return err
	}
	if errors.Is(h.cmd.Process.Signal(sig), unix.ESRCH) {
		return handler.ErrNotRunning
	}
	return nil
}

func (h *hangs) Update(ctx context.Context, _ string, _, _ *specs.LinuxResources) error {
	return h.hang(ctx, "update")
}

func (h *hangs) Delete(ctx context.Context, _ string, _ bool) error { return h.hang(ctx, "delete") }

// newHanging returns a server with a handler whose call hangs, and a container that is created if
// that is not the call.
func newHanging(t *testing.T, call string) (*server, *hangs) {
	t.Helper()
	leaktest.Check(t)
	h := &hangs{call: call, begun: make(chan struct{}), cmd: exec.Command("sleep", "1000")}
	s := testServer(t)
	// The call that hangs has as long to end, once it is interrupted: enough on a busy machine.
	s.patience = time.Second
	s.handlers = handler.Set{"hangs": h}
	s.slots = slotsOf(s.handlers, 1)
	t.Cleanup(func() {
		if h.cmd.Process != nil {
			_ = h.cmd.Process.Kill()
			_ = h.cmd.Process.Release()
		}
	})
	if call != "create" {
		if _, err := s.create(t.Context(), hangingRequest()); err != nil {
			t.Fatal(err)
		}
	}
	return s, h
}

func hangingRequest() *protocol.CreateRequest {
	return &protocol.CreateRequest{ID: "web", Bundle: "/bundle", Handler: "hangs"}
}

// operation runs the operation that makes the call.
func (h *hangs) operation(ctx context.Context, s *server) (err error) {
	switch h.call {
	case "create":
		_, err = s.create(ctx, hangingRequest())
	case "start":
		_, err = s.start(ctx, "web")
	case "update":
		err = s.limit(ctx, "web", &protocol.UpdateRequest{
			To:     &specs.LinuxResources{},
			Before: &specs.LinuxResources{},
		})
	case "kill":
		err = s.kill(ctx, "web", "TERM", false)
	case "delete":
		err = s.remove(ctx, "web", true)
	}
	return err
}

// awaitKilled waits until the container has the state of one that was killed.
func awaitKilled(t *testing.T, s *server) {
	t.Helper()
	var st *protocol.Status
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var err error
		if st, err = s.do(t.Context(), &protocol.Request{Op: protocol.OpGet, ID: "web"}); err != nil {
			t.Fatal(err)
		}
		if st.State == protocol.Stopped {
			break
		}
	}
	if st.State != protocol.Stopped || st.Signal != int(unix.SIGKILL) {
		t.Errorf("found %+v; want a container that was killed", st)
	}
}

// TestKillWhileTheHandlerHangs asks for the status of a container and kills it while its handler
// does not answer another call: both are answered, the container ends, and so does that call.
func TestKillWhileTheHandlerHangs(t *testing.T) {
	for _, call := range []string{"create", "start", "update", "kill", "delete"} {
		t.Run(call, func(t *testing.T) {
			s, h := newHanging(t, call)
			ended := make(chan error, 1)
			go func() { ended <- h.operation(t.Context(), s) }()
			<-h.begun
			h.call = "" // the next one answers
			st, err := s.do(t.Context(), &protocol.Request{Op: protocol.OpGet, ID: "web"})
			if err != nil || len(s.list()) != 1 {
				t.Fatalf("found %+v, %v and %+v; want the status", st, err, s.list())
			}
			err = s.kill(t.Context(), "web", "KILL", false)
			if call == "create" {
				if !errors.Is(err, protocol.ErrNotExist) || len(s.list()) != 0 {
					t.Errorf("found %v and %+v; want no container", err, s.list())
				}
			} else {
				if err != nil {
					t.Errorf("kill: %v", err)
				}
				awaitKilled(t, s)
			}
			if err := <-ended; err == nil {
				t.Error("the call that hung has succeeded")
			}
		})
	}
}

// TestKillIsAnsweredByAHandlerThatNeverDoes kills a container whose handler hangs even after its
// context has ended, and in each kill: the container ends all the same.
func TestKillIsAnsweredByAHandlerThatNeverDoes(t *testing.T) {
	for _, call := range []string{"update", "kill"} {
		t.Run(call, func(t *testing.T) {
			s, h := newHanging(t, call)
			var all sync.WaitGroup
			defer all.Wait()
			if call == "update" {
				h.stubborn = make(chan struct{})
				defer close(h.stubborn)
			}
			all.Go(func() { _ = h.operation(t.Context(), s) })
			<-h.begun
			if call == "kill" {
				// The handler is asked again, unless the process has ended by then.
				ended := make(chan struct{})
				defer close(ended)
				all.Go(func() {
					select {
					case <-h.begun:
					case <-ended:
					}
				})
			}
			if err := s.kill(t.Context(), "web", "KILL", false); (err != nil) != (call == "update") {
				t.Errorf("found %v", err)
			}
			awaitKilled(t, s)
		})
	}
}

// TestForcedDeleteWhileTheHandlerHangs deletes a container by force while its handler hangs.
func TestForcedDeleteWhileTheHandlerHangs(t *testing.T) {
	s, h := newHanging(t, "start")
	ended := make(chan error, 1)
	go func() { ended <- h.operation(t.Context(), s) }()
	<-h.begun
	if err := s.remove(t.Context(), "web", true); err != nil || len(s.list()) != 0 {
		t.Errorf("found %v and %+v; want no container", err, s.list())
	}
	if err := <-ended; !errors.Is(wireError(err), protocol.ErrUnknownOutcome) {
		t.Errorf("start: found %v; want an unknown outcome", err)
	}
}

// TestKillOfACreateThatWaits interrupts the creation of a container that waits for one which hangs.
func TestKillOfACreateThatWaits(t *testing.T) {
	s, h := newHanging(t, "create")
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { _ = h.operation(ctx, s) })
	<-h.begun
	r := hangingRequest()
	r.ID = "next"
	ended := make(chan error, 1)
	all.Go(func() {
		_, err := s.create(ctx, r)
		ended <- err
	})
	for end := time.Now().Add(2 * time.Minute); len(s.list()) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the container that waits is not known")
		}
	}
	if err := s.kill(ctx, "next", "KILL", true); !errors.Is(err, protocol.ErrNotExist) {
		t.Errorf("found %v; want no container", err)
	}
	if err := <-ended; !errors.Is(err, errKilled) {
		t.Errorf("found %v; want %v", err, fmt.Errorf("create next: %w", errKilled))
	}
}
