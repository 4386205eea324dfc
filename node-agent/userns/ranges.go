// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Size is the number of ids that a container has: all of 16 bits, as in a Pod.
const Size = 1 << 16

// Ranges are the ranges of ids that containers have. Each is a symbolic link in a directory, with
// its first id as the name and the container's as the target. The kernel creates a link whole or
// not at all, and no second one of a name, so a range has one container whenever the agent is
// killed.
type Ranges struct {
	dir         string
	first, last uint32

	mu   sync.Mutex
	of   map[string]uint32 // by container; nil if the directory has not been read yet
	used map[uint32]bool
}

// Open returns the ranges that are recorded in a directory. Further ones are given from first to
// last.
func Open(dir string, first, last uint32) (*Ranges, error) {
	// Ranges of earlier settings do not overlap these, since all begin at multiples of Size.
	if first < Size || first%Size != 0 || last < first || last-first < Size-1 || last == 1<<32-1 {
		return nil, fmt.Errorf("found the ids %d to %d; allowed: at least %d ids, from a multiple of %d"+
			" on (not 0), up to 4294967294", first, last, Size, Size)
	}
	return &Ranges{dir: dir, first: first, last: last}, nil
}

// Mappings returns the mappings of a user namespace for the range that begins with an id.
func Mappings(first uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: Size}}
}

// Ensure returns the first id of a container's range, which it has until Release.
func (r *Ranges) Ensure(container string) (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.read(); err != nil {
		return 0, err
	}
	if first, ok := r.of[container]; ok {
		return first, nil
	}
	for at := uint64(r.first); at+Size-1 <= uint64(r.last); at += Size {
		first := uint32(at)
		if r.used[first] {
			continue
		}
		if err := os.MkdirAll(r.dir, 0o700); err != nil {
			return 0, fmt.Errorf("record a range of ids: %w", err)
		}
		if err := os.Symlink(container, r.link(first)); err != nil {
			return 0, fmt.Errorf("record a range of ids: %w", err)
		}
		r.of[container], r.used[first] = first, true
		return first, nil
	}
	return 0, fmt.Errorf("found %d containers with a user namespace; allowed: no more, as the ids %d to %d"+
		" are used: give the agent more by --user-namespace-ids", len(r.of), r.first, r.last)
}

// Release frees a container's range. It is no error if it has none.
func (r *Ranges) Release(container string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.read(); err != nil {
		return err
	}
	first, ok := r.of[container]
	if !ok {
		return nil
	}
	if err := os.Remove(r.link(first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("free a range of ids: %w", err)
	}
	delete(r.of, container)
	delete(r.used, first)
	return nil
}

func (r *Ranges) link(first uint32) string {
	return filepath.Join(r.dir, strconv.FormatUint(uint64(first), 10))
}

// read reads the directory, once.
func (r *Ranges) read() error {
	if r.of != nil {
		return nil
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ranges of ids: %w", err)
	}
	of, used := map[string]uint32{}, map[uint32]bool{}
	for _, e := range entries {
		first, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			continue // nobody's range
		}
		container, err := os.Readlink(filepath.Join(r.dir, e.Name()))
		if err != nil {
			return fmt.Errorf("ranges of ids: %w", err)
		}
		of[container], used[uint32(first)] = uint32(first), true
	}
	r.of, r.used = of, used
	return nil
}
