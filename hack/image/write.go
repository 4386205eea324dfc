// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	_ "crypto/sha256" // go-digest looks its hash up at run time
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// content is the content of a file of the image: data, or all of a file on the disk.
type content struct {
	data   []byte
	file   string
	digest digest.Digest
	size   int64
}

func inMemory(data []byte) content {
	return content{data: data, digest: digest.FromBytes(data), size: int64(len(data))}
}

// onDisk writes a file in dir, which may be larger than the memory.
func onDisk(dir string, fill func(io.Writer) error) (content, error) {
	f, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	hash := digest.Canonical.Digester()
	buffered := bufio.NewWriterSize(io.MultiWriter(f, hash.Hash()), 1<<20)
	if err := errors.Join(fill(buffered), buffered.Flush()); err != nil {
		return content{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return content{}, err
	}
	return content{file: f.Name(), digest: hash.Digest(), size: info.Size()}, f.Close()
}

// copyTo writes all of it.
func (c content) copyTo(w io.Writer) error {
	if c.file == "" {
		_, err := w.Write(c.data)
		return err
	}
	f, err := os.Open(c.file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// write writes the image of these uncompressed layers in the format that was asked for. dir is for
// temporary files.
func write(o options, dir string, layers []content) error {
	img := v1.Image{
		Created:  &epoch,
		Platform: v1.Platform{OS: "linux", Architecture: o.arch},
		Config: v1.ImageConfig{
			User: o.user,
			Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
				o.env...),
			Entrypoint: o.entrypoint,
			Cmd:        o.cmd,
			WorkingDir: o.workdir,
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
	for _, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, l.digest)
		img.History = append(img.History, v1.History{Created: &epoch, CreatedBy: "berth hack/image"})
	}
	config, err := json.Marshal(img)
	if err != nil {
		return err
	}
	var files map[string]content
	if o.format == "docker-archive" {
		files, err = dockerFiles(o, config, layers)
	} else {
		files, err = ociFiles(o, dir, config, layers)
	}
	if err != nil {
		return err
	}
	if o.format == "oci" {
		return writeFolder(o.output, files)
	}
	return writeArchive(o.output, files)
}

// ociFiles returns an OCI image layout:
// https://github.com/opencontainers/image-spec/blob/main/image-layout.md
func ociFiles(o options, dir string, config []byte, layers []content) (map[string]content, error) {
	files := map[string]content{"oci-layout": inMemory([]byte(`{"imageLayoutVersion":"1.0.0"}`))}
	blob := func(mediaType string, c content) v1.Descriptor {
		files["blobs/"+c.digest.Algorithm().String()+"/"+c.digest.Encoded()] = c
		return v1.Descriptor{MediaType: mediaType, Digest: c.digest, Size: c.size}
	}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    blob(v1.MediaTypeImageConfig, inMemory(config)),
	}
	for _, l := range layers {
		if o.compress == "none" {
			m.Layers = append(m.Layers, blob(v1.MediaTypeImageLayer, l))
			continue
		}
		packed, err := onDisk(dir, func(w io.Writer) error {
			z := gzip.NewWriter(w)
			return errors.Join(l.copyTo(z), z.Close())
		})
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, blob(v1.MediaTypeImageLayerGzip, packed))
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	desc := blob(v1.MediaTypeImageManifest, inMemory(manifest))
	desc.Platform = &v1.Platform{OS: "linux", Architecture: o.arch}
	desc.Annotations = map[string]string{v1.AnnotationRefName: o.tag}
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{desc},
	})
	files["index.json"] = inMemory(index)
	return files, err
}

// dockerFiles returns the files that `docker save` writes: manifest.json, the config and a tar a
// layer.
func dockerFiles(o options, config []byte, layers []content) (map[string]content, error) {
	files := map[string]content{}
	configName := digest.FromBytes(config).Encoded() + ".json"
	files[configName] = inMemory(config)
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
		name := l.digest.Encoded() + ".tar"
		files[name] = l
		it.Layers = append(it.Layers, name)
	}
	manifest, err := json.Marshal([]item{it})
	files["manifest.json"] = inMemory(manifest)
	return files, err
}

func writeFolder(dir string, files map[string]content) error {
	for name, c := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		if err := errors.Join(c.copyTo(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// writeArchive writes beside the file and renames: a reader never sees half an archive.
func writeArchive(file string, files map[string]content) error {
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
		h := &tar.Header{
			Name: n, Typeflag: tar.TypeReg, Mode: 0o644, Size: files[n].size, ModTime: epoch,
			Format: tar.FormatPAX,
		}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		if err := files[n].copyTo(w); err != nil {
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
