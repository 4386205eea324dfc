// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// rotated returns the files that path was rotated to, oldest first: PATH.3, PATH.2, PATH.1.
func rotated(path string) []string {
	found, _ := filepath.Glob(path + ".*")
	number := func(f string) int { n, _ := strconv.Atoi(f[len(path)+1:]); return n }
	found = slices.DeleteFunc(found, func(f string) bool { return number(f) == 0 })
	slices.SortFunc(found, func(a, b string) int { return number(b) - number(a) })
	return found
}

// Begun reports whether there is a log at path, or was one that is being rotated.
func Begun(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return len(rotated(path)) > 0, nil
	}
	return err == nil, err
}

// rotationTime is the time for which a rotation may leave a log without its current file. A
// supervisor that is killed just then leaves it so until another one is started.
const rotationTime = 5 * time.Second

// openParts opens the log at path and the files that it was rotated to, oldest first.
func openParts(path string) ([]*os.File, error) {
	for end := time.Now().Add(rotationTime); ; time.Sleep(time.Millisecond) {
		parts, complete, err := tryParts(path)
		if err != nil || complete || len(parts) > 0 && time.Now().After(end) {
			return parts, err
		}
		closeAll(parts)
		if len(parts) > 0 {
			continue
		}
		if begun, err := Begun(path); !begun {
			return nil, cmp.Or[error](err, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist})
		}
	}
}

// tryParts opens the files of a log. They are not complete if it was rotated in between: a part may
// be missing, or there twice.
func tryParts(path string) (parts []*os.File, complete bool, err error) {
	names := append(rotated(path), path)
	for _, name := range names {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(parts)
			return nil, false, err
		}
		parts = append(parts, f)
	}
	if len(parts) < len(names) || !slices.Equal(append(rotated(path), path), names) {
		return parts, false, nil
	}
	for i, f := range parts {
		if at, there := isAt(f, names[i]); !at || !there {
			return parts, false, nil
		}
	}
	return parts, true, nil
}

// isAt reports whether an open file has a path still, and whether any file has it.
func isAt(f *os.File, path string) (at, there bool) {
	info, err := os.Stat(path)
	if err != nil {
		return false, false
	}
	own, err := f.Stat()
	return err == nil && os.SameFile(own, info), true
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
