// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Use is an image that a container has, or will have at its next start.
type Use struct {
	// By names the container for people.
	By string
	// Manifest is the digest of the image, or Reference names it.
	Manifest  digest.Digest
	Reference string
}

// Users returns every use of an image on the node. Nothing is removed if it fails.
type Users func() ([]Use, error)

// Stored is an image in the store.
type Stored struct {
	Digest       digest.Digest
	ConfigDigest digest.Digest
	// Names are the references that led to the image last, such as docker.io/library/busybox:1.37.
	Names []string
	// Size of configuration and layers as transferred, in bytes.
	Size int64
	// Created is as the configuration says, which is hostile; zero if it is not known.
	Created time.Time
	// Pulled is the time of unpacking, and LastUsed the time of the last start or look that found a
	// user.
	Pulled, LastUsed time.Time
	// Pinned says that garbage collection must not remove the image.
	Pinned bool
	// UsedBy are the containers that have it.
	UsedBy []string

	refs   []string // files of Names
	path   string   // of the record
	layers []string // relative to the store, without /diff
	whole  bool     // all layers are there
}

// List returns the images of the store by their names.
func (s *Store) List(users Users) ([]Stored, error) {
	all, err := s.listAll(users)
	return slices.DeleteFunc(all, func(i Stored) bool { return !i.whole }), err
}

// listAll includes images some of whose layers are missing.
func (s *Store) listAll(users Users) ([]Stored, error) {
	paths, err := s.list("images")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var all []Stored
	for _, path := range paths {
		img, err := s.readStored(path)
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		if img != nil {
			all = append(all, *img)
		}
	}
	index := map[digest.Digest]*Stored{}
	for i := range all {
		index[all[i].Digest] = &all[i]
	}
	byRef, err := s.addNames(index)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	uses, err := users()
	if err != nil {
		return nil, err
	}
	for _, use := range uses {
		manifest := use.Manifest
		if r, err := parseReference(use.Reference); manifest == "" && err == nil {
			manifest = byRef[r.canonical]
		}
		if img := index[manifest]; img != nil && !slices.Contains(img.UsedBy, use.By) {
			img.UsedBy = append(img.UsedBy, use.By)
		}
	}
	for i := range all {
		slices.Sort(all[i].Names)
		slices.Sort(all[i].UsedBy)
	}
	slices.SortFunc(all, func(a, b Stored) int {
		return cmp.Or(slices.Compare(a.Names, b.Names), cmp.Compare(a.Digest, b.Digest))
	})
	return all, nil
}

// readStored reads the record of an image; nil if it is damaged or gone.
func (s *Store) readStored(path string) (*Stored, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rec imageRecord
	err = readJSON(path, &rec)
	if err != nil && !errors.Is(err, errNoRecord) {
		return nil, err // it may be of a newer version
	}
	if err != nil || rec.Manifest.Validate() != nil || s.imagePath(rec.Manifest) != path {
		return nil, nil //nolint:nilerr // there is no record
	}
	img := &Stored{
		Digest: rec.Manifest, ConfigDigest: rec.ConfigID, Size: rec.Size, Created: rec.Created,
		Pulled: rec.Pulled, LastUsed: info.ModTime(), path: path, whole: s.isWhole(&rec),
	}
	for _, l := range rec.Layers {
		if filepath.IsLocal(l) {
			img.layers = append(img.layers, filepath.Dir(l))
		}
	}
	return img, nil
}

// addNames adds to images the references that led to them, and returns the digest by the reference.
func (s *Store) addNames(index map[digest.Digest]*Stored) (map[string]digest.Digest, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "refs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	pins, err := s.pins()
	if err != nil {
		return nil, err
	}
	byRef := map[string]digest.Digest{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(s.dir, "refs", e.Name())
		var rec refRecord
		if err := readJSON(path, &rec); errors.Is(err, errNoRecord) {
			continue
		} else if err != nil {
			return nil, err
		}
		byRef[rec.Ref] = rec.Manifest
		if img := index[rec.Manifest]; img != nil {
			img.Names = append(img.Names, displayName(rec.Ref))
			img.refs = append(img.refs, path)
			img.Pinned = img.Pinned || pins[rec.Ref]
		}
	}
	return byRef, nil
}

// displayName returns a canonical reference as users write it.
func displayName(canonical string) string {
	name := strings.TrimPrefix(canonical, string(registryTransport)+"://")
	if rest, ok := strings.CutPrefix(name, "index.docker.io/"); ok {
		return "docker.io/" + rest
	}
	return name
}

// Find returns the image of a reference, of a digest or of the first 7 or more digits of one. named
// says that it was a reference.
func Find(all []Stored, text string) (found *Stored, named bool, err error) {
	if r, err := parseReference(text); err == nil {
		for i := range all {
			if slices.Contains(all[i].Names, displayName(r.canonical)) {
				return &all[i], true, nil
			}
		}
	}
	_, hex, ok := strings.Cut(text, "sha256:")
	if !ok {
		hex = text
	}
	for i := range all {
		if len(hex) < 7 || !strings.HasPrefix(all[i].Digest.Encoded(), hex) &&
			!strings.HasPrefix(all[i].ConfigDigest.Encoded(), hex) {
			continue
		}
		if found != nil {
			return nil, false, fmt.Errorf("found several images of the digest %s; allowed: more of its digits",
				text)
		}
		found = &all[i]
	}
	if found == nil {
		return nil, false, fmt.Errorf("found no image %s; allowed: a name or a digest that berth-agent image ls shows",
			text)
	}
	return found, false, nil
}
