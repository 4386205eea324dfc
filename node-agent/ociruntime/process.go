// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"net"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/launch"
)

// Process is the first process of a container that Run has started or Restore has restored. It is a
// child of the caller, who calls Wait.
type Process struct {
	// PID of the first process.
	PID    int
	r      *Runtime
	rec    *record
	child  *launch.Child
	notify *net.UnixConn
}

// FD returns the first process's pidfd (pidfd_open(2)), which is open until Wait.
func (p *Process) FD() int { return p.child.PIDFD }

// Wait waits for the first process to end, and reaps it.
func (p *Process) Wait() unix.WaitStatus { return p.child.Wait() }

// Delete removes the container after Wait. It returns nil if another caller has removed it.
func (p *Process) Delete(ctx context.Context) error { return p.r.Delete(ctx, p.rec.ID, true) }

// Notify returns the socket on which the process reports its readiness, nil unless
// CreateOptions.Notify asked for it.
func (p *Process) Notify() *net.UnixConn { return p.notify }
