// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// JournalFile is the name of the journal in its directory.
const JournalFile = "journal"

const (
	// journalVersion is the version of the format of a journal. A newer one is refused.
	journalVersion = 1
	// journalChunk is the size by which the journal's file is extended.
	journalChunk = 1 << 20
	// journalReserve is the part of the journal's room for files that are written out of a Reserve.
	journalReserve = 4 * reserveSize
	// journalSlack is the size by which a journal may exceed twice its needed size before it is
	// rewritten.
	journalSlack = 8 << 20
	// flushSpacing is the time between two flushes for each file beyond the first that waits for
	// the second one, up to flushSpacingMax.
	flushSpacing, flushSpacingMax = 10 * time.Millisecond, 400 * time.Millisecond
	// soon is the time within which a flush that FlushSoon requests happens.
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
	dir     string
	boot    string
	newBoot bool // whether the journal was written in another boot when it was opened

	mu      sync.Mutex
	f       *os.File
	end     int64                       // where the next entry goes
	room    int64                       // the end of the allocated part
	live    int64                       // bytes of the last entry of each file
	files   map[string]map[string]stamp // by directory, relative to dir, and name
	put     uint64                      // number of entries
	flushed uint64                      // number of entries that survive a loss of power
	// why the last flush failed: what is on disk is not known; nil if it did not
	failed  error
	waiting []chan<- error
	later   *time.Timer // of FlushSoon; nil if it is not pending
	closed  bool

	wake chan struct{}
	stop chan struct{}
	done chan struct{}
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

// RemovedAll calls Removed for the files of a directory.
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

// FindRemoved calls Removed for the files below a directory that another process has removed, and
// reports whether there were any.
func (j *Journal) FindRemoved(dir string) (found bool, err error) {
	if j == nil {
		return false, nil
	}
	top, err := j.name(dir)
	if err != nil {
		return false, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for below, files := range j.files {
		if below != top && !strings.HasPrefix(below, top+"/") {
			continue
		}
		for base := range files {
			name := filepath.Join(below, base)
			_, err := os.Lstat(filepath.Join(j.dir, name))
			if err == nil {
				continue
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return found, err
			}
			if err := j.add(kindRemoved, name, nil, true); err != nil {
				return found, err
			}
			found = true
		}
	}
	return found, nil
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

// makeRoom allocates room for an entry, and for the reserve. The room is real, and reads as zeros
// (fallocate(2)).
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
