// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

const (
	// maxEntry is the most text of one log entry, as with other CRI implementations (16 KiB); a
	// longer line becomes several entries, all but the last tagged P.
	maxEntry = 16 << 10
	// timeFormat is the time format of CRI logs: RFC 3339, always with nine digits.
	timeFormat = "2006-01-02T15:04:05.000000000Z07:00"
	// flushSize is the size at which a batch of entries is written even if more are available. The
	// buffers hold one entry more.
	flushSize  = 64 << 10
	bufferSize = flushSize + protocol.MinLogBytes
)

// buffers are shared by all containers: what is read from a pipe, and the entries made of it.
var (
	readBuffers  = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}
	entryBuffers = sync.Pool{New: func() any { b := make([]byte, 0, bufferSize); return &b }}
)

// logFile writes one container's log. Both streams write to it.
//
// An error of writing (a full disk, a quota, a broken disk) neither blocks nor ends the container:
// its output is read and dropped, the dropped entries are counted in Status.LogLost, and the error
// is shown in Status.LogError until an entry can be written again. An entry that went only partly
// to disk is cut off again, so the file never holds half of one.
type logFile struct {
	protocol.Log
	mu    sync.Mutex
	fd    int    // -1: closed, or no log is kept
	inode uint64 // of the file
	size  int64  // of the file; nobody else writes to it
	// torn reports whether the file ends within an entry, because a supervisor was killed within
	// write(2). endTornEntry ends it before the next write, so that ours does not become part of
	// it.
	torn bool
	// rotateAt is the size at which the file is rotated: MaxBytes, or more after a rotation that
	// failed.
	rotateAt int64
	users    int // streams that may still write; the last one closes the file
	lost     uint64
	err      error // of writing
	rotErr   error // of the last rotation
}

// openLog opens the log for appending, and makes its directory (0750) and the file (0640) when they
// are not there. With the zero Log it returns a logFile that drops everything.
func openLog(l protocol.Log) (*logFile, error) {
	f := &logFile{Log: l, fd: -1, rotateAt: l.MaxBytes}
	if l.Path == "" {
		return f, nil
	}
	if err := os.MkdirAll(filepath.Dir(l.Path), 0o750); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	if err := f.open(l.Path, 0); err != nil {
		return nil, err
	}
	if f.size > 0 {
		var last [1]byte
		if _, err := unix.Pread(f.fd, last[:], f.size-1); err != nil {
			f.close()
			return nil, fmt.Errorf("log %s: %w", l.Path, err)
		}
		f.torn = last[0] != '\n'
	}
	return f, nil
}

// open opens path and makes it the file that is written to.
func (f *logFile) open(path string, flags int) error {
	// O_NONBLOCK only so that a fifo in its place cannot hold us up; it has no effect on files.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC|unix.O_NOFOLLOW|
		unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0o640)
	if err != nil {
		return fmt.Errorf("log: %w", &fs.PathError{Op: "open", Path: path, Err: err})
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return fmt.Errorf("log %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return fmt.Errorf("log %s: found a file of type %#o; allowed: a regular file", path,
			st.Mode&unix.S_IFMT)
	}
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
	f.fd, f.inode, f.size = fd, st.Ino, st.Size
	return nil
}

// endTornEntry ends the entry that a supervisor killed within write(2) has left without its end.
func (f *logFile) endTornEntry() error {
	if !f.torn {
		return nil
	}
	n, err := unix.Write(f.fd, []byte("\n"))
	if n == 1 {
		f.size, f.torn = f.size+1, false
	}
	return err
}

// add turns what was read from a stream into entries and writes them. rest is the beginning of the
// line, from earlier reads. add returns the new rest: text without its end of line yet. With final
// there will be none, and the text is written as a partial entry. If p is not nil, rest and data
// stand in it from p.from on; p.from then moves with what is in the log.
func (f *logFile) add(stream string, rest, data []byte, final bool, p *spool) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	buf := entryBuffers.Get().(*[]byte)
	defer entryBuffers.Put(buf)
	out := (*buf)[:0]

	var head [64]byte
	stamp := append(time.Now().UTC().AppendFormat(head[:0], timeFormat), ' ')
	stamp = append(append(stamp, stream...), ' ')
	var next int64 // the offset in p behind the entries of out
	if p != nil {
		next = p.from
	}
	flush := func() {
		if p == nil || len(out) == 0 {
			f.flush(out)
		} else {
			_ = f.endTornEntry() // before the size is written down; flush shows its error
			// An error of the spool costs no output; at worst a kill just now would write it twice.
			_ = p.begin(next, f.inode, f.size, int64(len(out)))
			f.flush(out)
			_ = p.settle(next)
		}
		out = out[:0]
	}
	entry := func(tag byte, rest, text []byte, newline int64) {
		n := int64(len(stamp) + 2 + len(rest) + len(text) + 1)
		if f.rotateAt > 0 && f.size+int64(len(out)) > 0 && f.size+int64(len(out))+n > f.rotateAt {
			flush()
			f.rotate()
		}
		out = append(append(out, stamp...), tag, ' ')
		out = append(append(append(out, rest...), text...), '\n')
		next += int64(len(rest)+len(text)) + newline
		if len(out) >= flushSize {
			flush()
		}
	}
	for len(data) > 0 {
		n := bytes.IndexByte(data, '\n')
		whole := n >= 0
		if !whole {
			n = len(data)
		}
		switch room := maxEntry - len(rest); {
		case n > room:
			entry('P', rest, data[:room], 0)
			rest, data = rest[:0], data[room:]
		case whole:
			entry('F', rest, data[:n], 1)
			rest, data = rest[:0], data[n+1:]
		default:
			rest, data = append(rest, data...), nil
		}
	}
	if final && len(rest) > 0 {
		entry('P', rest, nil, 0)
		rest = nil
	}
	flush()
	// A line in the making is kept in a buffer of its own, but one that is done does not keep a
	// large one.
	if len(rest) == 0 && cap(rest) > 512 {
		rest = nil
	}
	return rest
}

// flush writes whole entries.
func (f *logFile) flush(out []byte) {
	if f.fd < 0 || len(out) == 0 {
		return
	}
	if err := f.endTornEntry(); err != nil {
		f.lost += uint64(bytes.Count(out, []byte{'\n'}))
		f.err = fmt.Errorf("log %s: write: %w", f.Path, err)
		return
	}
	done := 0
	for done < len(out) {
		n, err := unix.Write(f.fd, out[done:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = unix.EIO
		}
		if err != nil {
			// Keep the entries that are whole and cut off what is there of the next.
			kept := bytes.LastIndexByte(out[:done], '\n') + 1
			if kept < done {
				if terr := unix.Ftruncate(f.fd, f.size+int64(kept)); terr != nil {
					err = errors.Join(err, terr)
					kept = done
				}
			}
			f.size += int64(kept)
			f.lost += uint64(bytes.Count(out[kept:], []byte{'\n'}))
			f.err = fmt.Errorf("log %s: write: %w", f.Path, err)
			return
		}
		done += n
	}
	f.size += int64(done)
	f.err = nil
}

// rotate renames Path to Path.1, Path.1 to Path.2 and so on, and begins a new file. What is older
// than MaxFiles allows is replaced. When it cannot, the log goes on in the current file, and the
// next attempt is made after another MaxBytes.
func (f *logFile) rotate() {
	if f.fd < 0 {
		return
	}
	if err := f.rename(); err != nil {
		f.rotErr = fmt.Errorf("log %s: rotate: %w", f.Path, err)
		f.rotateAt = f.size + f.MaxBytes
		return
	}
	f.rotErr, f.rotateAt = nil, f.MaxBytes
}

func (f *logFile) rename() error {
	// The new file is made first: if that fails (a full disk), nothing has changed. It gets its
	// name last.
	fresh := f.Path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	next := &logFile{fd: -1}
	if err := next.open(fresh, unix.O_EXCL); err != nil {
		return err
	}
	for i := f.MaxFiles - 1; i >= 1; i-- {
		from := f.Path
		if i > 1 {
			from += "." + strconv.Itoa(i-1)
		}
		if err := os.Rename(from, f.Path+"."+strconv.Itoa(i)); err != nil &&
			!errors.Is(err, fs.ErrNotExist) {
			next.close()
			os.Remove(fresh)
			return err
		}
	}
	if err := os.Rename(fresh, f.Path); err != nil {
		// The current file goes on under the name Path.1; put its name back.
		next.close()
		os.Remove(fresh)
		return errors.Join(err, os.Rename(f.Path+".1", f.Path))
	}
	unix.Close(f.fd)
	f.fd, f.inode, f.size, f.torn = next.fd, next.inode, next.size, false
	return nil
}

// limit changes the limits of the log. A file that is larger than allowed is rotated, and files
// that are too many are removed. What has been rotated keeps its size. An error is shown as that of
// a rotation.
func (f *logFile) limit(l protocol.LogLimits) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.LogLimits, f.rotateAt = l, l.MaxBytes
	if f.rotateAt > 0 && f.size > f.rotateAt {
		_ = f.endTornEntry() // the next write would show its error, too
		f.rotate()
	}
	if err := f.removeSurplus(); err != nil {
		f.rotErr = fmt.Errorf("log %s: %w", f.Path, err)
	}
}

// removeSurplus removes the rotated files that MaxFiles does not allow.
func (f *logFile) removeSurplus() error {
	entries, err := os.ReadDir(filepath.Dir(f.Path))
	if err != nil {
		return err
	}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), filepath.Base(f.Path)+".")
		if n, nerr := strconv.Atoi(number); ok && nerr == nil && n >= f.MaxFiles {
			err = errors.Join(err, os.Remove(filepath.Join(filepath.Dir(f.Path), e.Name())))
		}
	}
	return err
}

// health returns the error and the number of lost lines for Status.
func (f *logFile) health() (lost uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost, cmp.Or(f.err, f.rotErr)
}

// release closes the log after its last stream has ended.
func (f *logFile) release() {
	f.mu.Lock()
	f.users--
	last := f.users == 0
	f.mu.Unlock()
	if last {
		f.close()
	}
}

// close closes the file; what is added later is dropped.
func (f *logFile) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// removeIfEmpty undoes the making of a file for a container that was never made.
func (f *logFile) removeIfEmpty() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Path != "" && f.size == 0 {
		os.Remove(f.Path)
	}
}
