// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime"
)

// starter creates and starts a container, by Runtime.Run or Runtime.Restore.
type starter func(context.Context, ociruntime.CreateOptions) (*ociruntime.Process, error)

// runContainer runs a container in the foreground, or leaves it running.
func (a *app) runContainer(ctx context.Context, start starter, o ociruntime.CreateOptions, detach,
	keep bool,
) error {
	o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
	if detach {
		ctx, err := untilSignal(ctx)
		if err != nil {
			return err
		}
		p, err := start(ctx, o)
		if err != nil || p.Notify() == nil {
			return err
		}
		a.waitReady(ctx, p.Notify(), p.PID)
		return nil
	}
	f, err := newForeground(o.ConsoleSocket == "")
	if err != nil {
		return err
	}
	defer f.tty.close()
	o.Console, o.PlainNewlines = f.tty.console(), true
	// No signal ends berth itself, nor may the container's start be cut short by one that it is to
	// get.
	p, err := start(ctx, o)
	if err != nil {
		return err
	}
	if notify := p.Notify(); notify != nil {
		defer func() { _ = notify.Close() }()
		go a.forwardReady(notify, os.Getpid(), false)
	}
	status, err := f.wait(p)
	if err != nil {
		return errors.Join(err, p.Delete(ctx))
	}
	if !keep {
		if err := p.Delete(ctx); err != nil {
			fmt.Fprintln(a.stderr, errors.Join(errDeleted, err))
		}
	}
	return exitCode(status)
}

// exitCode returns the exit code that a shell reports for a process that ended.
func exitCode(status unix.WaitStatus) error {
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	if code == 0 {
		return nil
	}
	return exitError(code)
}

// foreground connects a process of a container with berth's caller: terminal, signals and exit.
type foreground struct {
	// signals are forwarded from the moment that there is a process to forward them to; until then
	// they wait.
	signals *signals
	// tty is the process's terminal, if it is to be connected to berth's own.
	tty *terminal
}

func newForeground(connect bool) (*foreground, error) {
	s, err := catchSignals(forwarded())
	if err != nil {
		return nil, err
	}
	f := &foreground{signals: s}
	if connect {
		f.tty, err = newTerminal()
	}
	return f, err
}

// process is a child of berth's that stands in for it.
type process interface {
	// FD is the process's pidfd, open until Wait.
	FD() int
	Wait() unix.WaitStatus
}

// wait waits for a process to end and reaps it. On an error the process still runs.
func (f *foreground) wait(p process) (unix.WaitStatus, error) {
	if err := f.tty.attach(); err != nil {
		return 0, err
	}
	if err := f.signals.waitEnd(p.FD(), func(sig unix.Signal) { f.forward(p, sig) }); err != nil {
		return 0, err
	}
	status := p.Wait()
	f.tty.drain()
	return status, nil
}

// forward sends a signal that berth got to the process.
func (f *foreground) forward(p process, sig unix.Signal) {
	if sig == unix.SIGWINCH {
		f.tty.resize()
		return
	}
	_ = unix.PidfdSendSignal(p.FD(), sig, nil, 0) // one that has ended has no use for it
}

// terminal connects the terminal of a container in the foreground to berth's own.
type terminal struct {
	parent, child *os.File
	master        *os.File
	restore       *unix.Termios
	done          chan struct{}
}

// newTerminal creates the socket through which the container's first process sends its terminal.
func newTerminal() (*terminal, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	return &terminal{parent: os.NewFile(uintptr(fds[0]), "console"), child: os.NewFile(uintptr(fds[1]),
		"console")}, nil
}

// console returns the socket's other end, for the container.
func (t *terminal) console() *os.File {
	if t == nil {
		return nil
	}
	return t.child
}

// attach takes the terminal, if the container has one, and begins to copy.
func (t *terminal) attach() error {
	if t == nil {
		return nil
	}
	t.child.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(t.parent.Fd()), make([]byte, 64), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return fmt.Errorf("receive the container's terminal: %w", err)
	}
	if n == 0 {
		return nil // process.terminal is false: nobody has written, and the last writer is gone
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("receive the container's terminal: found %d control messages: %w",
			len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("receive the container's terminal: found %d descriptors: %w", len(fds), err)
	}
	t.master = os.NewFile(uintptr(fds[0]), "ptmx")
	t.makeRaw()
	t.resize()
	t.done = make(chan struct{})
	go func() {
		_, _ = io.Copy(t.master, os.Stdin)
	}()
	go func() {
		// ends with EIO when the last process that has the terminal open is gone
		_, _ = io.Copy(stream(1), t.master)
		close(t.done)
	}()
	return nil
}

// makeRaw lets keys such as ^C through to the container's terminal, which turns them into signals
// there (cfmakeraw(3)). What is written is still processed: the container's terminal leaves to this
// one what becomes of a newline.
func (t *terminal) makeRaw() {
	old, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	if err != nil {
		return // not a terminal
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR |
		unix.ICRNL | unix.IXON
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, &raw) == nil {
		t.restore = old
	}
}

// resize gives the container's terminal the size of berth's own.
func (t *terminal) resize() {
	if t == nil || t.master == nil {
		return
	}
	if size, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, size)
	}
}

// drain waits until all output has been copied.
func (t *terminal) drain() {
	if t != nil && t.done != nil {
		<-t.done
	}
}

func (t *terminal) close() {
	if t == nil {
		return
	}
	if t.restore != nil {
		_ = unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, t.restore)
	}
	for _, f := range []*os.File{t.parent, t.child, t.master} {
		if f != nil {
			f.Close()
		}
	}
}
