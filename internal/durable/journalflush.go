// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// FlushSoon requests a flush within a second.
func (j *Journal) FlushSoon() {
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

// run flushes in a goroutine of its own.
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

// flush flushes all entries, so that they survive a power loss.
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
	// a journal that cannot be made shorter, as on a full disk, goes on
	case err == nil || j.failed == nil:
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
