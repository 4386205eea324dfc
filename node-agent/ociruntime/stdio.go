// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// streamOptions are the standard streams and the console that a caller gives to a process.
type streamOptions struct {
	stdin, stdout, stderr *os.File
	console               *os.File
	consoleSocket         string
}

func (o *CreateOptions) streams() streamOptions {
	return streamOptions{o.Stdin, o.Stdout, o.Stderr, o.Console, o.ConsoleSocket}
}

func (o *ExecOptions) streams() streamOptions {
	return streamOptions{o.Stdin, o.Stdout, o.Stderr, o.Console, o.ConsoleSocket}
}

// streams are the standard streams of a process without a terminal.
type streams struct {
	// nulls are the numbers of those that are /dev/null.
	nulls []int
	// files are the others.
	files []*os.File
}

var errNoConsoleSocket = errors.New(
	"process.terminal: found true; a detached container with a terminal needs --console-socket")

// openStreams turns the standard streams of a process, or its console, into inputs of the child.
//
// A process with a terminal has no other stream, not even until its start: containerd's shim reads
// ours to their end before it looks at the terminal.
func (s *session) openStreams(ctx context.Context, o streamOptions, isTerminal bool) (st streams,
	err error,
) {
	null, err := s.open("/dev/null", unix.O_RDWR)
	if err != nil {
		return st, err
	}
	if !isNull(null) {
		return st, errors.New("/dev/null of the host is not the null device (1:3)")
	}
	if isTerminal {
		return st, s.openConsole(ctx, o)
	}
	if o.consoleSocket != "" {
		return st, errors.New(
			"--console-socket: found it where process.terminal is false: there is no console to send")
	}
	inputs := [3]plan.Input{plan.InputStdin, plan.InputStdout, plan.InputStderr}
	for i, f := range [3]*os.File{o.stdin, o.stdout, o.stderr} {
		if f == nil {
			f = null
		}
		if isNull(f) {
			st.nulls = append(st.nulls, i)
		} else {
			st.files = append(st.files, f)
		}
		s.inputs[inputs[i]] = int(f.Fd())
	}
	return st, nil
}

// openConsole turns the socket that receives the terminal's master into an input of the child.
func (s *session) openConsole(ctx context.Context, o streamOptions) error {
	console := o.console
	if console == nil {
		var err error
		if console, err = o.dialConsole(ctx); err != nil {
			return err
		}
		s.closeLater(console)
		// The child's sendmsg must wait, not fail, if the receiver is slow.
		if err := unix.SetNonblock(int(console.Fd()), false); err != nil {
			return fmt.Errorf("--console-socket: %w", err)
		}
	}
	s.inputs[plan.InputConsole] = int(console.Fd())
	return nil
}

// dialConsole connects to the console socket. The caller closes it.
func (o *streamOptions) dialConsole(ctx context.Context) (*os.File, error) {
	if o.consoleSocket == "" {
		return nil, errNoConsoleSocket
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", o.consoleSocket)
	if err != nil {
		return nil, fmt.Errorf("--console-socket: %w", err)
	}
	defer conn.Close()
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		return nil, fmt.Errorf("--console-socket: %w", err)
	}
	return f, nil
}

// sendConsole sends the master of a terminal through the console socket.
func (o *streamOptions) sendConsole(ctx context.Context, master int) error {
	socket := o.console
	if socket == nil {
		var err error
		if socket, err = o.dialConsole(ctx); err != nil {
			return err
		}
		defer socket.Close()
	}
	err := unix.Sendmsg(int(socket.Fd()), []byte("/dev/ptmx"), unix.UnixRights(master), nil, 0)
	if err != nil {
		return fmt.Errorf("--console-socket: %w", err)
	}
	return nil
}

// isNull reports whether a file is the null device.
func isNull(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR &&
		st.Rdev == unix.Mkdev(1, 3)
}

// giveTo makes the user of the process, as the host numbers it, the owner of its streams.
func (st streams) giveTo(spec *specs.Spec) {
	user := spec.Process.User
	uid, gid := hostID(spec.Linux.UIDMappings, user.UID), hostID(spec.Linux.GIDMappings, user.GID)
	if uid == 0 {
		return
	}
	for _, f := range st.files {
		giveAway(f, uid, gid)
	}
}

// hostID returns the number that an id of the container has on the host.
func hostID(mappings []specs.LinuxIDMapping, id uint32) uint32 {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID)
		}
	}
	return id
}

// giveAway lets the container's user open its own standard stream again, as through /dev/stdout. A
// stream that has no owner to change, or is shared with all such as /dev/null, stays as it is. A
// terminal keeps its group, which is that of tty(4).
func giveAway(f *os.File, uid, gid uint32) {
	var st unix.Stat_t
	fd := int(f.Fd())
	if unix.Fstat(fd, &st) != nil || st.Uid == uid || st.Rdev == unix.Mkdev(1, 3) {
		return
	}
	group := int(gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFCHR:
		group = -1
	default:
		return // a log file belongs to its writer; a directory or a disk is no stream
	}
	// Not possible on every kind of file; then it can still be written to.
	_ = unix.Fchown(fd, int(uid), group)
}
