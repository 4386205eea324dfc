// SPDX-License-Identifier: Apache-2.0

// Package criu speaks with criu(8), the program that writes processes to files and makes them
// again, in the way that is meant for programs: `criu swrk`, one process a request
// (https://criu.org/RPC). It knows criu's messages, which are of go-criu. It must not know what a
// container is.
package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"
)

// Call is one request to a criu of its own.
type Call struct {
	Request *rpc.CriuReq
	// Stdin, Stdout and Stderr are criu's own, which a restored process can inherit; nil is
	// /dev/null.
	Stdin, Stdout, Stderr *os.File
	// Files become criu's descriptors from FirstFile on.
	Files []*os.File
	// Started, if set, is called once criu runs, before it gets the request; criu then has a mount
	// namespace of its own.
	Started func(pid int) error
	// Notify, if set, hears of criu's notifications before they are answered, with the descriptor
	// that came along or -1.
	Notify func(n *rpc.CriuNotify, fd int) error
	// Responded, if set, is called at criu's first message.
	Responded func()
}

// FirstFile is the descriptor of Call.Files[0] in criu: 3 is the socket.
const FirstFile = 4

// maxMessage bounds a message of criu, in bytes.
const maxMessage = 64 << 10

// Error is a request that criu refused.
type Error struct {
	Type    rpc.CriuReqType
	Errno   unix.Errno
	Message string
}

func (e *Error) Error() string {
	s := "criu failed: type " + e.Type.String()
	if e.Errno != 0 {
		s += fmt.Sprintf(" errno %d (%s)", int(e.Errno), e.Errno)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Do calls criu and returns its answer, after criu has ended.
func (c *Call) Do(ctx context.Context) (resp *rpc.CriuResp, err error) {
	program, err := exec.LookPath("criu")
	if err != nil {
		return nil, fmt.Errorf("criu: %w (Debian has it in the package criu)", err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := fds[0], os.NewFile(uintptr(fds[1]), "criu")
	defer unix.Close(ours)
	defer theirs.Close()
	cmd := exec.CommandContext(ctx, program, "swrk", "3")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file(c.Stdin), writer(c.Stdout), writer(c.Stderr)
	cmd.ExtraFiles = append([]*os.File{theirs}, c.Files...)
	if c.Started != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("criu: %w", err)
	}
	// With its end closed here, a criu that dies ends the conversation.
	theirs.Close()
	if c.Started != nil {
		err = c.Started(cmd.Process.Pid)
	}
	if err == nil {
		resp, err = c.converse(ours)
	}
	_ = unix.Shutdown(ours, unix.SHUT_RDWR)
	waitErr := cmd.Wait()
	switch {
	case err != nil:
		return nil, err
	case waitErr != nil && resp.GetType() != rpc.CriuReqType_PRE_DUMP:
		// After a pre-dump criu waits for the next, and takes the end of the conversation for a
		// failure.
		return nil, fmt.Errorf("criu: %w", waitErr)
	}
	return resp, nil
}

func (c *Call) converse(socket int) (*rpc.CriuResp, error) {
	request := c.Request
	for {
		data, err := request.MarshalVT()
		if err != nil {
			return nil, fmt.Errorf("criu: encode the request: %w", err)
		}
		if err := unix.Send(socket, data, unix.MSG_NOSIGNAL); err != nil {
			return nil, fmt.Errorf("criu: send the request: %w", err)
		}
		resp, fd, err := receive(socket)
		if err != nil {
			return nil, err
		}
		if c.Responded != nil {
			c.Responded()
			c.Responded = nil
		}
		if !resp.GetSuccess() {
			closeFD(fd)
			return nil, &Error{
				Type: resp.GetType(), Errno: unix.Errno(resp.GetCrErrno()),
				Message: resp.GetCrErrmsg(),
			}
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			closeFD(fd)
			return resp, nil
		}
		if c.Notify != nil {
			err = c.Notify(resp.GetNotify(), fd)
		}
		closeFD(fd)
		if err != nil {
			return nil, fmt.Errorf("criu: %s: %w", resp.GetNotify().GetScript(), err)
		}
		kind, yes := rpc.CriuReqType_NOTIFY, true
		request = &rpc.CriuReq{Type: &kind, NotifySuccess: &yes}
	}
}

func receive(socket int) (resp *rpc.CriuResp, fd int, err error) {
	data, control := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	var n, nc int
	for {
		n, nc, _, _, err = unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err != nil:
		return nil, -1, fmt.Errorf("criu: read its answer: %w", err)
	case n == 0:
		return nil, -1, errors.New("criu: it has ended without an answer")
	}
	fd = -1
	if messages, err := unix.ParseSocketControlMessage(control[:nc]); err == nil && len(messages) > 0 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) > 0 {
			fd = fds[0]
		}
	}
	resp = &rpc.CriuResp{}
	if err := resp.UnmarshalVT(data[:n]); err != nil {
		closeFD(fd)
		return nil, -1, fmt.Errorf("criu: decode its answer: %w", err)
	}
	return resp, fd, nil
}

func closeFD(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// A nil *os.File in an interface is not nil.
func file(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return f
}

func writer(f *os.File) io.Writer {
	if f == nil {
		return nil
	}
	return f
}

// Version asks criu for its version, as major*10000 + minor*100 + sublevel.
func Version(ctx context.Context) (int, error) {
	kind := rpc.CriuReqType_VERSION
	resp, err := (&Call{Request: &rpc.CriuReq{Type: &kind}}).Do(ctx)
	if err != nil {
		return 0, err
	}
	v := resp.GetVersion()
	return int(v.GetMajorNumber())*10000 + int(v.GetMinorNumber())*100 + int(v.GetSublevel()), nil
}

// Require fails where criu, or the kernel, lacks one of the features that are true in want.
func Require(ctx context.Context, want *rpc.CriuFeatures) error {
	kind := rpc.CriuReqType_FEATURE_CHECK
	resp, err := (&Call{Request: &rpc.CriuReq{Type: &kind, Features: want}}).Do(ctx)
	if err != nil {
		return err
	}
	has := resp.GetFeatures()
	var missing []string
	if want.GetMemTrack() && !has.GetMemTrack() {
		missing = append(missing, "memory tracking (mem_track)")
	}
	if want.GetLazyPages() && !has.GetLazyPages() {
		missing = append(missing, "lazy pages (lazy_pages)")
	}
	if len(missing) > 0 {
		return fmt.Errorf("criu or the kernel lacks %s", strings.Join(missing, ", "))
	}
	return nil
}

// maxLog is the greatest length of criu's log that is read.
const maxLog = 4 << 20

// Complaints returns the lines of a log of criu that report errors, the last ones first to be left
// out when there are many.
func Complaints(dir, log string) []string {
	f, err := os.Open(filepath.Join(dir, log))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLog))
	if err != nil {
		return nil
	}
	const most = 8
	var out []string
	for line := range bytes.Lines(data) {
		if bytes.Contains(line, []byte("Error ")) && len(out) < most {
			out = append(out, strings.TrimSpace(string(line)))
		}
	}
	return out
}
