// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
)

// private is the directory of files that no disk may have: a tmpfs that only its owner can enter.
// It is unmounted with the container, and gone after a boot.
func (d Dir) private() string { return d.File("private") }

// WriteSecretConfig is WriteConfig for a document with values of Secrets: config.json is a symlink
// to a file in memory.
func (d Dir) WriteSecretConfig(spec *specs.Spec) error {
	document, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write config.json: %w", err)
	}
	if err := d.mountPrivate(); err != nil {
		return fmt.Errorf("write config.json: %w", err)
	}
	file := filepath.Join(d.private(), "config.json")
	if err := durable.Replace(file, document, durable.Options{}); err != nil {
		return err
	}
	// What is there may be the document of an earlier run.
	if err := d.removeConfigFile(); err != nil {
		return err
	}
	if err := os.Symlink("private/config.json", d.File("config.json")); err != nil {
		return fmt.Errorf("write config.json: %w", err)
	}
	return nil
}

// KeepObjectsDigest keeps the digest of the objects that a container was started with, until
// config.json is written for another run, or until a boot. A guessed Secret could be checked
// against it, so it is on no disk.
func (d Dir) KeepObjectsDigest(digest string) error {
	if err := d.mountPrivate(); err != nil {
		return fmt.Errorf("keep the digest of objects: %w", err)
	}
	return durable.Replace(d.objectsDigest(), []byte(digest), durable.Options{})
}

// ObjectsDigest returns the digest that was kept, or "".
func (d Dir) ObjectsDigest() string {
	data, err := os.ReadFile(d.objectsDigest())
	if err != nil {
		return ""
	}
	return string(data)
}

func (d Dir) objectsDigest() string { return filepath.Join(d.private(), "objects") }

// mountPrivate mounts the tmpfs unless it is there.
func (d Dir) mountPrivate() error {
	if err := os.MkdirAll(d.private(), 0o700); err != nil {
		return err
	}
	return mountMemory(d.private(), unix.MS_NOEXEC, "mode=0700")
}

// mountMemory mounts a tmpfs at a directory unless there is a mount. Its pages stay out of swap
// space if the kernel has that option (Linux 6.4).
func mountMemory(path string, flags uintptr, options string) error {
	mounted, err := isMountPoint(path)
	if err != nil || mounted {
		return err
	}
	flags |= unix.MS_NOSUID | unix.MS_NODEV
	err = unix.Mount("berth", path, "tmpfs", flags, options+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("berth", path, "tmpfs", flags, options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", path, err)
	}
	return nil
}

// removePrivate removes the directory of private. It is no error when there is none.
func (d Dir) removePrivate() error {
	if err := unmount(d.private()); err != nil {
		return err
	}
	if err := unix.Rmdir(d.private()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove private directory: %w", err)
	}
	return nil
}
