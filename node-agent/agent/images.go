// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os/user"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/image/dockerconfig"
	"github.com/berth-run/berth/node-agent/lifecycle"
)

// registryFiles returns the files with the node's credentials for registries. In a cluster they are
// for every namespace, so what root has logged in to for itself is not among them.
func (a *agent) registryFiles() dockerconfig.Files {
	f := dockerconfig.Files{Warn: func(message string) { a.Log.Warn(message) }}
	switch {
	case a.RegistryConfig != "":
		f.Paths = []string{a.RegistryConfig}
	case a.Manifests != "":
		f.Paths, f.Optional = []string{podmanConfig}, true
		// A service of systemd has no HOME.
		if root, err := user.LookupId("0"); err == nil {
			f.Paths = append(f.Paths, filepath.Join(root.HomeDir, dockerConfig))
		}
	default:
		f.Paths, f.Optional = []string{kubeletConfig}, true
	}
	return f
}

// Files to which the login commands of root write, docker's in the home directory, and the one that
// the kubelet reads.
const (
	podmanConfig  = "/run/containers/0/auth.json" // containers-auth.json(5)
	dockerConfig  = ".docker/config.json"
	kubeletConfig = "/var/lib/kubelet/config.json"
)

// imageStore is the image store as package lifecycle wants it.
type imageStore struct {
	store   *image.Store
	pulling *image.PullProgress
}

// Ensure is part of lifecycle.Images.
func (s imageStore) Ensure(ctx context.Context, reference string,
	policy corev1.PullPolicy,
) (*lifecycle.Image, error) {
	defer s.pulling.Forget(reference)
	img, err := s.store.Ensure(ctx, reference, image.PullPolicy(policy))
	if err != nil {
		return nil, err
	}
	return &lifecycle.Image{ID: img.ID(), Config: img.Config, Layers: img.Layers}, nil
}
