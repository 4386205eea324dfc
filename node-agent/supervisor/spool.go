// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// spool holds output between the container's pipe and its log, so that a kill of the supervisor
// loses no byte of it and repeats none. It is a file in the run directory. splice(2) moves output
// from the pipe into it: at any moment a byte is in the one or in the other. A header says which
// part is in the log, and what is being written to the log now.
//
//	0         from    offset of the first byte that is not in the log
//	8         next    offset that from becomes when the write under way is done; 0: none is under way
//	16        inode   of the log file that is written to
//	24        size    of the log file before
//	32        length  of what is written
//	64 …      output
type spool struct {
	path string
	fd   int
	size int64 // of the file
	from int64
}

const (
	spoolHeader = 64
	// spoolTurn is the amount of output that is moved at once. Half of it fits between two resets
	// of the file.
	spoolTurn = 64 << 10
	// spoolReset is the size from which the file is emptied when all of it is in the log.
	spoolReset = 256 << 10
)

// openSpool opens the spool at path, which it creates if it is missing.
func openSpool(path string) (*spool, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("spool %s: %w", path, err)
	}
	p := &spool{path: path, fd: fd, size: st.Size, from: spoolHeader}
	if p.size < spoolHeader {
		p.size = spoolHeader
		if err := unix.Ftruncate(fd, p.size); err != nil {
			p.close()
			return nil, fmt.Errorf("spool %s: %w", path, err)
		}
		return p, nil
	}
	h, err := p.header()
	if err != nil {
		p.close()
		return nil, err
	}
	// A file that is shorter than from was emptied by a supervisor that was killed before it wrote
	// so.
	if from := int64(h.from); from > p.size {
		err = p.settle(p.size)
	} else {
		p.from = max(from, spoolHeader)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("spool %s: %w", path, err)
	}
	return p, nil
}

// recoverSpool settles the write to a log that a supervisor was killed in: the log has all of it or
// nothing of it afterwards. It comes before anything else is written to the log, and does nothing
// if there is no spool.
func recoverSpool(path, log string) error {
	if _, err := os.Lstat(path); err != nil {
		return nil
	}
	p, err := openSpool(path)
	if err != nil {
		return err
	}
	defer p.close()
	h, err := p.header()
	if err != nil || h.next == 0 {
		return err
	}
	fd, err := unix.Open(log, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return p.settle(p.from) // without its log, all of it is written anew
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Ino != h.inode || st.Size < int64(h.size):
	case st.Size >= int64(h.size+h.length):
		return p.settle(min(int64(h.next), p.size))
	default:
		if err := unix.Ftruncate(fd, int64(h.size)); err != nil {
			return err
		}
	}
	return p.settle(p.from)
}

type spoolState struct{ from, next, inode, size, length uint64 }

func (p *spool) header() (spoolState, error) {
	var b [40]byte
	n, err := unix.Pread(p.fd, b[:], 0)
	if err == nil && n < len(b) {
		err = fmt.Errorf("found %d bytes of a header", n)
	}
	if err != nil {
		return spoolState{}, fmt.Errorf("spool %s: %w", p.path, err)
	}
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
	return spoolState{word(0), word(1), word(2), word(3), word(4)}, nil
}

// write replaces the header. A write of that size is not cut in two by a signal.
func (p *spool) write(h spoolState) error {
	var b [40]byte
	for i, v := range []uint64{h.from, h.next, h.inode, h.size, h.length} {
		binary.NativeEndian.PutUint64(b[8*i:], v)
	}
	_, err := unix.Pwrite(p.fd, b[:], 0)
	return err
}

// begin records that the output before offset next is about to be written to the log as length
// bytes.
func (p *spool) begin(next int64, inode uint64, size, length int64) error {
	return p.write(spoolState{uint64(p.from), uint64(next), inode, uint64(size), uint64(length)})
}

// settle records that the output before offset from is in the log.
func (p *spool) settle(from int64) error {
	p.from = from
	return p.write(spoolState{from: uint64(from)})
}

// take moves what is in the pipe to the spool, at most limit bytes, and returns how much that was;
// 0 is the end of the pipe.
func (p *spool) take(pipe, limit int) (int, error) {
	off := p.size
	n, err := unix.Splice(pipe, nil, p.fd, &off, min(limit, spoolTurn), unix.SPLICE_F_NONBLOCK|
		unix.SPLICE_F_MOVE)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Splice(pipe, nil, p.fd, &off, min(limit, spoolTurn), unix.SPLICE_F_NONBLOCK|
			unix.SPLICE_F_MOVE)
	}
	if n > 0 {
		p.size += n
	}
	return int(n), err
}

// read reads the n bytes before offset end.
func (p *spool) read(b []byte, end int64) error {
	for done := 0; done < len(b); {
		n, err := unix.Pread(p.fd, b[done:], end-int64(len(b))+int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = errors.New("it is shorter than it was")
		}
		if err != nil {
			return fmt.Errorf("spool %s: %w", p.path, err)
		}
		done += n
	}
	return nil
}

// shrink empties the spool if it is large and all of it is in the log.
func (p *spool) shrink() {
	if p.size < spoolReset || p.from < p.size {
		return
	}
	if unix.Ftruncate(p.fd, spoolHeader) == nil {
		p.size = spoolHeader
		_ = p.settle(spoolHeader) // until that is written, from lies beyond the end: as good
	}
}

// copy takes over what is not in the log yet from another spool; p is empty.
func (p *spool) copy(from *spool) error {
	b := make([]byte, from.size-from.from)
	if err := from.read(b, from.size); err != nil {
		return err
	}
	for len(b) > 0 {
		n, err := unix.Pwrite(p.fd, b, p.size)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("spool %s: %w", p.path, err)
		}
		p.size += int64(max(n, 0))
		b = b[max(n, 0):]
	}
	return p.settle(spoolHeader)
}

func (p *spool) close() { unix.Close(p.fd) }
