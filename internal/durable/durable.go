// SPDX-License-Identifier: Apache-2.0

// Package durable replaces files as a whole and locks them. A reader, or a process that starts
// after a kill, finds either the old or the new content of a file and never a part of one. A
// Journal makes many such files survive a loss of power at the price of one flush.
//
// It knows nothing of what the files hold.
package durable

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Options say how Replace replaces a file. The zero value is right for a file of one writer whose
// loss at a power failure does no harm.
type Options struct {
	// Mode is the mode of the new file before the umask; 0 is 0600.
	Mode fs.FileMode
	// Temporary is the file that the new content is written to first. It must lie on the same
	// filesystem; the default is .NAME.new beside the file. Writers that may replace one file at
	// the same time need temporary files of their own.
	Temporary string
	// Sync flushes the new content before Replace returns, so that it survives a power loss.
	Sync bool
	// Reserve has the room for the file if the filesystem has none; nil is no reserve.
	Reserve *Reserve
}

// Replace replaces the file at path with one that holds data. After a kill at any moment the file
// is the old or the new one; a temporary file may be left over, which the next Replace removes.
//
// What another user has put in the place of the temporary file is never written to: it might be a
// link to any file.
func Replace(path string, data []byte, o Options) error {
	if reserve := o.Reserve; reserve != nil {
		o.Reserve = nil
		return reserve.Replace(path, data, o)
	}
	temporary := o.Temporary
	if temporary == "" {
		temporary = filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	}
	_ = unix.Unlink(temporary) // if it cannot be removed, it cannot be created either
	if err := Create(temporary, data, o); err != nil {
		return err
	}
	if err := unix.Rename(temporary, path); err != nil {
		_ = unix.Unlink(temporary)
		return &os.LinkError{Op: "rename", Old: temporary, New: path, Err: err}
	}
	if o.Sync {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// Create writes a file that does not exist yet, and removes it again if that fails. It is not
// atomic.
func Create(path string, data []byte, o Options) error {
	mode := o.Mode.Perm()
	if mode == 0 {
		mode = 0o600
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && o.Sync {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// SyncDir flushes the names in a directory, so that they survive a power loss.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
