// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Who collects which child
//
// Three kinds of children end in this process, and a wait status can be had once only:
//
//  1. the first process of a container, whose exit code is what we are here for;
//  2. commands that os/exec runs (an External handler's program, a hook), whose status belongs to
//     exec.Cmd.Wait: taken away from it, that fails with ECHILD, and with it the create it was part
//     of;
//  3. orphans: what a container or a handler has left behind and the kernel gives to us as the
//     nearest subreaper. Nobody waits for them, they would stay zombies.
//
// wait4(-1) in the usual loop takes all three. They differ by the thread. To the kernel a child
// belongs to the thread that forked it, and orphans go to the first living thread of the subreaper,
// which is its main thread (kernel/exit.c, find_new_reaper and find_alive_thread). So the reaper
// has the main thread to itself: nothing else runs there, hence no os/exec forks there, and
// wait4(-1) with __WNOTHREAD, "do not wait for children of other threads" (wait(2)), finds orphans
// and never a child of os/exec.
//
// The first process of a container is of the third kind if an External handler's program made it
// (it is adopted as that program exits), and a child of some other thread if the native runtime
// did. Both are in byPID from the moment that Create has answered; then the reaper recognises the
// one, and the container's pidfd, which polls as readable at the exit, leads to a wait4 for just
// that pid for either. An adopted one may even end before its pid is known to us. So while creates
// are under way the statuses of unknown orphans are kept (early), and register looks there first.
//
// # Nothing is lost by a kill
//
// A wait status can be had once only, so a supervisor that took it and was killed before it had
// written it down would lose it. The exit of a container's process therefore goes: peek (waitid(2),
// WNOWAIT) -> drain the pipes -> write the record -> reap -> publish. See exited.

// errMainThread is returned by Run when it cannot have the main thread.
var errMainThread = errors.New(
	"the process's main thread is taken by another goroutine (runtime.LockOSThread)")

// onMainThread runs f with the process's main thread locked to it. A program that calls
// runtime.LockOSThread in an init function, and Run from main, has it at once. Otherwise goroutines
// are started and held on the threads they come upon, until one of them comes upon the main thread.
func onMainThread(f func()) error {
	try := func() bool {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if unix.Gettid() != os.Getpid() {
			return false
		}
		f()
		return true
	}
	if try() {
		return nil
	}
	const perRound, patience = 32, 10 * time.Second
	for begin := time.Now(); time.Since(begin) < patience; {
		release := make(chan struct{})
		got := make(chan bool)
		won := make(chan struct{})
		for range perRound {
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				if unix.Gettid() != os.Getpid() {
					got <- false
					<-release
					return
				}
				got <- true
				<-release
				f()
				close(won)
			}()
			if <-got {
				close(release)
				<-won
				return nil
			}
		}
		close(release)
		// the main thread may be waiting in the network poller, or in another goroutine's system call
		time.Sleep(time.Millisecond)
	}
	return errMainThread
}

// reapLoop collects orphans until stop is closed. It runs on the main thread.
func (s *server) reapLoop(stop <-chan struct{}) {
	// The signal only says that there is something to look at: one may stand for many.
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	defer signal.Stop(chld)
	for {
		s.reapOrphans()
		select {
		case <-chld:
		case <-s.reaped:
		case <-stop:
			return
		}
	}
}

// maxEarly bounds the statuses that are kept of orphans while creates are under way.
const maxEarly = 4096

// reapOrphans collects every child of the main thread that has ended. It stops at the first process
// of a container, which stays a zombie until its exit is on disk; the reaper is woken when that is
// so.
func (s *server) reapOrphans() {
	for {
		s.mu.Lock()
		pid, ws, err := peek(unix.P_ALL, 0, unix.WNOTHREAD)
		if err != nil || pid == 0 {
			s.mu.Unlock()
			return
		}
		if c := s.byPID[pid]; c != nil {
			delete(s.byPID, pid)
			s.zombies[pid] = true
			s.mu.Unlock()
			s.exited(c, &ws, nil)
			return
		}
		if s.zombies[pid] {
			s.mu.Unlock()
			return
		}
		// The same process: what has ended stays until it is waited for, and nobody else waits for
		// children of this thread.
		if _, err := waitFor(pid); err == nil && s.creates > 0 && len(s.early) < maxEarly {
			s.early[pid] = ws
		}
		s.mu.Unlock()
	}
}

// peek returns a child that has ended and its wait status, and leaves it a zombie (waitid(2),
// WNOWAIT). The pid is 0 if none has.
func peek(kind, id, options int) (int, unix.WaitStatus, error) {
	var info struct {
		signo, errno, code int32
		_                  int32 // 64-bit platforms only
		pid                int32
		uid                uint32
		status             int32
		_                  [100]byte
	}
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Waitid(kind, id, (*unix.Siginfo)(unsafe.Pointer(&info)), options|unix.WEXITED|
			unix.WNOWAIT|unix.WNOHANG|unix.WALL, nil)
	}
	if err != nil || info.pid == 0 {
		return 0, 0, err
	}
	// The form in which wait4(2) has it: what waitid(2) reports is taken apart.
	switch info.code {
	case cldKilled:
		return int(info.pid), unix.WaitStatus(info.status), nil
	case cldDumped:
		return int(info.pid), unix.WaitStatus(info.status | 0x80), nil
	}
	return int(info.pid), unix.WaitStatus(info.status << 8), nil
}

// bury reaps the process of a container whose exit has been written down. It does nothing for one
// that is no child or is reaped.
func (s *server) bury(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.zombies[c.pid] {
		return
	}
	delete(s.zombies, c.pid)
	if _, err := waitFor(c.pid); err != nil {
		s.log.Error("container's process cannot be reaped", "id", c.id, "pid", c.pid, "error", err)
	}
	select {
	case s.reaped <- struct{}{}:
	default:
	}
}

// si_code of a child that has ended (sigaction(2)).
const (
	cldKilled = 2
	cldDumped = 3
)

// waitFor reaps a child that has ended.
func waitFor(pid int) (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	got, err := unix.Wait4(pid, &ws, unix.WNOHANG|unix.WALL, nil)
	for errors.Is(err, unix.EINTR) {
		got, err = unix.Wait4(pid, &ws, unix.WNOHANG|unix.WALL, nil)
	}
	if err == nil && got == 0 {
		err = unix.EAGAIN
	}
	return ws, err
}

// reap takes note of the end of the container's process. It returns false if the process has not
// ended. The pidfd of an adopted one has polled as readable.
func (s *server) reap(c *container) bool {
	s.mu.Lock()
	if c.adopted {
		s.mu.Unlock()
		ws, err := exitStatusOfNonChild(c.pidfd, c.pid, c.rec.StartTime)
		if err != nil {
			s.exited(c, nil, err)
		} else {
			s.exited(c, &ws, nil)
		}
		return true
	}
	if s.byPID[c.pid] != c {
		s.mu.Unlock()
		return true // the reaper was faster
	}
	pid, ws, err := peek(unix.P_PID, c.pid, 0)
	if err == nil && pid == 0 {
		s.mu.Unlock()
		return false
	}
	// If it is not our child, a handler's program leaves the container to a daemon of its own.
	if err != nil && mayLive(c.pidfd, c.pid, c.rec.StartTime) {
		s.mu.Unlock()
		return false
	}
	delete(s.byPID, c.pid)
	if err == nil {
		s.zombies[c.pid] = true
	}
	s.mu.Unlock()
	if err == nil {
		s.exited(c, &ws, nil)
		return true
	}
	if ws, err = exitStatusOfNonChild(c.pidfd, c.pid, c.rec.StartTime); err != nil {
		s.exited(c, nil, err)
	} else {
		s.exited(c, &ws, nil)
	}
	return true
}
