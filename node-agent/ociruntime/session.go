// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// session holds the resources of one operation: the inputs of its child, the files to close at its
// end, and the functions that undo it if it fails. An operation has at most one child.
type session struct {
	r      *Runtime
	plan   *plan.Plan
	child  *launch.Child
	inputs map[plan.Input]int

	closers []io.Closer
	undo    []func() error
}

func (r *Runtime) newSession() *session {
	return &session{r: r, inputs: map[plan.Input]int{}}
}

// closeLater closes c when the operation ends.
func (s *session) closeLater(c io.Closer) { s.closers = append(s.closers, c) }

// onFailure calls f if the operation fails. An error of f is a warning.
func (s *session) onFailure(f func() error) { s.undo = append(s.undo, f) }

// end closes the operation's files and, if it failed, undoes its steps, the last first.
func (s *session) end(err error) {
	for _, c := range s.closers {
		_ = c.Close()
	}
	if err == nil {
		return
	}
	for i := len(s.undo) - 1; i >= 0; i-- {
		if err := s.undo[i](); err != nil {
			s.r.warn(err.Error())
		}
	}
}

// open opens a file for the child to inherit. Unlike os.OpenFile it leaves a fifo blocking.
func (s *session) open(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	s.closeLater(f)
	return f, nil
}

// openSocket creates a pair of sockets that carry messages. It returns the parent's end; the other
// is an input of the child.
func (s *session) openSocket(child plan.Input) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	own := os.NewFile(uintptr(pair[0]), "socket")
	s.closeLater(own)
	s.closeLater(os.NewFile(uintptr(pair[1]), "socket"))
	s.inputs[child] = pair[1]
	return own, nil
}

// openProcess opens a pidfd of a container's first process for the child, which joins its
// namespaces. It returns nil if that process has ended.
func (s *session) openProcess(rec *record) *os.File {
	fd := rec.pidfd()
	if fd < 0 {
		return nil
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	s.closeLater(f)
	s.inputs[plan.InputContainer] = fd
	return f
}

// usePlan sets the plan of the child and logs the plan's warnings.
func (s *session) usePlan(p *plan.Plan) {
	s.plan = p
	for _, w := range p.Warnings {
		s.r.warn(w)
	}
	if s.r.change != nil {
		s.r.change(p)
	}
}

// errNoAnswer returns the error of a synchronization point that the operation does not expect.
func errNoAnswer(s plan.Sync) error {
	return fmt.Errorf("no answer to the synchronization point %s", s)
}

// descriptor is a file descriptor that needs no *os.File.
type descriptor int

func (d descriptor) Close() error { return os.NewSyscallError("close", unix.Close(int(d))) }

// closerFunc is a function that io.Closer calls.
type closerFunc func()

func (f closerFunc) Close() error { f(); return nil }

// ignoring returns f without its error, for a file or process that may be gone already.
func ignoring(f func() error) func() error {
	return func() error { _ = f(); return nil }
}
