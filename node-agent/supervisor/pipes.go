// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// stream is our end of a container's standard output or error.
type stream struct {
	name  string // "stdout" or "stderr", as the CRI log format has them
	log   *logFile
	inode uint64

	mu    sync.Mutex
	fd    int // -1 once it is closed
	token int32
	rest  []byte // the beginning of a line whose end has not been read yet; less than maxEntry
	spool *spool // nil before there is output, and where none is kept
	// spoolPath is the path of the spool, or "" if none is kept: output is lost then if the
	// supervisor is killed as it writes.
	spoolPath string
	broken    bool // the last state of the log that was passed to changed
	// changed is called when writing the log begins or ceases to fail.
	changed func()
}

// newStream creates a pipe. The file is the container's end.
//
// The container's end is open for reading too (fifo(7): Linux allows that), so that there is a
// reader as long as the container lives. If this process is killed the container's writes then fill
// the pipe and wait, instead of ending it by SIGPIPE, and the next supervisor finds the pipe, with
// what is in it, through /proc/PID/fd (findPipe). The price is that a program which reads from its
// own standard output waits instead of failing with EBADF. Whoever else is to keep the pipe alive,
// beyond the container's own life, needs a duplicate of our end, stream.fd.
func newStream(name string, log *logFile) (*stream, *os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe for %s: %w", name, err)
	}
	defer unix.Close(p[1])
	// unix.Open rather than os.OpenFile: that would set O_NONBLOCK, which the container would
	// inherit.
	far, err := unix.Open("/proc/self/fd/"+strconv.Itoa(p[1]), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(p[0])
		return nil, nil, fmt.Errorf("pipe for %s: open for both: %w", name, err)
	}
	// Both ends are open file descriptions of their own, so this does not show in the container.
	s, err := streamOf(name, log, p[0])
	if err != nil {
		unix.Close(far)
		unix.Close(p[0])
		return nil, nil, err
	}
	return s, os.NewFile(uintptr(far), name), nil
}

// streamOf returns a stream for the reading end of a pipe.
func streamOf(name string, log *logFile, fd int) (*stream, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("pipe for %s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("pipe for %s: %w", name, err)
	}
	log.mu.Lock()
	log.users++
	log.mu.Unlock()
	return &stream{name: name, log: log, fd: fd, token: -1, inode: st.Ino}, nil
}

// errPipeGone is returned when a process does not hold the pipe any more.
var errPipeGone = errors.New("the container's process no longer holds the pipe")

// findPipe opens for reading the pipe with that inode number among the open files of a process. It
// looks at the given descriptor first and then at the others. The process is not trusted: a file is
// only opened once an O_PATH descriptor has shown that it is that pipe, so nothing that the process
// puts there (a device, a fifo of its own) is ever opened.
func findPipe(pid, first int, inode uint64) (int, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	if fd, err := openPipe(dir+"/"+strconv.Itoa(first), inode); err == nil {
		return fd, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return -1, err
	}
	defer d.Close()
	// Enough for a program with many files; one that hides its own output behind more of them loses
	// it.
	names, _ := d.Readdirnames(4096)
	for _, n := range names {
		if fd, err := openPipe(dir+"/"+n, inode); err == nil {
			return fd, nil
		}
	}
	return -1, errPipeGone
}

func openPipe(path string, inode uint64) (int, error) {
	p, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(p)
	var st unix.Stat_t
	if err := unix.Fstat(p, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO || st.Ino != inode {
		return -1, errPipeGone
	}
	return unix.Open("/proc/self/fd/"+strconv.Itoa(p), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// pump reads up to limit bytes and logs them. It returns false when the stream has come to its end
// and is closed.
func (s *stream) pump(limit int) bool {
	buf := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(buf)
	for limit > 0 {
		n, err := s.read(*buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return true
		case err != nil || n == 0:
			return false
		}
		s.write((*buf)[:n])
		limit -= n
	}
	return true
}

// read reads from the pipe, by way of the spool if there is one.
func (s *stream) read(buf []byte) (int, error) {
	if s.spool == nil && s.spoolPath != "" {
		var err error
		if s.spool, err = openSpool(s.spoolPath); err != nil {
			s.dropSpool()
		}
	}
	if s.spool == nil {
		return unix.Read(s.fd, buf)
	}
	n, err := s.spool.take(s.fd, len(buf))
	if err == nil && n > 0 {
		err = s.spool.read(buf[:n], s.spool.size)
	}
	switch {
	case err == nil || errors.Is(err, unix.EAGAIN):
		return n, err
	case n > 0: // it cannot be read back: it is lost, as it would be with a broken disk under the log
		s.dropSpool()
		return 0, unix.EINTR
	}
	// No room in the run directory, most likely.
	s.dropSpool()
	return unix.Read(s.fd, buf)
}

// write logs output that stands at the end of the spool.
func (s *stream) write(data []byte) {
	s.rest = s.log.add(s.name, s.rest, data, false, s.spool)
	if s.spool != nil {
		s.spool.shrink()
	}
	s.report()
}

// dropSpool goes on without a spool.
func (s *stream) dropSpool() {
	if s.spool != nil {
		s.spool.close()
		s.spool = nil
	}
	if s.spoolPath != "" {
		os.Remove(s.spoolPath)
		s.spoolPath = ""
	}
}

// renewSpool puts a spool that has been removed from the run directory back in its place; s.mu is
// held.
func (s *stream) renewSpool() error {
	if s.spool == nil {
		return nil
	}
	if _, err := os.Lstat(s.spoolPath); err == nil {
		return nil
	}
	p, err := openSpool(s.spoolPath)
	if err != nil {
		return err
	}
	if err := p.copy(s.spool); err != nil {
		p.close()
		os.Remove(s.spoolPath)
		return err
	}
	s.spool.close()
	s.spool = p
	return nil
}

// resume logs the output that a supervisor before this one has left in the spool.
func (s *stream) resume() error {
	if _, err := os.Lstat(s.spoolPath); err != nil {
		return nil
	}
	var err error
	if s.spool, err = openSpool(s.spoolPath); err != nil {
		return err
	}
	buf := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(buf)
	for at, end := s.spool.from, s.spool.size; at < end; {
		b := (*buf)[:min(int64(len(*buf)), end-at)]
		at += int64(len(b))
		if err := s.spool.read(b, at); err != nil {
			return err
		}
		s.rest = s.log.add(s.name, s.rest, b, false, s.spool)
	}
	return nil
}

// report logs when the log begins to fail or works again.
func (s *stream) report() {
	if s.changed == nil {
		return
	}
	_, err := s.log.health()
	if broken := err != nil; broken != s.broken {
		s.broken = broken
		s.changed()
	}
}

// drain logs what stands in the pipe now. It ends even if another process goes on writing: all that
// the container's first process has written fits into the pipe.
func (s *stream) drain(e *poller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	size, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		size = 1 << 20 // the default of /proc/sys/fs/pipe-max-size, pipe(7)
	}
	if !s.pump(size) {
		s.end(e)
	}
}

// close logs what is there, the unfinished line too, and closes the stream.
func (s *stream) close(e *poller) {
	s.drain(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(e)
}

// suspend closes the stream so that a successor can continue: a line without its end stays in the
// spool.
func (s *stream) suspend(e *poller) {
	s.drain(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	if s.spool == nil {
		s.end(e)
		return
	}
	s.spool.close()
	s.spool, s.rest = nil, nil
	s.letGo(e)
}

// end closes the stream; s.mu is held.
func (s *stream) end(e *poller) {
	if s.fd < 0 {
		return
	}
	s.log.add(s.name, s.rest, nil, true, s.spool)
	s.rest = nil
	s.dropSpool()
	s.report()
	s.letGo(e)
}

func (s *stream) letGo(e *poller) {
	e.remove(s.fd, s.token)
	unix.Close(s.fd)
	s.fd = -1
	s.log.release()
}

// ready is called by the poller.
func (s *stream) ready(e *poller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	// A turn is bounded, so that one container that writes without end leaves time for the others.
	if !s.pump(256 << 10) {
		s.end(e)
		return
	}
	if err := e.rearm(s.fd, s.token); err != nil {
		e.log.Error("log stream cannot be polled any more", "stream", s.name, "error", err)
		s.end(e)
	}
}

// pollable is something with a descriptor that a poller waits for.
type pollable interface {
	// ready is called when the descriptor can be read. It is not called again before rearm.
	ready(e *poller)
}

// poller waits for many descriptors with a few goroutines: a container costs an entry in a map, and
// no stack.
type poller struct {
	log  *slog.Logger
	fd   int
	stop int // an eventfd that ends the goroutines
	wg   sync.WaitGroup

	mu    sync.Mutex
	last  int32
	items map[int32]pollable
}

// newPoller starts that many goroutines, each of which holds a thread while it waits.
func newPoller(workers int, log *slog.Logger) (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		// Not one-shot and never read: every goroutine sees it.
		err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, stop, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	e := &poller{log: log, fd: fd, stop: stop, items: map[int32]pollable{}}
	for range workers {
		e.wg.Go(e.loop)
	}
	return e, nil
}

// add begins to wait. The token names the item: a number of our own rather than the descriptor,
// since an event that is on its way while the descriptor is closed and its number given to another
// would go to the wrong one.
func (e *poller) add(fd int, p pollable, token *int32) error {
	return e.addFor(fd, unix.EPOLLIN, p, token)
}

// addFor registers a descriptor for other events than readability.
func (e *poller) addFor(fd int, events uint32, p pollable, token *int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if e.last++; e.last < 0 {
			e.last = 0
		}
		if _, used := e.items[e.last]; !used {
			break
		}
	}
	*token = e.last
	e.items[*token] = p
	err := unix.EpollCtl(e.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events |
		unix.EPOLLONESHOT, Fd: *token})
	if err != nil {
		delete(e.items, *token)
		*token = -1
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (e *poller) rearm(fd int, token int32) error { return e.rearmFor(fd, unix.EPOLLIN, token) }

func (e *poller) rearmFor(fd int, events uint32, token int32) error {
	return unix.EpollCtl(e.fd, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events |
		unix.EPOLLONESHOT, Fd: token})
}

// remove forgets an item whose descriptor is about to be closed. Closing alone would not do while a
// child between fork and exec has a duplicate of it (epoll(7), question 6).
func (e *poller) remove(fd int, token int32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.items[token]; !ok {
		return
	}
	delete(e.items, token)
	_ = unix.EpollCtl(e.fd, unix.EPOLL_CTL_DEL, fd, nil)
}

func (e *poller) loop() {
	events := make([]unix.EpollEvent, 16)
	for {
		n, err := unix.EpollWait(e.fd, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			e.log.Error("epoll_wait", "error", err)
			return
		}
		for _, ev := range events[:n] {
			if ev.Fd == -1 {
				return
			}
			e.mu.Lock()
			p := e.items[ev.Fd]
			e.mu.Unlock()
			if p != nil {
				p.ready(e)
			}
		}
	}
}

// close ends the goroutines and waits for them.
func (e *poller) close() {
	one := [8]byte{1} // any number but 0 makes the eventfd readable, in either byte order
	_, _ = unix.Write(e.stop, one[:])
	e.wg.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.items = nil
	unix.Close(e.fd)
	unix.Close(e.stop)
}
