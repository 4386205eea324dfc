// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// notifyVariable names the socket of the service manager (sd_notify(3)).
const notifyVariable = "NOTIFY_SOCKET"

// listenFDs returns the number of sockets that a service manager has passed to berth, from
// descriptor 3 on (sd_listen_fds(3)).
func listenFDs() int {
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return 0
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// barrierTimeout is the timeout of the wait for the service manager, as in runc's call of
// sd_notify_barrier(3).
const barrierTimeout = 30 * time.Second

// forwardReady notifies the service manager once a container's process is ready, and names mainPID
// as the process to watch. It passes on nothing else: a container must not speak for a service of
// the host. It returns when the socket is closed and, with once, after the first time. A failure to
// notify the manager is a warning: the container runs.
func (a *app) forwardReady(from *net.UnixConn, mainPID int, once bool) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return // closed
		}
		if !slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
			continue
		}
		a.debugf("the container is ready")
		if err := notifyManager(mainPID); err != nil {
			a.record(levelWarning, fmt.Sprintf("%s: %v", notifyVariable, err))
		}
		if once {
			return
		}
	}
}

// waitReady waits until a container is ready or has ended, or the context ends.
func (a *app) waitReady(ctx context.Context, from *net.UnixConn, pid int) {
	defer func() { _ = from.Close() }()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer unix.Close(pidfd)
		for ctx.Err() == nil {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
			if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
		}
		_ = from.Close() // ends the reading
	}()
	a.forwardReady(from, pid, true)
	cancel()
	<-ended
}

// notifyManager sends a message of sd_notify(3) and waits until the manager has read it: the
// manager looks for the sender, which soon ends.
func notifyManager(mainPID int) error {
	// A name that begins with @ is one of no file, which package net knows.
	manager, err := net.DialUnix("unixgram", nil, &net.UnixAddr{
		Name: os.Getenv(notifyVariable),
		Net:  "unixgram",
	})
	if err != nil {
		return err
	}
	defer func() { _ = manager.Close() }()
	for _, message := range []string{"READY=1", "MAINPID=" + strconv.Itoa(mainPID)} {
		if _, err := manager.Write([]byte(message)); err != nil {
			return err
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// package net sends no control message through a socket that is connected
	socket, err := manager.File()
	if err == nil {
		err = unix.Sendmsg(int(socket.Fd()), []byte("BARRIER=1"), unix.UnixRights(int(w.Fd())), nil, 0)
		socket.Close()
	}
	w.Close()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(barrierTimeout)); err != nil {
		return err
	}
	// The end of the pipe: the manager closes it unread. One that does not know the message drops
	// it at once.
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer to BARRIER=1 in %s", barrierTimeout)
	}
	return nil
}
