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

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/internal/durable"
)

// This file keeps the ConfigMaps that were accepted last: containers of a file that is refused go
// on, also after a restart of the agent, and so do those that refer to a ConfigMap of it. A Secret
// is never written down.

// configMapVersion is the version of the format of configmaps/*.json.
const configMapVersion = 1

// acceptedConfigMap is the content of such a file.
type acceptedConfigMap struct {
	Version int `json:"version"`
	// File is the manifest.
	File string `json:"file"`
	configMapFields
	// BinaryData is Binary, which need not be UTF-8, while it is in the file.
	BinaryData map[string][]byte `json:"binaryData,omitempty"`
}

// configMapFields has the fields of manifest.Object. A conversion fails to compile if one is added.
type configMapFields struct {
	Kind      string            `json:"-"`
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Data      map[string]string `json:"data,omitempty"` // UTF-8, as the API has it
	Binary    map[string]string `json:"-"`
}

// writeConfigMap writes the file.
func writeConfigMap(path string, c acceptedConfigMap) error {
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

func configMapsDir(stateDir string) string { return filepath.Join(stateDir, "configmaps") }

func (f *Folder) configMapFile(key objectKey) string {
	return filepath.Join(configMapsDir(f.o.StateDir), recordName(key.namespace, key.name))
}

// restoreConfigMaps reads the ConfigMaps that an earlier agent has accepted.
func (f *Folder) restoreConfigMaps() error {
	dir := configMapsDir(f.o.StateDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create a directory of the agent: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the accepted ConfigMaps: %w", err)
	}
	f.stored = map[objectKey]acceptedConfigMap{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(path, ".json") {
			continue
		}
		c, err := readConfigMap(path)
		if err != nil {
			f.o.Log.Error("an accepted ConfigMap cannot be read; its manifest has to be right", "file",
				path, "error", err)
			continue
		}
		f.stored[objectKey{c.Kind, c.Namespace, c.Name}] = *c
	}
	return nil
}

func readConfigMap(path string) (*acceptedConfigMap, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &acceptedConfigMap{}
	err = json.Unmarshal(data, c)
	if c.Version > configMapVersion { // whatever else it holds
		return nil, fmt.Errorf("found version %d; this agent knows up to %d", c.Version,
			configMapVersion)
	}
	if err == nil && (c.Namespace == "" || c.Name == "") {
		err = errors.New("found no namespace or name")
	}
	c.Kind = environment.KindConfigMap
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
		o := manifest.Object(c.configMapFields)
		out[key] = &object{Object: &o, file: c.File}
	}
	return out
}

// storeConfigMaps writes the accepted ConfigMaps that differ from what is written. What cannot be
// written is tried again at the next look.
func (f *Folder) storeConfigMaps() {
	for key, o := range f.objects {
		if key.kind != environment.KindConfigMap {
			continue
		}
		c := acceptedConfigMap{
			Version: configMapVersion, File: o.file, configMapFields: configMapFields(*o.Object),
		}
		if old, ok := f.stored[key]; ok && reflect.DeepEqual(old, c) {
			f.stored[key] = c // whose data is in memory once
			continue
		}
		if err := writeConfigMap(f.configMapFile(key), c); err != nil {
			f.o.Log.Error("cannot write an accepted ConfigMap", "object", key.String(), "error", err)
			continue
		}
		f.stored[key] = c
	}
	for key := range f.stored {
		if f.objects[key] != nil {
			continue
		}
		err := os.Remove(f.configMapFile(key))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.o.Log.Error("cannot remove a ConfigMap", "object", key.String(), "error", err)
			continue
		}
		delete(f.stored, key)
	}
}
