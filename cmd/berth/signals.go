// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// signals receives the signals of this process through a pipe, one byte each, from the time at
// which they are caught.
//
// Package os/signal asks a thread of its own for every signal that it is to catch, two switches of
// threads each time: a millisecond for those that a container in the foreground is to get, a tenth
// of what the whole container takes. A handler that writes to a pipe costs a system call a signal.
// (It is no part of the Go runtime, which it does not touch; supervise, which lives long, has
// package os/signal.)
type signals struct {
	fd   int      // the pipe's read end, not blocking
	file *os.File // the same, once cancel reads it
}

// cancelling are the signals that end a command.
var cancelling = []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}

// forwarded returns the signals that a container's process gets in place of berth: all but those
// that the kernel keeps (SIGKILL, SIGSTOP), those of faults, and berth's own (SIGCHLD, SIGPIPE,
// SIGURG of the Go scheduler).
func forwarded() []unix.Signal {
	list := []unix.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
		unix.SIGTERM, unix.SIGCONT,
		unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM,
		unix.SIGPROF, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR,
	}
	// Those below are the C library's and, in programs that are made with it, the Go runtime's
	// (signal(7), Real-time signals).
	const firstRealTime, lastRealTime = 35, 64
	for sig := unix.Signal(firstRealTime); sig <= lastRealTime; sig++ {
		list = append(list, sig)
	}
	return list
}

// relayFD is the descriptor to which relay writes: a signal handler has no argument of ours.
var relayFD int32 //nolint:unused // relay, in assembly, reads it

// relayPC is the address, for the kernel to call, of a handler of signals (sigaction(2)) in
// assembly that writes the signal's number to relayFD. sigreturnPC is that of what it returns to on
// amd64 (rt_sigreturn(2)); elsewhere it is 0, the kernel has one of its own.
var relayPC, sigreturnPC uintptr

// kernelSigaction is struct sigaction as rt_sigaction(2) takes it on amd64 and arm64.
type kernelSigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// catchSignals sends signals of this process through a pipe from now on. There may be one such pipe
// in a process.
func catchSignals(list []unix.Signal) (*signals, error) {
	var p [2]int
	// A pipe that is full, with 65,536 signals, takes no more: the kernel does not keep as many
	// either.
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("catch signals: pipe2: %w", err)
	}
	relayFD = int32(p[1])
	// SA_* of asm/signal.h, the same on amd64 and arm64
	const saRestorer, saOnStack, saRestart = 0x04000000, 0x08000000, 0x10000000
	action := &kernelSigaction{
		// The handler runs on the signal stack that the Go runtime allocates for each thread: a
		// goroutine's stack is too small.
		handler: relayPC, flags: saOnStack | saRestart, restorer: sigreturnPC, mask: ^uint64(0),
	}
	if sigreturnPC != 0 {
		action.flags |= saRestorer
	}
	for _, sig := range list {
		if sig == unix.SIGHUP && hangupIgnored() {
			continue
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
			uintptr(unsafe.Pointer(action)), 0, unsafe.Sizeof(action.mask), 0, 0)
		if errno != 0 {
			return nil, fmt.Errorf("catch %s: rt_sigaction: %w", unix.SignalName(sig), errno)
		}
	}
	return &signals{fd: p[0]}, nil
}

// hangupIgnored reports whether the caller ignores SIGHUP, as nohup(1) does. A handler would undo
// that.
func hangupIgnored() bool {
	const ignore = 1 // SIG_IGN
	var action kernelSigaction
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGHUP), 0,
		uintptr(unsafe.Pointer(&action)), unsafe.Sizeof(action.mask), 0, 0)
	return errno == 0 && action.handler == ignore
}

// stream is a standard stream, by its descriptor, without what os.Stdout and os.Stderr do where
// nobody reads any more: they end the process (os/signal, SIGPIPE), with a container half made or
// left alone.
type stream int

func (s stream) Write(p []byte) (n int, err error) {
	for n < len(p) {
		k, err := unix.Write(int(s), p[n:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN): // the caller's, who has made it so
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s), Events: unix.POLLOUT}}, -1)
		case err != nil:
			return n, err
		default:
			n += k
		}
	}
	return n, nil
}

// read returns the signals that have arrived and were not read yet.
func (s *signals) read() []unix.Signal {
	var buf [64]byte
	n, err := unix.Read(s.fd, buf[:])
	if err != nil {
		return nil // none, or a further one interrupted it: then poll finds it at once
	}
	out := make([]unix.Signal, n)
	for i, sig := range buf[:n] {
		out[i] = unix.Signal(sig)
	}
	return out
}

// cancel returns a context that ends with the first signal that ends a command. stop ends that, and
// returns the signals that have arrive during the wait.
func (s *signals) cancel(parent context.Context) (_ context.Context, stop func() []unix.Signal) {
	ctx, cancel := context.WithCancelCause(parent)
	var came []unix.Signal
	s.file = os.NewFile(uintptr(s.fd), "signals")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var buf [1]byte
		for {
			n, err := s.file.Read(buf[:])
			if err != nil {
				return
			}
			for _, b := range buf[:n] {
				sig := unix.Signal(b)
				came = append(came, sig)
				if slices.Contains(cancelling, sig) {
					cancel(fmt.Errorf("%w by %s", context.Canceled, unix.SignalName(sig)))
				}
			}
		}
	}()
	return ctx, func() []unix.Signal {
		_ = s.file.SetReadDeadline(time.Unix(1, 0))
		<-ended
		return came
	}
}

// untilSignal returns the context of a command that a signal ends.
func untilSignal(ctx context.Context) (context.Context, error) {
	s, err := catchSignals(cancelling)
	if err != nil {
		return nil, err
	}
	ctx, _ = s.cancel(ctx)
	return ctx, nil
}

// waitEnd waits until the process of a pidfd has ended, and passes on each signal that arrives
// before that.
func (s *signals) waitEnd(pidfd int, handle func(unix.Signal)) error {
	fds := []unix.PollFd{
		{Fd: int32(pidfd), Events: unix.POLLIN},
		{Fd: int32(s.fd), Events: unix.POLLIN},
	}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		for _, sig := range s.read() {
			handle(sig)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		fds[0].Revents = 0
	}
}
