// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// DefaultDeadline is the time that the child may take from one synchronization point to the next,
// unless the request says otherwise. It is meant for steps that hang, such as a bind source on a
// dead network filesystem, not for slow ones.
const DefaultDeadline = 2 * time.Minute

func orDefault(deadline time.Duration) time.Duration {
	if deadline == 0 {
		return DefaultDeadline
	}
	return deadline
}

// endingTime is the time to wait for the end of a killed child: one that hangs in the kernel may
// not even die.
const endingTime = 5 * time.Second

// HungError is a child that did not come to its next synchronization point in time. It is an
// os.ErrDeadlineExceeded.
type HungError struct {
	// Step is the step at which it was: a StepError without errno and cause.
	Step StepError
	// After is the deadline that has passed.
	After time.Duration
	// Wchan is the kernel function that the child slept in (/proc/PID/wchan), and Syscall the
	// number of the system call that it was in and its arguments (/proc/PID/syscall); empty where
	// the kernel does not show it.
	Wchan, Syscall string
	// Unkillable reports whether the child could not be ended, because it waits in the kernel.
	Unkillable bool
	// PID of the child, for who looks for it.
	PID int
}

func (e *HungError) Error() string {
	s := fmt.Sprintf("%s: %s has not returned; the phase %q has a deadline of %s (", e.Step.Field,
		e.Step.Name, e.Step.Phase, e.After)
	if e.Step.Index >= 0 {
		s += fmt.Sprintf("step %d: ", e.Step.Index)
	}
	s += e.Step.Call
	if e.Step.Path != "" {
		s += "; path: " + e.Step.Path
	}
	if e.Wchan != "" {
		s += "; the kernel waits in " + e.Wchan
	}
	if number, _, _ := strings.Cut(e.Syscall, " "); number != "" {
		s += "; system call " + number
	}
	s += ")"
	if e.Unkillable {
		s += fmt.Sprintf("; process %d cannot be ended before that", e.PID)
	}
	return s
}

func (e *HungError) Unwrap() error { return os.ErrDeadlineExceeded }

// progress is memory that the child shares with its parent and keeps the number of its step in, so
// that the parent knows where a child hangs that can report no more. It is not of the Go heap,
// which the child has a copy of.
type progress struct{ page []byte }

func newProgress() (progress, error) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|
		unix.MAP_ANONYMOUS)
	if err != nil {
		return progress{}, fmt.Errorf("mmap: %w", err)
	}
	return progress{page}, nil
}

func (p *progress) close() {
	if p.page != nil {
		_ = unix.Munmap(p.page)
		p.page = nil
	}
}

// at returns the address that the child writes to.
func (p *progress) at() *int64 { return (*int64)(unsafe.Pointer(unsafe.SliceData(p.page))) }

func (p *progress) mapping() mapping {
	return mapping{uintptr(unsafe.Pointer(p.at())), uintptr(len(p.page))}
}

// step returns the last step that the child has begun.
func (p *progress) step() int { return int(atomic.LoadInt64(p.at())) }

// errLate is returned if the child does not report in time.
var errLate = errors.New("no report in time")

// awaitReport waits until there is something to read of the report pipe.
func awaitReport(fd int, limit time.Duration) error {
	for end := time.Now().Add(limit); ; {
		left := time.Until(end)
		if left <= 0 {
			return errLate
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}},
			int(left.Milliseconds())+1)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("poll: %w", err)
		}
	}
}

// hung returns the error for a child that has not reported in time, with its step. The child still
// runs.
func (c *Child) hung() *HungError {
	e := newHungError(c.PID, c.deadline)
	if i := c.progress.step(); i >= 0 && i < len(c.plan.Steps) {
		e.Step = *stepAt(c.plan, i)
	}
	return e
}

func newHungError(pid int, after time.Duration) *HungError {
	e := &HungError{
		After: after, PID: pid, Wchan: procFile(pid, "wchan"),
		Syscall: procFile(pid, "syscall"),
	}
	if e.Wchan == "0" {
		e.Wchan = "" // it does not sleep
	}
	return e
}

// HungLate returns the error of a child that another process has started, and that has not executed
// its program in time. The caller has no plan and names the last step, execve.
func HungLate(pid int, after time.Duration, field, call string) *HungError {
	e := newHungError(pid, after)
	e.Step = StepError{
		Phase: plan.SyncExec, Index: -1, Field: plan.Field{Path: field, Index: -1},
		Name: call, Call: call,
	}
	return e
}

func procFile(pid int, name string) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// endHung ends and reaps a child that hangs, if the kernel lets it.
func (c *Child) endHung(e *HungError) {
	_ = unix.PidfdSendSignal(c.PIDFD, unix.SIGKILL, nil, 0)
	if err := awaitReport(c.PIDFD, endingTime); err != nil {
		e.Unkillable = true // whoever is its parent after us will reap it
		c.ClosePIDFD()
		return
	}
	c.Wait()
}
