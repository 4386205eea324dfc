// SPDX-License-Identifier: Apache-2.0

package selinux

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// categories is the number of categories of an MCS policy: c0 to c1023.
const categories = 1024

// Levels are the levels of containers. Each is a symbolic link in a directory, with the container's
// id as the name, and who chose the level and the level itself as the target. The kernel creates a
// link whole or not at all.
type Levels struct {
	dir string

	mu sync.Mutex
	of map[string]level // by container; nil if the directory has not been read yet
}

// level is the level of a container. own is true for one that no other container has, and false for
// one that the user gave.
type level struct {
	own  bool
	text string
}

// Open returns the levels that are recorded in a directory. One agent alone may use it.
func Open(dir string) *Levels { return &Levels{dir: dir} }

// Ensure returns the level of a container, which it has until Release: the given one or, if that is
// empty, one with two categories that no other container has together.
func (l *Levels) Ensure(container, given string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.read(); err != nil {
		return "", err
	}
	have, ok := l.of[container]
	want := level{own: given == "", text: given}
	switch {
	case ok && (have == want || have.own && want.own):
		return have.text, nil
	case want.own:
		want.text = l.free()
	}
	if err := l.record(container, want); err != nil {
		return "", fmt.Errorf("record a level of SELinux: %w", err)
	}
	l.of[container] = want
	return want.text, nil
}

// Release frees a container's level. It is no error if it has none.
func (l *Levels) Release(container string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// An agent that was killed may have left a link that was to replace it.
	for _, name := range []string{newPrefix + container, container} {
		err := os.Remove(filepath.Join(l.dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("free a level of SELinux: %w", err)
		}
	}
	delete(l.of, container)
	return nil
}

// free returns a level that no container has. There are half a million of them, which are more
// than a node has containers. A random one is seldom used, and is not the one that people choose.
func (l *Levels) free() string {
	used := map[string]bool{}
	for _, level := range l.of {
		used[level.text] = true
	}
	for {
		a, b := rand.IntN(categories), rand.IntN(categories) //nolint:gosec // no secret
		if text := fmt.Sprintf("s0:c%d,c%d", min(a, b), max(a, b)); a != b && !used[text] {
			return text
		}
	}
}

const (
	ownPrefix   = "own "
	givenPrefix = "given "
	newPrefix   = ".new-" // of a link that is to replace another one; no container's id begins so
)

// record writes the link of a container in the place of an earlier one.
func (l *Levels) record(container string, of level) error {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	fresh := filepath.Join(l.dir, newPrefix+container)
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	prefix := givenPrefix
	if of.own {
		prefix = ownPrefix
	}
	if err := os.Symlink(prefix+of.text, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(l.dir, container))
}

// read reads the directory, once.
func (l *Levels) read() error {
	if l.of != nil {
		return nil
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("levels of SELinux: %w", err)
	}
	of := map[string]level{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newPrefix) {
			continue
		}
		target, err := os.Readlink(filepath.Join(l.dir, e.Name()))
		if err != nil {
			return fmt.Errorf("levels of SELinux: %w", err)
		}
		if text, own := strings.CutPrefix(target, ownPrefix); own {
			of[e.Name()] = level{own: true, text: text}
		} else if text, given := strings.CutPrefix(target, givenPrefix); given {
			of[e.Name()] = level{text: text}
		}
	}
	l.of = of
	return nil
}
