// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/internal/procfs"
)

// keyLocks is a mutex a key, within this process.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

func (l *keyLocks) lock(ctx context.Context, key string) (func(), error) {
	for {
		l.mu.Lock()
		if l.held == nil {
			l.held = map[string]chan struct{}{}
		}
		busy, ok := l.held[key]
		if !ok {
			mine := make(chan struct{})
			l.held[key] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lockLayer excludes everybody else, in this process and in others, from unpacking a layer. Lock
// files stay: removing one while another process waits for it would give two holders.
func (s *Store) lockLayer(ctx context.Context, id string) (func(), error) {
	unlock, err := s.layerLocks.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	f, err := durable.Lock(ctx, filepath.Join(s.dir, "locks", strings.ReplaceAll(id, ":", "-")))
	if err != nil {
		unlock()
		return nil, err
	}
	return func() {
		_ = f.Close()
		unlock()
	}, nil
}

// haveSession creates the session of this process unless there is one. An Open on a full disk
// leaves that to the first work that needs it: an agent that cannot fetch images can still stop
// containers.
func (s *Store) haveSession(ctx context.Context) error {
	s.sessionMu.Lock()
	defer s.sessionMu.Unlock()
	if s.sessionLock != nil {
		return nil
	}
	return s.openSession(ctx)
}

// dropUnrecorded removes, after a boot, the layers that no record of a whole image names: a loss of
// power may have left only a part of them. The caller holds the lock of the store.
func (s *Store) dropUnrecorded() error {
	boot, err := procfs.BootID()
	if err != nil {
		return err
	}
	file := filepath.Join(s.dir, "boot")
	if last, err := os.ReadFile(file); err == nil && string(last) == boot {
		return nil
	}
	if s.beside {
		if err := s.neverUsed(); err != nil {
			return err
		}
	}
	records, err := s.list("images")
	if err != nil {
		return err
	}
	recorded := map[string]bool{}
	for _, path := range records {
		var rec imageRecord
		if err := readJSON(path, &rec); errors.Is(err, errNoRecord) {
			continue
		} else if err != nil {
			return err // it may name layers that must stay
		}
		if !s.isWhole(&rec) {
			continue // the journal has restored it: its image was removed, or it is damaged
		}
		for _, l := range rec.Layers {
			recorded[filepath.Join(s.dir, filepath.Dir(l))] = true
		}
	}
	for _, kind := range []string{"layers", "chains"} {
		layers, err := s.list(kind)
		if err != nil {
			return err
		}
		for _, dir := range layers {
			if recorded[dir] {
				continue
			}
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return durable.Replace(file, []byte(boot), durable.Options{})
}

// ErrUnchecked is returned for a pull beside an agent that has not run since the last boot.
var ErrUnchecked = errors.New("the image store has not been checked since the last boot: " +
	"start the agent first")

// neverUsed returns ErrUnchecked if the store has layers.
func (s *Store) neverUsed() error {
	for _, kind := range []string{"layers", "chains"} {
		layers, err := s.list(kind)
		if err != nil {
			return err
		}
		if len(layers) > 0 {
			return ErrUnchecked
		}
	}
	return nil
}

// list returns the paths in DIR/KIND/ALGORITHM for all algorithms. filepath.Glob would pass over
// directories that cannot be read, and find those of other stores if DIR has a character that is
// special to it.
func (s *Store) list(kind string) (paths []string, err error) {
	dir := filepath.Join(s.dir, kind)
	algorithms, err := os.ReadDir(dir)
	for _, algorithm := range algorithms {
		if !algorithm.IsDir() {
			continue
		}
		entries, e := os.ReadDir(filepath.Join(dir, algorithm.Name()))
		err = errors.Join(err, e)
		for _, entry := range entries {
			paths = append(paths, filepath.Join(dir, algorithm.Name(), entry.Name()))
		}
	}
	return paths, err
}

// removeDeadSessions removes the directories for unfinished work of processes that are dead: their
// flock is gone. The caller holds the lock of the store.
func (s *Store) removeDeadSessions() error {
	tmp := filepath.Join(s.dir, "tmp")
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := filepath.Join(tmp, e.Name())
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a process that ends has removed it
		}
		if err != nil {
			return err
		}
		err = durable.TryLockFile(f)
		if err == nil {
			err = os.RemoveAll(p)
		} else if errors.Is(err, durable.ErrLocked) {
			err = nil // its process lives
		}
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("clean %s: %w", p, err)
		}
	}
	return nil
}

// openSession creates this process's directory for unfinished work, and removes the
// directories of dead processes.
func (s *Store) openSession(ctx context.Context) error {
	guard, err := durable.Lock(ctx, filepath.Join(s.dir, "lock"))
	if err != nil {
		return err
	}
	defer guard.Close()
	if err := s.removeDeadSessions(); err != nil {
		return err
	}
	if err := s.dropUnrecorded(); err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, "tmp")
	if s.session, err = os.MkdirTemp(tmp, "session-"); err != nil {
		return err
	}
	if s.sessionLock, err = os.Open(s.session); err != nil {
		return err
	}
	return durable.TryLockFile(s.sessionLock)
}
