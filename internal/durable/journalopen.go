// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
)

// OpenJournal opens the journal of a directory. If it was written in another boot, the files get
// its content. The globs, relative to the directory, say which files belong into it; those that it
// lacks are added.
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
	j.newBoot = found && head.Boot != boot
	if j.newBoot {
		if err := j.takeUp(held); err != nil {
			return nil, fmt.Errorf("journal %s: %w", path, err)
		}
	}
	files, err := match(dir, globs)
	if err == nil && found {
		err = j.catchUp(held, files, j.newBoot)
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
	j.FlushSoon()
	return j, nil
}

// NewBoot reports whether the files are those of another boot, each as of its last flush. A nil
// Journal reports false.
func (j *Journal) NewBoot() bool { return j != nil && j.newBoot }

// blank reports whether a file holds nothing but zeros, as a filesystem may leave one whose content
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

// takeUp writes the content of another boot's journal to the files, and begins the journal of this
// boot.
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

// restore writes the journal's content to the files.
func restore(dir string, journal io.ReaderAt, held map[string]entry) error {
	for name, e := range held {
		path := filepath.Join(dir, name)
		if e.removed {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) &&
				!errors.Is(err, unix.ENOTDIR) {
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

// catchUp adds to the journal the files that a killed process has written only in place. After
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
