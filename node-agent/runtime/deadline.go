// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/launch"
)

// readResult waits for a container that has just been started to become its program, as long as a phase of a launch may take: a
// program on a filesystem that does not answer would have `start` wait for good. Then the first process is ended.
func (r *Runtime) readResult(ctx context.Context, rec *record, result int) error {
	deadline := r.deadline
	if deadline == 0 {
		deadline = launch.DefaultDeadline
	}
	limited, cancel := context.WithTimeoutCause(ctx, deadline, os.ErrDeadlineExceeded)
	defer cancel()
	err := launch.ReadResult(limited, result)
	if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
		return err
	}
	hung := launch.HungLate(rec.PID, deadline, "process.args", "execve")
	if fd := rec.pidfd(); fd >= 0 {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		hung.Stays = waitEnd(ctx, fd) != nil
		unix.Close(fd)
	}
	return hung
}
