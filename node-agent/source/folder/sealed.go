// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/internal/durable"
)

// This file refuses changes of immutable ConfigMaps and Secrets, including those that an earlier
// agent has accepted. For a Secret it stores a digest, made with a random key. Only somebody who
// has both can try values.

// places are the places of the fields of an object that may not change, without messages.
type places struct{ data, binary, immutable manifest.Fault }

func placesOf(d *manifest.Document) places {
	data := "data"
	if d.Kind == environment.KindSecret && !d.Has(data) {
		data = "stringData"
	}
	return places{d.At(data, ""), d.At("binaryData", ""), d.At("immutable", "")}
}

// keepImmutable refuses the files that change an object which has been accepted as immutable. They
// may remove it, and add it anew after that.
func (f *Folder) keepImmutable(names []string) {
	held := f.held()
	for _, name := range names {
		fl := f.files[name]
		for _, o := range fl.objects {
			fault, changed := f.frozen(held[o.key()], o)
			if !changed {
				continue
			}
			fault.Message = fmt.Sprintf(
				"found a change of the %s, which is immutable; allowed: its removal, and after that another one of the name",
				o.key())
			fl.conflicts = append(fl.conflicts, fault)
		}
		slices.SortFunc(fl.conflicts, func(a, b manifest.Fault) int { return a.Line - b.Line })
	}
}

// frozen returns the place where a file changes an immutable object; false if it changes nothing.
// was is the accepted object; nil if at most its digest is known.
func (f *Folder) frozen(was, is *object) (manifest.Fault, bool) {
	sealed, ok := f.sealed[is.key()]
	switch {
	case was == nil && !ok || was != nil && !was.Immutable:
		return manifest.Fault{}, false
	case was == nil && is.Immutable:
		return is.places.data, !hmac.Equal(sealed.Digest, f.digest(is))
	case !is.Immutable:
		return is.places.immutable, true
	case !maps.Equal(was.Data, is.Data):
		return is.places.data, true
	}
	return is.places.binary, !maps.Equal(was.Binary, is.Binary)
}

// sealedVersion is the version of the format of secrets/*.json.
const sealedVersion = 1

// sealedSecret is the content of such a file.
type sealedSecret struct {
	Version   int    `json:"version"`
	File      string `json:"file"` // the manifest
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Digest    []byte `json:"digest"`
}

func (f *Folder) sealedDir() string { return filepath.Join(f.o.StateDir, "secrets") }

func (f *Folder) sealedFile(key objectKey) string {
	return filepath.Join(f.sealedDir(), recordName(key.namespace, key.name))
}

// sealKey is the name of the file with the key of all digests. No record has that name.
const sealKey = "key"

// digest returns the digest of a Secret.
func (f *Folder) digest(o *object) []byte {
	h := hmac.New(sha256.New, f.seal)
	fmt.Fprintf(h, "%q %q\n", o.Namespace, o.Name)
	for _, key := range slices.Sorted(maps.Keys(o.Data)) {
		fmt.Fprintf(h, "%q %q\n", key, o.Data[key])
	}
	return h.Sum(nil)
}

// restoreSealed reads the digests of the immutable Secrets that an earlier agent has accepted.
// Those that cannot be read, or whose key is lost, hold nothing.
func (f *Folder) restoreSealed() error {
	f.sealed = map[objectKey]sealedSecret{}
	if err := os.MkdirAll(f.sealedDir(), 0o700); err != nil {
		return fmt.Errorf("create a directory of the agent: %w", err)
	}
	var err error
	f.seal, err = os.ReadFile(filepath.Join(f.sealedDir(), sealKey))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the key of digests: %w", err)
	}
	if len(f.seal) != sha256.Size {
		f.seal = nil
	}
	entries, err := os.ReadDir(f.sealedDir())
	if err != nil {
		return fmt.Errorf("read the digests of Secrets: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(f.sealedDir(), e.Name())
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(path, ".json") {
			continue
		}
		if f.seal == nil { // with the next key, an unchanged Secret would have another digest
			if err := os.Remove(path); err != nil {
				f.o.Log.Error("cannot remove a digest whose key is lost", "file", path, "error", err)
			}
			continue
		}
		s, err := readSealed(path)
		if err != nil {
			f.o.Log.Error("a change of an immutable Secret would not be seen", "file", path, "error", err)
			continue
		}
		f.sealed[objectKey{environment.KindSecret, s.Namespace, s.Name}] = s
	}
	return nil
}

func readSealed(path string) (s sealedSecret, err error) {
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if s.Version > sealedVersion { // even if another field has an unknown form
		return s, fmt.Errorf("found version %d; this agent knows up to %d", s.Version, sealedVersion)
	}
	if err == nil && (s.Namespace == "" || s.Name == "" || len(s.Digest) != sha256.Size) {
		err = errors.New("found no namespace, name or digest")
	}
	return s, err
}

// storeSealed writes the digests of accepted immutable Secrets, and removes the digests of removed
// ones. keeps reports whether the objects of a file stay accepted although the file may not have
// them now. A failed write is tried again at the next look.
func (f *Folder) storeSealed(keeps func(file string) bool) {
	for key, o := range f.objects {
		if key.kind != environment.KindSecret || !o.Immutable {
			continue
		}
		if err := f.storeDigest(key, o); err != nil {
			f.o.Log.Error("a change of an immutable Secret may not be seen by the next agent",
				"object", key.String(), "error", err)
		}
	}
	for key, s := range f.sealed {
		if o := f.objects[key]; o != nil && o.Immutable || o == nil && keeps(s.File) {
			continue
		}
		if err := os.Remove(f.sealedFile(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.o.Log.Error("cannot remove the digest of a Secret", "object", key.String(), "error", err)
			continue
		}
		delete(f.sealed, key)
	}
}

func (f *Folder) storeDigest(key objectKey, o *object) error {
	if f.seal == nil {
		seal := make([]byte, sha256.Size)
		_, _ = rand.Read(seal) // it never fails
		err := durable.Replace(filepath.Join(f.sealedDir(), sealKey), seal, durable.Options{})
		if err != nil {
			return err
		}
		f.seal = seal
	}
	s := sealedSecret{
		Version: sealedVersion, File: o.file, Namespace: key.namespace, Name: key.name,
		Digest: f.digest(o),
	}
	if old, ok := f.sealed[key]; ok && old.File == s.File && hmac.Equal(old.Digest, s.Digest) {
		return nil
	}
	data, err := json.Marshal(s)
	if err == nil {
		err = durable.Replace(f.sealedFile(key), data, durable.Options{})
	}
	if err == nil {
		f.sealed[key] = s
	}
	return err
}
