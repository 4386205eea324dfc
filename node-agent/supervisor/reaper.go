// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Who collects which child
//
// Three kinds of children end in this process, and a wait status can be had once only:
//
//  1. the first process of a container, whose exit code is what we are here for;
//  2. commands that os/exec runs (an External handler's program, a hook), whose status belongs to exec.Cmd.Wait: taken
//     away from it, that fails with ECHILD, and with it the create it was part of;
//  3. orphans: what a container or a handler has left behind and the kernel gives to us as the nearest subreaper. Nobody
//     waits for them, they would stay zombies.
//
// wait4(-1) in the usual loop takes all three. What tells them apart is the thread. To the kernel a child belongs to the thread that
// forked it, and orphans go to the first living thread of the subreaper, which is its main thread (kernel/exit.c, find_new_reaper and
// find_alive_thread). So the reaper has the main thread to itself: nothing else runs there, hence no os/exec forks
// there, and wait4(-1) with __WNOTHREAD, "do not wait for children of other threads" (wait(2)), finds orphans and never a child of os/exec.
//
// The first process of a container is of the third kind if an External handler's program made it (it is adopted as that program
// exits), and a child of some other thread if the native runtime did. Both are in byPID from the moment that Create has answered;
// then the reaper recognises the one, and the container's pidfd, which polls as readable at the exit, leads to a wait4 for just
// that pid for either. An adopted one may even end before its pid is known to us. So while creates are under way the statuses of unknown
// orphans are kept (early), and register looks there first.

// errMainThread is returned by Run when it cannot have the main thread.
var errMainThread = errors.New("the process's main thread is taken by another goroutine (runtime.LockOSThread)")

// onMainThread runs f with the process's main thread locked to it. A program that calls runtime.LockOSThread as the first
// statement of main, and Run from there, has it at once. Otherwise goroutines are started and held on the threads they come
// upon, until one of them comes upon the main thread.
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
		time.Sleep(time.Millisecond) // the main thread may be waiting in the network poller, or in another goroutine's system call
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
		case <-stop:
			return
		}
	}
}

// maxEarly bounds the statuses that are kept of orphans while creates are under way.
const maxEarly = 4096

// reapOrphans collects every child of the main thread that has ended.
func (s *server) reapOrphans() {
	for {
		var ws unix.WaitStatus
		s.mu.Lock()
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WNOTHREAD|unix.WALL, nil)
		if err == unix.EINTR {
			s.mu.Unlock()
			continue
		}
		if err != nil || pid <= 0 {
			s.mu.Unlock()
			return
		}
		c := s.byPID[pid]
		if c != nil {
			delete(s.byPID, pid)
		} else if s.creates > 0 && len(s.early) < maxEarly {
			s.early[pid] = ws
		}
		s.mu.Unlock()
		if c != nil {
			s.exited(c, &ws, nil)
		}
	}
}

// reap collects the container's process after its pidfd has polled as readable. It returns false if the process has not ended.
func (s *server) reap(c *container) bool {
	s.mu.Lock()
	if c.adopted {
		s.mu.Unlock()
		ws, err := exitOfStranger(c.pidfd, c.pid, c.rec.StartTime)
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
	var ws unix.WaitStatus
	pid, err := unix.Wait4(c.pid, &ws, unix.WNOHANG|unix.WALL, nil)
	for errors.Is(err, unix.EINTR) {
		pid, err = unix.Wait4(c.pid, &ws, unix.WNOHANG|unix.WALL, nil)
	}
	if err == nil && pid == 0 {
		s.mu.Unlock()
		return false
	}
	delete(s.byPID, c.pid)
	s.mu.Unlock()
	if err == nil {
		s.exited(c, &ws, nil)
		return true
	}
	// It is not our child: a handler's program that leaves the container to a daemon of its own.
	if ws, err = exitOfStranger(c.pidfd, c.pid, c.rec.StartTime); err != nil {
		s.exited(c, nil, err)
	} else {
		s.exited(c, &ws, nil)
	}
	return true
}
