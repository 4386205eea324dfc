// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// message is a report of the child on its pipe: a step, in its upper half the value of a
// synchronization point, and, if it failed, its errno.
type message struct {
	step  uint64
	errno uint64
}

const (
	messageSize = 16
	valueShift  = 32
)

// readMessage reads a report of the child, nil if the child has closed its end.
func readMessage(fd int) (*message, error) {
	var buf [messageSize]byte
	n := 0
	for n < messageSize {
		k, err := unix.Read(fd, buf[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("read the report of the container's first process: %w", err)
		case k == 0:
			return nil, nil
		}
		n += k
	}
	return &message{
		step:  binary.NativeEndian.Uint64(buf[:]),
		errno: binary.NativeEndian.Uint64(buf[8:]),
	}, nil
}

// LateError is a step that failed after another process had started the child. Who reads it has no
// plan, only the step's index.
type LateError struct {
	Step  int
	Errno unix.Errno
}

func (e *LateError) Error() string { return fmt.Sprintf("step %d: %s", e.Step, e.Errno) }

// ReadResult reads the result fifo of a child that has just been started, a non-blocking
// descriptor, until the child has become its program or has failed with a *LateError.
func ReadResult(ctx context.Context, result int) error {
	execing := false
	for {
		var buf [messageSize]byte
		n, err := unix.Read(result, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(result), Events: unix.POLLIN}},
				100); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("poll: %w", err)
			}
		case err != nil:
			return fmt.Errorf("read the report of the container's first process: %w", err)
		case n == 0 && execing:
			return nil
		case n == 0:
			return &KilledError{}
		case n != messageSize:
			return fmt.Errorf("read the report of the container's first process: found %d bytes", n)
		default:
			m := message{
				step:  binary.NativeEndian.Uint64(buf[:]),
				errno: binary.NativeEndian.Uint64(buf[8:]),
			}
			if m.errno != 0 {
				return &LateError{Step: int(m.step), Errno: unix.Errno(m.errno)}
			}
			execing = true
		}
	}
}
