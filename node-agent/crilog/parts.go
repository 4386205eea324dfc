// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// rotated returns the files that path was rotated to, oldest first: PATH.3, PATH.2, PATH.1.
func rotated(path string) []string {
	found, _ := filepath.Glob(path + ".*")
	number := func(f string) int { n, _ := strconv.Atoi(f[len(path)+1:]); return n }
	found = slices.DeleteFunc(found, func(f string) bool { return number(f) == 0 })
	slices.SortFunc(found, func(a, b string) int { return number(b) - number(a) })
	return found
}

// openParts opens the log at path and the files that it was rotated to, oldest first.
func openParts(path string) ([]*os.File, error) {
	current, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var parts []*os.File
	for _, name := range rotated(path) {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(append(parts, current))
			return nil, err
		}
		parts = append(parts, f)
	}
	parts = append(parts, current)
	if isAt(current, path) {
		return parts, nil
	}
	closeAll(parts)
	return openParts(path) // it was rotated: a part may be missing, or there twice
}

// isAt reports whether an open file has a path still, or nothing has it.
func isAt(f *os.File, path string) bool {
	there, terr := os.Stat(path)
	here, err := f.Stat()
	return terr != nil || err != nil || os.SameFile(there, here)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
