// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/source"
)

// This file keeps the ConfigMaps and PersistentVolumeClaims that were accepted last: containers of
// a file that is refused go on, also after a restart of the agent, and so do those that refer to an
// object of it. A Secret is never written down (sealed.go).

// acceptedVersion is the version of the format of configmaps/*.json and claims/*.json.
const acceptedVersion = 1

// storedKinds returns the kinds of the objects that are written down.
func storedKinds() []string { return []string{environment.KindConfigMap, manifest.KindClaim} }

// objectsDir returns the directory of the objects of a kind, or "" if it is not written down.
func objectsDir(stateDir, kind string) string {
	switch kind {
	case environment.KindConfigMap:
		return filepath.Join(stateDir, "configmaps")
	case manifest.KindClaim:
		return filepath.Join(stateDir, "claims")
	}
	return ""
}

// acceptedObject is the content of such a file.
type acceptedObject struct {
	Version int `json:"version"`
	// File is the manifest.
	File string `json:"file"`
	objectFields
	// BinaryData is Binary, which need not be UTF-8, while it is in the file.
	BinaryData map[string][]byte `json:"binaryData,omitempty"`
}

// objectFields has the fields of manifest.Object. A conversion fails to compile if one is added.
type objectFields struct {
	Kind        string                              `json:"-"` // that of the directory
	Namespace   string                              `json:"namespace"`
	Name        string                              `json:"name"`
	Data        map[string]string                   `json:"data,omitempty"` // UTF-8, as the API has it
	Binary      map[string]string                   `json:"-"`
	AccessModes []corev1.PersistentVolumeAccessMode `json:"accessModes,omitempty"`
	Immutable   bool                                `json:"immutable,omitempty"`
}

// writeObject writes the file.
func writeObject(path string, c acceptedObject) error {
	if len(c.Binary) > 0 {
		c.BinaryData = map[string][]byte{}
	}
	for key, v := range c.Binary {
		c.BinaryData[key] = []byte(v)
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return durable.Replace(path, data, durable.Options{})
}

func (f *Folder) objectFile(key objectKey) string {
	return filepath.Join(objectsDir(f.o.StateDir, key.kind), recordName(key.namespace, key.name))
}

// restoreObjects reads the objects that an earlier agent has accepted.
func (f *Folder) restoreObjects() error {
	f.stored = map[objectKey]acceptedObject{}
	for _, kind := range storedKinds() {
		if err := os.MkdirAll(objectsDir(f.o.StateDir, kind), 0o700); err != nil {
			return fmt.Errorf("create a directory of the agent: %w", err)
		}
		all, unreadable, err := readObjects(f.o.StateDir, kind)
		if err != nil {
			return err
		}
		for _, err := range unreadable {
			f.o.Log.Error("an accepted object cannot be read; its manifest has to be right", "error", err)
		}
		for _, c := range all {
			f.stored[objectKey{c.Kind, c.Namespace, c.Name}] = c
		}
	}
	return f.restoreSealed()
}

// readObjects reads the objects of a kind that the agent with a state directory has accepted.
func readObjects(stateDir, kind string) (all []acceptedObject, unreadable []error, err error) {
	dir := objectsDir(stateDir, kind)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read the accepted objects: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(path, ".json") {
			continue
		}
		c, err := readObject(path, kind)
		if err != nil {
			unreadable = append(unreadable, fmt.Errorf("read the accepted %s in %s: %w", kind, path, err))
			continue
		}
		all = append(all, *c)
	}
	return all, unreadable, nil
}

// ReadClaims returns the PersistentVolumeClaims that the agent with a state directory has accepted.
// It fails if one of them cannot be read.
func ReadClaims(stateDir string) ([]source.Key, error) {
	all, unreadable, err := readObjects(stateDir, manifest.KindClaim)
	if err = errors.Join(append(unreadable, err)...); err != nil {
		return nil, err
	}
	var out []source.Key
	for _, c := range all {
		out = append(out, source.Key{Namespace: c.Namespace, Name: c.Name})
	}
	return out, nil
}

func readObject(path, kind string) (*acceptedObject, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &acceptedObject{}
	err = json.Unmarshal(data, c)
	if c.Version > acceptedVersion { // whatever else it holds
		return nil, fmt.Errorf("found version %d; this agent knows up to %d", c.Version, acceptedVersion)
	}
	if err == nil && (c.Namespace == "" || c.Name == "") {
		err = errors.New("found no namespace or name")
	}
	c.Kind = kind
	if len(c.BinaryData) > 0 {
		c.Binary = map[string]string{}
	}
	for key, v := range c.BinaryData {
		c.Binary[key] = string(v)
	}
	c.BinaryData = nil
	return c, err
}

// held returns the objects that have been accepted: at the first look those of an earlier agent.
func (f *Folder) held() map[objectKey]*object {
	if f.objects != nil {
		return f.objects
	}
	out := map[objectKey]*object{}
	for key, c := range f.stored {
		o := manifest.Object(c.objectFields)
		out[key] = &object{Object: &o, file: c.File}
	}
	return out
}

// storeObjects writes the accepted objects that differ from what is written. What cannot be
// written is tried again at the next look; a claim is reported, so that its volume is not pruned.
func (f *Folder) storeObjects() {
	f.unstored = map[objectKey]error{}
	for key, o := range f.objects {
		if objectsDir(f.o.StateDir, key.kind) == "" {
			continue
		}
		c := acceptedObject{
			Version: acceptedVersion, File: o.file, objectFields: objectFields(*o.Object),
		}
		if old, ok := f.stored[key]; ok && reflect.DeepEqual(old, c) {
			f.stored[key] = c // whose data is in memory once
			continue
		}
		if err := writeObject(f.objectFile(key), c); err != nil {
			f.o.Log.Error("cannot write an accepted object", "object", key.String(), "error", err)
			if key.kind == manifest.KindClaim {
				f.unstored[key] = err
			}
			continue
		}
		f.stored[key] = c
	}
	for key := range f.stored {
		if f.objects[key] != nil {
			continue
		}
		err := os.Remove(f.objectFile(key))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.o.Log.Error("cannot remove an accepted object", "object", key.String(), "error", err)
			continue
		}
		delete(f.stored, key)
	}
}
