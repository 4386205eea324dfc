// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
)

// JournalFile is the name of the journal in its directory.
const JournalFile = "journal"

const (
	// journalVersion is the version of the format of a journal. A newer one is refused.
	journalVersion = 1
	// journalChunk is how much room is allocated for the journal at a time.
	journalChunk = 1 << 20
	// journalReserve of that room is for files that are written out of a Reserve.
	journalReserve = 4 * reserveSize
	// journalSlack is how far a journal may exceed twice its needed size before it is written anew.
	journalSlack = 8 << 20
	// flushSpacing is the time between two flushes for each file beyond the first that waits for
	// the second one, up to flushSpacingMax.
	flushSpacing, flushSpacingMax = 10 * time.Millisecond, 400 * time.Millisecond
	// soon is how long a file may wait for the flush that Soon asks for.
	soon = time.Second
)

// Journal makes the small files below a directory survive a loss of power by group commit: one
// fdatasync(2) of one file for all that wait, instead of one of each file and one of each
// directory.
//
// A file is replaced without a flush, and its content appended to the journal besides. Within a
// boot the files are the truth, and the journal is only written. After another boot the journal is
// the truth: OpenJournal replaces each file by the last content that the journal holds. An entry
// that a loss of power cut off ends the journal.
//
// A nil Journal replaces files and promises nothing at a loss of power.
type Journal struct {
	dir  string
	boot string

	mu      sync.Mutex
	f       *os.File
	end     int64                       // where the next entry goes
	room    int64                       // the end of the allocated part
	live    int64                       // bytes of the last entry of each file
	files   map[string]map[string]stamp // by directory, relative to dir, and name
	put     uint64                      // number of entries
	flushed uint64                      // number of entries that survive a loss of power
	failed  error                       // why the last flush failed: what is on disk is not known; nil if it did not
	waiting []chan<- error
	later   *time.Timer // of Soon; nil if it is not pending
	closed  bool

	wake chan struct{}
	stop chan struct{}
	done chan struct{}
}

// stamp identifies one content of a file.
type stamp struct {
	size int64
	sum  uint32
}

// entry is a file's content in the journal.
type entry struct {
	stamp
	removed bool
	offset  int64 // of the content
}

func checksum(data []byte) uint32 { return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) }

func stampOf(data []byte) stamp { return stamp{int64(len(data)), checksum(data)} }

// header is the first entry of a journal, as JSON.
type header struct {
	Version int `json:"version"`
	// Boot is the boot (random(4), boot_id) in which the journal was written.
	Boot string `json:"boot"`
}

// Kinds of entries. An entry is the length of its body and the CRC-32C of it (32 bits each, little
// endian), then the body: a byte for the kind, 16 bits for the length of the path, the path, the
// content.
const (
	kindHeader  = 'H'
	kindFile    = 'F'
	kindRemoved = 'R'

	frameSize  = 8
	prefixSize = 3
	maxBody    = 64 << 20
)

func encode(kind byte, path string, data []byte) ([]byte, error) {
	if len(path) > math.MaxUint16 || len(data) > maxBody-prefixSize-len(path) {
		return nil, fmt.Errorf("journal: found %d bytes at a path of %d; allowed: %d in all", len(data), len(path), maxBody)
	}
	b := make([]byte, frameSize, frameSize+prefixSize+len(path)+len(data))
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	b = append(append(b, path...), data...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)-frameSize))
	binary.LittleEndian.PutUint32(b[4:], checksum(b[frameSize:]))
	return b, nil
}

// OpenJournal opens the journal of a directory. If it was written in another boot, the files become
// what it holds. The globs, relative to the directory, say which files belong into it; those that
// it lacks are added.
//
// One process at a time may have the journal open.
func OpenJournal(dir string, globs ...string) (*Journal, error) {
	boot, err := procfs.BootID()
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return openJournal(dir, boot, globs)
}

func openJournal(dir, boot string, globs []string) (_ *Journal, err error) {
	j := &Journal{
		dir: dir, boot: boot, files: map[string]map[string]stamp{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	defer func() {
		if err != nil && j.f != nil {
			j.f.Close()
		}
	}()
	path := filepath.Join(dir, JournalFile)
	held := map[string]entry{}
	j.f, err = os.OpenFile(path, os.O_RDWR, 0)
	found := err == nil
	var head header
	if found {
		if head, held, j.end, err = scan(j.f); err != nil {
			return nil, fmt.Errorf("journal %s: %w", path, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if found && head.Boot != boot {
		if err := j.takeUp(held); err != nil {
			return nil, fmt.Errorf("journal %s: %w", path, err)
		}
	}
	files, err := match(dir, globs)
	if err == nil && found {
		err = j.catchUp(held, files, head.Boot != boot)
	} else if err == nil {
		for _, name := range files {
			j.note(name, stamp{})
		}
		err = j.rewriteNow()
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	go j.run()
	j.Soon()
	return j, nil
}

// blank returns whether a file holds nothing but zeros, as a filesystem may leave one whose content
// it had not written.
func blank(data []byte) bool { return len(bytes.Trim(data, "\x00")) == 0 }

// match returns the regular files that the globs match, relative to dir.
func match(dir string, globs []string) ([]string, error) {
	var out []string
	for _, glob := range globs {
		names, err := fs.Glob(os.DirFS(dir), glob)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", glob, err)
		}
		for _, name := range names {
			info, err := os.Lstat(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			if info.Mode().IsRegular() && filepath.Base(name)[0] != '.' {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// takeUp makes the files what the journal of another boot holds, and the journal that of this boot.
func (j *Journal) takeUp(held map[string]entry) error {
	// Whole entries may follow one that was cut off. They must never come behind a new one. And
	// what was allocated behind them is room for the files.
	if err := j.f.Truncate(j.end); err != nil {
		return err
	}
	if err := restore(j.dir, j.f, held); err != nil {
		return err
	}
	// All boot ids are of one length, so the header takes the place of the old one.
	head, err := j.header()
	if err != nil {
		return err
	}
	if _, err := j.f.WriteAt(head, 0); err != nil {
		return err
	}
	return j.f.Sync()
}

func (j *Journal) header() ([]byte, error) {
	head, err := json.Marshal(header{Version: journalVersion, Boot: j.boot})
	if err != nil {
		return nil, err
	}
	return encode(kindHeader, "", head)
}

// scan reads a journal up to its end, or to an entry that was cut off, and returns the last entry
// of each file.
func scan(f *os.File) (head header, held map[string]entry, end int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return header{}, nil, 0, err
	}
	held = map[string]entry{}
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		var frame [frameSize]byte
		if _, err := io.ReadFull(r, frame[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return header{}, nil, 0, err
		}
		size := int64(binary.LittleEndian.Uint32(frame[:]))
		if size < prefixSize || size > maxBody || size > info.Size()-end-frameSize {
			break
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return header{}, nil, 0, err
		}
		name := prefixSize + int64(binary.LittleEndian.Uint16(body[1:]))
		if checksum(body) != binary.LittleEndian.Uint32(frame[4:]) || name > size {
			break
		}
		path, data := string(body[prefixSize:name]), body[name:]
		switch {
		case end == 0 && body[0] != kindHeader, end > 0 && body[0] != kindFile && body[0] != kindRemoved:
			return header{}, nil, 0, fmt.Errorf("found an entry of the kind %q at byte %d", body[0], end)
		case body[0] == kindHeader:
			if err := json.Unmarshal(data, &head); err != nil {
				return header{}, nil, 0, err
			}
			if head.Version != journalVersion {
				return header{}, nil, 0, fmt.Errorf("found version %d; allowed: %d", head.Version, journalVersion)
			}
		case !filepath.IsLocal(path):
			return header{}, nil, 0, fmt.Errorf("found the path %q; allowed: one below the directory", path)
		default:
			held[path] = entry{stampOf(data), body[0] == kindRemoved, end + frameSize + name}
		}
		end += frameSize + size
	}
	if end == 0 {
		return header{}, nil, 0, errors.New("found no header; if the file is removed, the files that it stands for are taken as they are")
	}
	return head, held, end, nil
}

// restore makes the files what the journal holds.
func restore(dir string, journal io.ReaderAt, held map[string]entry) error {
	for name, e := range held {
		path := filepath.Join(dir, name)
		if e.removed {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
				return err
			}
			continue
		}
		data := make([]byte, e.size)
		if _, err := journal.ReadAt(data, e.offset); err != nil {
			return err
		}
		if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, data) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := Replace(path, data, Options{}); err != nil {
			return err
		}
	}
	return nil
}

// catchUp adds to the journal what a process that was killed has written to files alone. After
// another boot, files may be among them that never came to the disk.
func (j *Journal) catchUp(held map[string]entry, files []string, rebooted bool) error {
	info, err := j.f.Stat()
	if err != nil {
		return err
	}
	j.room = max(j.end, info.Size()) // the rest of the file was allocated
	there := map[string]bool{}
	for name, e := range held {
		if !e.removed {
			j.note(name, e.stamp)
			files = append(files, name)
		}
	}
	for _, name := range files {
		if there[name] {
			continue
		}
		there[name] = true
		data, err := os.ReadFile(filepath.Join(j.dir, name))
		_, known := j.files[filepath.Dir(name)][filepath.Base(name)]
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = j.add(kindRemoved, name, nil, true)
		case err == nil && rebooted && !known && blank(data):
			err = os.Remove(filepath.Join(j.dir, name))
		case err == nil && j.files[filepath.Dir(name)][filepath.Base(name)] != stampOf(data):
			err = j.add(kindFile, name, data, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Replace replaces a file below the journal's directory as the function Replace does. The content
// survives a loss of power after the next flush; o.Sync is ignored.
func (j *Journal) Replace(path string, data []byte, o Options) error {
	o.Sync = false
	if j == nil {
		return Replace(path, data, o)
	}
	name, err := j.name(path)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	// The file first: if the journal has no room, the file is ahead of it, which the next
	// OpenJournal in this boot finds.
	if err := Replace(path, data, o); err != nil {
		return err
	}
	return j.add(kindFile, name, data, o.Reserve != nil)
}

// Removed notes that a file is gone. A removal that a loss of power undoes is done again by whoever
// finds the file.
func (j *Journal) Removed(path string) error {
	if j == nil {
		return nil
	}
	name, err := j.name(path)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.files[filepath.Dir(name)][filepath.Base(name)]; !ok {
		return nil
	}
	return j.add(kindRemoved, name, nil, true)
}

// RemovedAll is Removed for the files of a directory.
func (j *Journal) RemovedAll(dir string) error {
	if j == nil {
		return nil
	}
	name, err := j.name(dir)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for base := range j.files[name] {
		if err := j.add(kindRemoved, filepath.Join(name, base), nil, true); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) name(path string) (string, error) {
	name, err := filepath.Rel(j.dir, path)
	if err != nil || !filepath.IsLocal(name) {
		return "", fmt.Errorf("journal: found the path %q; allowed: one below %s", path, j.dir)
	}
	return name, nil
}

// note records which content the journal holds of a file.
func (j *Journal) note(name string, s stamp) {
	dir, base := filepath.Dir(name), filepath.Base(name)
	if j.files[dir] == nil {
		j.files[dir] = map[string]stamp{}
	}
	if old, ok := j.files[dir][base]; ok {
		j.live -= entrySize(name, old.size)
	}
	j.files[dir][base] = s
	j.live += entrySize(name, s.size)
}

func (j *Journal) noteRemoved(name string) {
	dir, base := filepath.Dir(name), filepath.Base(name)
	if old, ok := j.files[dir][base]; ok {
		j.live -= entrySize(name, old.size)
	}
	delete(j.files[dir], base)
	if len(j.files[dir]) == 0 {
		delete(j.files, dir)
	}
}

func entrySize(name string, size int64) int64 {
	return frameSize + prefixSize + int64(len(name)) + size
}

// add appends an entry. The caller holds j.mu, or is alone.
func (j *Journal) add(kind byte, name string, data []byte, reserved bool) error {
	if j.closed {
		return fmt.Errorf("journal: %w", os.ErrClosed)
	}
	b, err := encode(kind, name, data)
	if err != nil {
		return err
	}
	if err := j.makeRoom(int64(len(b)), reserved); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if _, err := j.f.WriteAt(b, j.end); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.end += int64(len(b))
	j.put++
	if kind == kindRemoved {
		j.noteRemoved(name)
	} else {
		j.note(name, stampOf(data))
	}
	return nil
}

// makeRoom allocates room for an entry, and for what is reserved. The room is real, and reads as
// zeros (fallocate(2)).
func (j *Journal) makeRoom(size int64, reserved bool) error {
	if j.end+size+journalReserve <= j.room {
		return nil
	}
	more := max(int64(journalChunk), size+journalReserve)
	err := unix.Fallocate(int(j.f.Fd()), 0, j.end, more)
	switch {
	case err == nil:
		j.room = j.end + more
	case errors.Is(err, unix.EOPNOTSUPP):
		j.room = math.MaxInt64 / 2
	case reserved && j.end+size <= j.room:
		return nil
	}
	return ignoreUnsupported(err)
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// Soon has all that was put flushed within a second.
func (j *Journal) Soon() {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.put > j.flushed && j.later == nil && !j.closed {
		j.later = time.AfterFunc(soon, j.wakeUp)
	}
}

// Flush returns once all that was put survives a loss of power.
func (j *Journal) Flush(ctx context.Context) error { return j.BeginFlush()(ctx) }

// BeginFlush begins a flush of all that was put, and returns a function that waits for it.
func (j *Journal) BeginFlush() (wait func(context.Context) error) {
	nothing := func(context.Context) error { return nil }
	if j == nil {
		return nothing
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.put == j.flushed:
		return nothing
	case j.closed:
		return func(context.Context) error { return fmt.Errorf("journal: %w", os.ErrClosed) }
	}
	done := make(chan error, 1)
	j.waiting = append(j.waiting, done)
	j.wakeUp()
	return func(ctx context.Context) error {
		select {
		case err := <-done:
			done <- err // for whoever waits again
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (j *Journal) wakeUp() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Close flushes all that was put, and closes the journal.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	close(j.stop)
	<-j.done
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.failed
	return errors.Join(err, j.f.Close())
}

// run is the goroutine that flushes.
func (j *Journal) run() {
	defer close(j.done)
	var last time.Time // when the last flush began
	for ending := false; !ending; {
		select {
		case <-j.wake:
			ending = !j.await(last)
		case <-j.stop:
			ending = true
		}
		last = time.Now()
		j.flush()
	}
}

// await lets more files come before a flush if several wait already: then more are on their way. It
// returns false if the journal is being closed.
func (j *Journal) await(last time.Time) bool {
	for {
		j.mu.Lock()
		n := len(j.waiting)
		j.mu.Unlock()
		left := time.Until(last.Add(min(time.Duration(n-1)*flushSpacing, flushSpacingMax)))
		if left <= 0 {
			return true
		}
		select {
		case <-time.After(min(left, flushSpacing)):
		case <-j.stop:
			return false
		}
	}
}

// flush makes all that was put survive a loss of power.
func (j *Journal) flush() {
	j.mu.Lock()
	waiting, target, file := j.waiting, j.put, j.f
	j.waiting = nil
	if j.later != nil {
		j.later.Stop()
		j.later = nil
	}
	if target == j.flushed {
		j.mu.Unlock()
		release(waiting, nil)
		return
	}
	var next *os.File
	var err error
	if j.failed != nil || j.end > 2*j.live+journalSlack {
		next, err = j.rewrite()
	}
	j.mu.Unlock()
	switch {
	case next != nil:
		err = j.publish(next)
		file.Close()
	case err == nil || j.failed == nil: // a journal that cannot be made shorter, as on a full disk, goes on
		err = fdatasync(file)
	}
	j.mu.Lock()
	if j.failed = err; err == nil {
		j.flushed = target
	}
	j.mu.Unlock()
	release(waiting, err)
}

func release(waiting []chan<- error, err error) {
	for _, w := range waiting {
		w <- err
	}
}

func fdatasync(f *os.File) error {
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fdatasync(int(f.Fd()))
	}
	if err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

// rewrite writes a journal that holds nothing but the files as they are, and makes it the one that
// entries are added to. It counts only after publish. Until then the old one holds all that anybody
// was promised. The caller holds j.mu.
func (j *Journal) rewrite() (_ *os.File, err error) {
	path := j.temporary()
	_ = unix.Unlink(path)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = unix.Unlink(path)
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	var size int64
	add := func(kind byte, name string, data []byte) error {
		b, err := encode(kind, name, data)
		if err == nil {
			_, err = w.Write(b)
		}
		size += int64(len(b))
		return err
	}
	head, err := j.header()
	if err == nil {
		_, err = w.Write(head)
		size = int64(len(head))
	}
	if err != nil {
		return nil, err
	}
	for dir, names := range j.files {
		for base := range names {
			name := filepath.Join(dir, base)
			data, err := os.ReadFile(filepath.Join(j.dir, name))
			if errors.Is(err, fs.ErrNotExist) { // removed without a word
				j.noteRemoved(name)
				continue
			}
			if err == nil {
				j.note(name, stampOf(data))
				err = add(kindFile, name, data)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	j.f, j.end, j.room = f, size, size
	return f, nil
}

func (j *Journal) temporary() string { return filepath.Join(j.dir, "."+JournalFile+".new") }

// publish puts a journal in the place of the old one.
func (j *Journal) publish(f *os.File) error {
	if err := fdatasync(f); err != nil {
		return err
	}
	if err := os.Rename(j.temporary(), filepath.Join(j.dir, JournalFile)); err != nil {
		return err
	}
	return SyncDir(j.dir)
}

// rewriteNow is rewrite and publish for a caller that is alone.
func (j *Journal) rewriteNow() error {
	old := j.f
	f, err := j.rewrite()
	if err != nil {
		return err
	}
	if old != nil {
		old.Close()
	}
	return j.publish(f)
}
