// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// runDir holds the files by which others find a supervisor: the lock that keeps a second one out,
// and the socket. If somebody removes them, or the records, the supervisor makes them again.
type runDir struct {
	dir    string // of the records and the lock
	socket string

	mu       sync.Mutex
	lock     *os.File
	listener *net.UnixListener
	inode    uint64 // of the socket in the file system
}

// openRunDir creates the directory of the records and takes the lock. inherited is the lock file of
// the program that this process was before, which holds the lock; nil if there is none.
func openRunDir(dir, socket string, inherited *os.File) (*runDir, error) {
	d := &runDir{dir: dir, socket: socket}
	if inherited != nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(inherited.Fd()), &st); err != nil {
			return nil, fmt.Errorf("inherited lock: %w", err)
		}
		d.lock = inherited
		if st.Ino == inodeOf(d.lockFile()) {
			// To open the file and close either descriptor would release the lock (fcntl(2)).
			return d, lockFile(inherited)
		}
	}
	return d, d.take()
}

func (d *runDir) lockFile() string { return filepath.Join(d.dir, "lock") }

// take takes the lock of the directory that is there now.
func (d *runDir) take() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(d.dir, 0o700); err != nil {
		return err
	}
	_, err := os.Lstat(d.lockFile())
	fresh := errors.Is(err, fs.ErrNotExist)
	lock, err := lockRunDir(d.lockFile())
	if err != nil {
		return err
	}
	if fresh && d.lock == nil {
		if pid := otherHolder(d.lockFile()); pid != 0 {
			lock.Close()
			return fmt.Errorf(
				"another supervisor, process %d, holds %s, which somebody has removed and it makes again", pid,
				d.lockFile())
		}
	}
	if d.lock != nil {
		d.lock.Close()
	}
	d.lock = lock
	return nil
}

// otherHolder returns the process, not this one, that holds the lock of a file that was at path and
// has been removed, or 0.
func otherHolder(path string) int {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != path+" (deleted)" {
			continue
		}
		parts := strings.Split(link, "/") // "", "proc", PID, "fd", N
		info, err := os.ReadFile(filepath.Join("/proc", parts[2], "fdinfo", parts[4]))
		// Only of the holder: a child that has not executed a program yet has the descriptor, too,
		// but not the lock.
		if err != nil || !strings.Contains(string(info), "\nlock:\t") {
			continue
		}
		// as one that has just been upgraded may be
		if pid, _ := strconv.Atoi(parts[2]); pid != os.Getpid() {
			return pid
		}
	}
	return 0
}

// lockRunDir keeps a second supervisor out. It is a POSIX record lock because that belongs to the
// process: a lock of flock(2) would live on in a child that has inherited the descriptor and not
// yet called execve, such as a container that waits for its start.
func lockRunDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockFile takes the lock of an open file.
func lockFile(f *os.File) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err == unix.EAGAIN || err == unix.EACCES {
		return fmt.Errorf("%w %s", protocol.ErrHeld, f.Name())
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// listen creates the socket, mode 0600, and replaces one that an earlier supervisor has left. The
// lock of the run dir is held.
func (d *runDir) listen() (*net.UnixListener, error) {
	if err := protocol.CheckSocket(d.socket); err != nil {
		return nil, err
	}
	dir := filepath.Dir(d.socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf(
			"socket's directory %s: found mode %#o; allowed: not writable by group or others", dir,
			fi.Mode().Perm())
	}
	if err := os.Remove(d.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	// Until then checkPeer keeps others out, as it does afterwards.
	if err := os.Chmod(d.socket, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	d.inode = inodeOf(d.socket)
	d.listener = l
	return l, nil
}

func inodeOf(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// lost reports whether the lock is not in the file system any more, and whether the socket is not.
func (d *runDir) lost() (lock, socket bool) {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.lock.Fd()), &st); err != nil {
		return false, false
	}
	return inodeOf(d.lockFile()) != st.Ino, inodeOf(d.socket) != d.inode
}

// close ends listening and removes the socket; the lock is kept.
func (d *runDir) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listener.Close()
	if inodeOf(d.socket) == d.inode {
		os.Remove(d.socket)
	}
}

// lookEvery is the interval at which the supervisor checks that its files still exist.
const lookEvery = time.Second

// keepRunDir creates lock, records and socket again if they have been removed, until ctx ends.
func (s *server) keepRunDir(ctx context.Context, d *runDir, serve func(*net.UnixListener)) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.restoreRunDir(ctx, d, serve); err != nil {
			s.log.Error("the run directory was removed, and cannot be made again; trying again",
				"error", err)
		}
	}
}

func (s *server) restoreRunDir(ctx context.Context, d *runDir,
	serve func(*net.UnixListener),
) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	if err := s.restoreLock(d); err != nil {
		return err
	}
	if _, socket := d.lost(); socket {
		s.log.Warn("the socket was removed; it is made again", "socket", d.socket)
		before := d.listener
		l, err := d.listen()
		if err != nil {
			return err
		}
		before.Close()
		serve(l)
	}
	return nil
}

// restoreLock creates the lock and the records again if they have been removed; d.mu is held, or
// nobody else has d any more.
func (s *server) restoreLock(d *runDir) error {
	if lock, _ := d.lost(); !lock {
		return nil
	}
	s.log.Warn("the run directory was removed; it is made again", "dir", d.dir)
	if err := d.take(); err != nil {
		return err
	}
	s.restoreRecords()
	return nil
}

// restoreRecords writes what the next supervisor must know of each container anew.
func (s *server) restoreRecords() {
	s.mu.Lock()
	all := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		_ = s.update(c, func(*protocol.Status) {}) // tried again if it fails
		c.mu.Lock()
		streams := c.streams
		c.mu.Unlock()
		for _, st := range streams {
			if st == nil {
				continue
			}
			st.mu.Lock()
			err := st.renewSpool()
			st.mu.Unlock()
			if err != nil {
				s.log.Error("output in flight is lost if the supervisor is killed", "id", c.id, "stream",
					st.name, "error", err)
			}
		}
	}
}
