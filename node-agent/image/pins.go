// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berth-run/berth/internal/durable"
)

// pinRecord keeps the image of a reference from garbage collection.
type pinRecord struct {
	Version int    `json:"version,omitempty"`
	Ref     string `json:"ref"` // canonical
}

func (s *Store) pinPath(r reference) string {
	return filepath.Join(s.dir, "pins", filepath.Base(s.refPath(r)))
}

// WithPinned pins the images of references, besides those that Pin has pinned.
func WithPinned(references []string) Option {
	return func(s *Store) { s.pinned = references }
}

// CheckPinned returns an error for the first reference that cannot be pinned.
func CheckPinned(references []string) error {
	for _, text := range references {
		if _, err := parseReference(text); err != nil {
			return err
		}
	}
	return nil
}

// Pin keeps whichever image a reference names from garbage collection until Unpin. The image need
// not be there yet. It survives a loss of power.
func (s *Store) Pin(ref string) error {
	r, err := parseReference(ref)
	if err != nil {
		return err
	}
	dir := filepath.Dir(s.pinPath(r))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pin %s: %w", ref, err)
	}
	data, err := json.Marshal(pinRecord{Version: recordVersion, Ref: r.canonical})
	if err == nil {
		err = durable.Replace(s.pinPath(r), data, durable.Options{Sync: true})
	}
	if err != nil {
		return fmt.Errorf("pin %s: %w", ref, err)
	}
	return nil
}

// Unpin takes back Pin, and reports whether the reference was pinned.
func (s *Store) Unpin(ref string) (bool, error) {
	r, err := parseReference(ref)
	if err != nil {
		return false, err
	}
	err = os.Remove(s.pinPath(r))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(s.pinPath(r)))
	}
	if err != nil {
		return false, fmt.Errorf("unpin %s: %w", ref, err)
	}
	return true, nil
}

// pins returns the canonical references that are pinned.
func (s *Store) pins() (map[string]bool, error) {
	out := map[string]bool{}
	for _, text := range s.pinned {
		if r, err := parseReference(text); err == nil {
			out[r.canonical] = true
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, "pins"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.Name()[0] == '.' {
			continue
		}
		var rec pinRecord
		path := filepath.Join(s.dir, "pins", e.Name())
		// Garbage collection waits until a damaged pin is removed: nobody knows what it keeps.
		if err := readJSON(path, &rec); err != nil {
			if _, serr := os.Lstat(path); errors.Is(serr, fs.ErrNotExist) {
				continue
			}
			return nil, fmt.Errorf("read a pin, %s: %w", path, err)
		}
		out[rec.Ref] = true
	}
	return out, nil
}
