// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/userns"
)

// RootfsStage is the name of the stage that finds or mounts the root filesystem.
const RootfsStage = "rootfs"

// rootfsStage mounts the image with a new writable layer, or looks at the directory that a
// container without an image has for its root filesystem.
type rootfsStage struct{}

func (rootfsStage) Name() string { return RootfsStage }
func (rootfsStage) Scope() Scope { return PerRun }

func (rootfsStage) Ensure(_ context.Context, c *Container) error {
	users, err := fileUsers(c)
	if err != nil {
		return err
	}
	defer users.Close()
	if c.Image != nil {
		if err := c.Dir.MountRootfs(c.Image.Layers, users, c.Labels.File); err != nil {
			return ownFiles(err)
		}
		c.Rootfs = c.Dir.Rootfs()
		return nil
	}
	path, err := nodeRootfs(c.Bundle.Spec.Config.Raw)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	c.Rootfs = path
	if users == nil {
		return nil
	}
	c.Rootfs = c.Dir.Rootfs()
	return ownFiles(c.Dir.BindRootfs(path, users))
}

// fileUsers returns the ids that the files of a container get, to be closed; nil for those on disk.
func fileUsers(c *Container) (*bundle.Users, error) {
	if c.Users == 0 {
		return nil, nil
	}
	namespace, err := userns.New(c.Users)
	if err != nil {
		return nil, err
	}
	return &bundle.Users{Namespace: namespace, First: c.Users}, nil
}

// Release throws the writable layer away.
func (rootfsStage) Release(_ context.Context, c *Container) error { return c.Dir.UnmountRootfs() }

// nodeRootfs returns the directory of the node that a document has for its root filesystem.
func nodeRootfs(document []byte) (string, error) {
	var config struct {
		Root struct {
			Path string `json:"path"`
		} `json:"root"`
	}
	if err := json.Unmarshal(document, &config); err != nil {
		return "", err
	}
	path := config.Root.Path
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf(
			"root.path: found %q; allowed: an absolute directory of the node, where there is no image", path)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("root.path: found nothing at %s on this node; allowed: a directory", path)
	case err != nil:
		return "", fmt.Errorf("root.path: %w", err)
	case !info.IsDir():
		return "", fmt.Errorf("root.path: found a file at %s; allowed: a directory", path)
	}
	return path, nil
}
