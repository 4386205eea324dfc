// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-run/berth/internal/durable"
)

// refRecord is the last result of resolving a reference.
type refRecord struct {
	Version  int           `json:"version,omitempty"`
	Ref      string        `json:"ref"`      // canonical
	Top      digest.Digest `json:"top"`      // of the index or manifest
	Manifest digest.Digest `json:"manifest"` // of the image for this node
	File     *fileIdentity `json:"file,omitempty"`
	// Access has digests of the credentials to which the registry has shown the image. It is empty if
	// those of the node, or none, are enough.
	Access []string `json:"access,omitempty"`
}

// imageRecord is an image.
type imageRecord struct {
	Version  int            `json:"version,omitempty"`
	Manifest digest.Digest  `json:"manifest"`
	ConfigID digest.Digest  `json:"configDigest"`
	Config   v1.ImageConfig `json:"config"`
	Layers   []string       `json:"layers"` // relative to the store, lowest first
	Size     int64          `json:"size"`
	// Created is the time that the configuration has, and Pulled is when the image was unpacked. An
	// earlier version recorded neither.
	Created time.Time `json:"created,omitzero"`
	Pulled  time.Time `json:"pulled,omitzero"`
}

// isCurrent reports whether a local archive is the file that the record was made from. One that is
// gone cannot have changed.
func (rec *refRecord) isCurrent(r reference) bool {
	now, err := currentIdentity(r)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return err == nil && rec.File != nil && *now == *rec.File
}

func (s *Store) imagePath(manifest digest.Digest) string {
	return filepath.Join(s.dir, "images", manifest.Algorithm().String(), manifest.Encoded()+".json")
}

func (s *Store) refPath(r reference) string {
	sum := sha256.Sum256([]byte(r.canonical))
	return filepath.Join(s.dir, "refs", hex.EncodeToString(sum[:])+".json")
}

func (s *Store) writeImage(img *Image) error {
	rec := imageRecord{
		Version: recordVersion, Manifest: img.Digest, ConfigID: img.ConfigDigest,
		Config: img.Config, Size: img.Size, Created: img.created, Pulled: time.Now(),
	}
	for _, l := range img.Layers {
		rel, err := filepath.Rel(s.dir, l)
		if err != nil {
			return err
		}
		rec.Layers = append(rec.Layers, rel)
	}
	return s.writeJSON(s.imagePath(img.Digest), rec)
}

// recordVersion is the version of the format of records. Records of 49c6b77 and before have none,
// and are of version 0.
const recordVersion = 1

// errNewer is returned for a record of a newer version, which is not guessed at.
var errNewer = errors.New("newer version")

// errNoRecord is returned where there is no record, or a damaged one, which the next pull replaces.
var errNoRecord = errors.New("no record")

// readJSON reads a record. It returns errNoRecord if the file is missing or damaged, and errNewer
// if the record is of a newer version.
func readJSON(file string, v any) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return errNoRecord
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return decodeRecord(f, v)
}

// decodeRecord reads a record from an open file, with the errors of readJSON.
func decodeRecord(f *os.File, v any) error {
	file := f.Name()
	data, err := readAll(file, f, 16<<20)
	if err != nil {
		return err
	}
	var head struct{ Version int }
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("%w: %s: %w", errNoRecord, file, err)
	}
	if head.Version > recordVersion {
		return fmt.Errorf("%s: %w: found version %d; allowed: up to %d", file, errNewer, head.Version,
			recordVersion)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %s: %w", errNoRecord, file, err)
	}
	return nil
}

// writeJSON replaces a record as one.
func (s *Store) writeJSON(file string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	// Two processes may replace one record at the same time.
	o := durable.Options{Sync: true, Temporary: filepath.Join(s.session, "record-"+rand.Text())}
	if s.journal == nil {
		return durable.Replace(file, data, o)
	}
	if err := s.journal.Replace(file, data, o); err != nil {
		return err
	}
	s.journal.FlushSoon()
	return nil
}
