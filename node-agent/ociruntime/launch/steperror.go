// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// StepError is a step that failed in the child.
type StepError struct {
	// Phase is the synchronization point that the child was on the way to.
	Phase plan.Sync
	// Index of the step in the plan.
	Index int
	// Field is the field of the document that the step served.
	Field plan.Field
	// Path is the file that the step used, as far as the plan knows; empty if it used none.
	Path string
	// Call is the step, rendered as strace would.
	Call string
	// Name of the system call.
	Name string
	// Errno is the error that the step returned.
	Errno unix.Errno
	// Cause is the likely cause, as plan.Cause returns it; empty if it is not known.
	Cause string
}

func (e *StepError) Error() string {
	s := fmt.Sprintf("%s: %s: %s (step %d: %s)", e.Field, e.Name, e.Errno, e.Index, e.Call)
	if e.Cause != "" {
		s += "; likely cause: " + e.Cause
	}
	return s
}

func (e *StepError) Unwrap() error { return e.Errno }

// newStepError turns a report into an error.
func newStepError(p *plan.Plan, m message) error {
	if m.step >= uint64(len(p.Steps)) {
		return fmt.Errorf("the container's first process reported step %d of %d", m.step, len(p.Steps))
	}
	e := stepAt(p, int(m.step))
	e.Errno = unix.Errno(m.errno)
	e.Cause = plan.Cause(e.Field.String(), e.Name, e.Errno)
	return e
}

// stepAt describes a step of a plan.
func stepAt(p *plan.Plan, i int) *StepError {
	s := p.Steps[i]
	return &StepError{
		Phase: p.Phase(i), Index: i, Field: s.Field, Path: pathOf(p, i),
		Call: s.String(), Name: s.Name(),
	}
}

// pathOf returns the file that a step is about: its path below the directory whose descriptor it is
// given, if any.
func pathOf(p *plan.Plan, i int) string {
	s := &p.Steps[i]
	dir, name := "", ""
	for j := range min(2, len(s.Args)) {
		if r, ok := s.Args[j].Reg(); ok && j == 0 {
			dir = pathOfRegister(p, i, r)
		}
		if text, ok := s.Args[j].Text(); ok && name == "" {
			name = text
		}
	}
	switch s.Call {
	case unix.SYS_OPENAT2, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_OPEN_TREE, unix.SYS_FACCESSAT,
		unix.SYS_FACCESSAT2, unix.SYS_FCHOWNAT, unix.SYS_UNLINKAT,
		unix.SYS_MOUNT_SETATTR, unix.SYS_CHDIR, unix.SYS_PIVOT_ROOT, unix.SYS_UMOUNT2, unix.SYS_EXECVE,
		unix.SYS_CHROOT:
		if dir == "" {
			return name
		}
		return path.Join(dir, name)
	case unix.SYS_SYMLINKAT: // the new link comes third, below the directory
		if len(s.Args) > 2 {
			if r, ok := s.Args[1].Reg(); ok {
				dir = pathOfRegister(p, i, r)
			}
			name, _ = s.Args[2].Text()
		}
		return path.Join(dir, name)
	case unix.SYS_MOVE_MOUNT: // onto what its third argument stands for
		if len(s.Args) > 3 {
			target, _ := s.Args[3].Text()
			if r, ok := s.Args[2].Reg(); ok {
				return path.Join(pathOfRegister(p, i, r), target)
			}
			return target
		}
	case unix.SYS_WRITE, unix.SYS_READ, unix.SYS_FCHDIR, unix.SYS_IOCTL, unix.SYS_FCHOWN,
		unix.SYS_FCHMOD, unix.SYS_FSTATFS, unix.SYS_SETNS:
		return dir
	}
	return ""
}

// pathOfRegister returns the path of a descriptor that a step before i has opened.
func pathOfRegister(p *plan.Plan, i int, r plan.Reg) string {
	for i--; i >= 0; i-- {
		if p.Steps[i].Out == r {
			switch p.Steps[i].Call {
			case unix.SYS_OPENAT2, unix.SYS_OPEN_TREE:
				return pathOf(p, i)
			}
			return ""
		}
	}
	return ""
}
