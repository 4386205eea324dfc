// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ErrNoProcess says that the document has no process. Such a container can be created, not started
// (config.md, Process: the property is required when start is called).
var ErrNoProcess = errors.New("process: found nothing; a container that is to be started needs one")

// replaceMissingProcess gives a document without a process one that waits until the container is
// deleted or stopped. A container that is to run at once needs a process of its own.
func (c *creation) replaceMissingProcess() error {
	if c.spec.Process != nil {
		return nil
	}
	if c.run {
		return ErrNoProcess
	}
	spec := *c.spec
	spec.Process = &specs.Process{Cwd: "/"}
	c.spec = &spec
	return nil
}

// endWithoutProgram does the work of Start for a container without a process: it stops the
// container, as any other failure to execute the program.
func (r *Runtime) endWithoutProgram(ctx context.Context, rec *record) error {
	fd := rec.pidfd()
	if fd < 0 {
		return ErrNoProcess
	}
	defer unix.Close(fd)
	err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	if err == nil {
		err = waitEnd(ctx, fd)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("container %s: its first process (pid %d) does not end: %w", rec.ID,
			rec.PID, err)
	}
	return ErrNoProcess
}
