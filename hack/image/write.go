// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "crypto/sha256" // go-digest looks its hash up at run time
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// write writes the image of these uncompressed layers in the format that was asked for.
func write(o options, layers [][]byte) error {
	img := v1.Image{
		Created:  &epoch,
		Platform: v1.Platform{OS: "linux", Architecture: o.arch},
		Config: v1.ImageConfig{
			User:       o.user,
			Env:        append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, o.env...),
			Entrypoint: o.entrypoint,
			Cmd:        o.cmd,
			WorkingDir: o.workdir,
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
	for _, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l))
		img.History = append(img.History, v1.History{Created: &epoch, CreatedBy: "berth hack/image"})
	}
	config, err := json.Marshal(img)
	if err != nil {
		return err
	}
	var files map[string][]byte
	if o.format == "docker-archive" {
		files, err = dockerFiles(o, config, layers)
	} else {
		files, err = ociFiles(o, config, layers)
	}
	if err != nil {
		return err
	}
	if o.format == "oci" {
		return writeFolder(o.output, files)
	}
	return writeArchive(o.output, files)
}

// ociFiles is an OCI image layout: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
func ociFiles(o options, config []byte, layers [][]byte) (map[string][]byte, error) {
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	blob := func(mediaType string, data []byte) v1.Descriptor {
		d := digest.FromBytes(data)
		files["blobs/"+d.Algorithm().String()+"/"+d.Encoded()] = data
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    blob(v1.MediaTypeImageConfig, config),
	}
	for _, l := range layers {
		if o.compress == "none" {
			m.Layers = append(m.Layers, blob(v1.MediaTypeImageLayer, l))
			continue
		}
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(l); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, blob(v1.MediaTypeImageLayerGzip, b.Bytes()))
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	desc := blob(v1.MediaTypeImageManifest, manifest)
	desc.Platform = &v1.Platform{OS: "linux", Architecture: o.arch}
	desc.Annotations = map[string]string{v1.AnnotationRefName: o.tag}
	files["index.json"], err = json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{desc},
	})
	return files, err
}

// dockerFiles is the form that `docker save` writes: manifest.json, the config and a tar a layer.
func dockerFiles(o options, config []byte, layers [][]byte) (map[string][]byte, error) {
	files := map[string][]byte{}
	configName := digest.FromBytes(config).Encoded() + ".json"
	files[configName] = config
	type item struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	tag := o.tag
	if !strings.Contains(tag, ":") {
		tag = "berth:" + tag
	}
	it := item{Config: configName, RepoTags: []string{tag}}
	for _, l := range layers {
		name := digest.FromBytes(l).Encoded() + ".tar"
		files[name] = l
		it.Layers = append(it.Layers, name)
	}
	var err error
	files["manifest.json"], err = json.Marshal([]item{it})
	return files, err
}

func writeFolder(dir string, files map[string][]byte) error {
	for name, data := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeArchive writes beside the file and renames: a reader never sees half an archive.
func writeArchive(file string, files map[string][]byte) error {
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".image-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w := tar.NewWriter(f)
	for _, n := range names {
		h := &tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[n])), ModTime: epoch, Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		if _, err := w.Write(files[n]); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
