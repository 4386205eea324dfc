// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// This file decides whether a manifest is whole. The first documents of a file that is written
// slowly are a good manifest without the others.

// unfinished is a manifest that is being written.
type unfinished struct {
	stamp stamp
	since time.Time // when it was first seen with that stamp
}

// maxWriting is the time for which a file that a process has open for writing is left alone after
// its last change: the process may never close it.
const maxWriting = 10 * time.Second

var errBeingWritten = errors.New("a process has the file open for writing")

// waits notes that a file has changed, and reports whether to wait until no process writes it.
func (f *Folder) waits(name string, now stamp) bool {
	u := f.unfinished[name]
	if u.stamp != now {
		u = unfinished{stamp: now, since: time.Now()}
		f.unfinished[name] = u
	}
	return time.Since(u.since) < maxWriting
}

// lease makes processes that open the file for writing wait until f is closed. It fails with
// errBeingWritten if one has it open already: the kernel grants no read lease then (F_SETLEASE in
// fcntl(2)). Filesystems without leases, such as NFS, are read as they are.
func lease(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	// The signal about a waiting writer, SIGIO, does nothing to a Go program.
	err = raw.Control(func(fd uintptr) {
		_, refused = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK)
	})
	if errors.Is(refused, unix.EAGAIN) {
		return errBeingWritten
	}
	return err
}
