// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berth-run/berth/api/oci/merge"
)

// ImageVolume is a volume with the files of an image.
type ImageVolume struct {
	Name string
	// Field is the path of the image below spec.
	Field string
	// Layers are directories, lowest first.
	Layers []string
}

// imageVolumesDir has a mount for each volume with the files of an image, under the volume's name.
func (d Dir) imageVolumesDir() string { return d.File(filepath.Clean(merge.ImageVolumeSource(""))) }

// emptyLayer is the name of an empty directory beside these mounts. No volume has such a name.
const emptyLayer = ".empty"

// MountImageVolumes mounts volumes read-only where the document expects them, and unmounts those of
// an earlier run first. If it fails, nothing of it is left. Their files have the ids of users; with
// nil, those on disk. They have the SELinux label; with "", those of the layers.
//
// Each is an overlay, also for a single layer: a layer may have whiteouts, which a bind mount would
// show as devices. overlayfs takes no single directory without a writable one, so an empty one lies
// below.
func (d Dir) MountImageVolumes(volumes []ImageVolume, users *Users, label string) (err error) {
	if err := d.UnmountImageVolumes(); err != nil || len(volumes) == 0 {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.UnmountImageVolumes())
		}
	}()
	top := d.imageVolumesDir()
	for _, dir := range []string{top, filepath.Join(top, emptyLayer)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("mount images of volumes: %w", err)
		}
	}
	for _, v := range volumes {
		if err := d.mountImageVolume(v, users, label); err != nil {
			return fmt.Errorf("%s: %w", v.Field, err)
		}
	}
	return nil
}

func (d Dir) mountImageVolume(v ImageVolume, users *Users, label string) (err error) {
	if !inside(v.Name) {
		return fmt.Errorf("found the volume %q; allowed: a name without /", v.Name)
	}
	layers := v.Layers
	if len(layers) == 0 || len(layers) >= maxLayers {
		return fmt.Errorf("found %d layers; allowed: 1 to %d, as overlayfs takes", len(layers),
			maxLayers-1)
	}
	at := filepath.Join(d.imageVolumesDir(), v.Name)
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	if users != nil {
		if layers, err = d.mapLayers(layers, users); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.unmountLayers()) }()
	}
	if len(layers) == 1 {
		layers = []string{filepath.Join(d.imageVolumesDir(), emptyLayer), layers[0]}
	}
	return overlay{at: at, label: label}.mount(layers)
}

// UnmountImageVolumes undoes MountImageVolumes. It is no error when there is nothing.
func (d Dir) UnmountImageVolumes() error {
	entries, err := os.ReadDir(d.imageVolumesDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list images of volumes: %w", err)
	}
	for _, e := range entries {
		p := filepath.Join(d.imageVolumesDir(), e.Name())
		if err := unmount(p); err != nil {
			return err
		}
		if err := os.Remove(p); err != nil { // nothing in it: it fails where a mount is left
			return fmt.Errorf("remove mount point: %w", err)
		}
	}
	if err := d.unmountLayers(); err != nil {
		return err
	}
	if err := os.Remove(d.imageVolumesDir()); err != nil {
		return fmt.Errorf("remove images of volumes: %w", err)
	}
	return nil
}
