// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
)

// sendPidfd sends a pidfd to the listener of a unix socket (unix(7), SCM_RIGHTS).
func sendPidfd(ctx context.Context, socket string, pidfd int) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("--pidfd-socket: %w", err)
	}
	defer conn.Close()
	_, _, err = conn.(*net.UnixConn).WriteMsgUnix([]byte("pidfd"), unix.UnixRights(pidfd), nil)
	if err != nil {
		return fmt.Errorf("--pidfd-socket: %w", err)
	}
	return nil
}

// writePidFile replaces a pid file atomically: decimal, without a newline, as clients of runc
// expect. Engines read the file as other users, and a pid is no secret.
func writePidFile(path string, pid int) error {
	err := durable.Replace(path, []byte(strconv.Itoa(pid)), durable.Options{Mode: 0o644})
	if err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	return nil
}
