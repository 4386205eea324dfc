// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/user"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/image/dockerconfig"
	"github.com/berth-run/berth/node-agent/lifecycle"
)

// RegistryFiles returns the files with the node's credentials for registries; config is the file of
// --registry-config. In a cluster they are for every namespace, so what root has logged in to for
// itself is not among them.
func RegistryFiles(config string, alone bool, log *slog.Logger) dockerconfig.Files {
	f := dockerconfig.Files{Warn: func(message string) { log.Warn(message) }}
	switch {
	case config != "":
		f.Paths = []string{config}
	case alone:
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
	full    chan struct{} // receives when a pull has failed on a full disk
}

// parseSecrets returns the credentials in Secrets of imagePullSecrets, and the names of the Secrets
// that are not there.
func parseSecrets(secrets []lifecycle.PullSecret) (configs []*dockerconfig.Config, missing []string,
	err error,
) {
	for _, secret := range secrets {
		if secret.Data == nil {
			missing = append(missing, secret.Name)
			continue
		}
		source := "Secret " + secret.Name
		text, parse := secret.Data[corev1.DockerConfigJsonKey], dockerconfig.Parse
		if text == "" {
			text, parse = secret.Data[corev1.DockerConfigKey], dockerconfig.ParseLegacy
		}
		if text == "" {
			return nil, nil, fmt.Errorf("imagePullSecrets: %s: found neither %s nor %s in data; allowed: one of them, as kubectl create secret docker-registry writes it", //nolint:lll // one message
				source, corev1.DockerConfigJsonKey, corev1.DockerConfigKey)
		}
		config, err := parse([]byte(text), source)
		if err != nil {
			return nil, nil, fmt.Errorf("imagePullSecrets: %w", err)
		}
		configs = append(configs, config)
	}
	return configs, missing, nil
}

// Ensure is part of lifecycle.Images.
func (s imageStore) Ensure(ctx context.Context, r lifecycle.PullRequest) (*lifecycle.Image, error) {
	defer s.pulling.Forget(r.Reference)
	secrets, err := r.PullSecrets()
	if err != nil {
		return nil, err
	}
	own, missing, err := parseSecrets(secrets)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", r.Reference, err)
	}
	img, err := s.store.EnsureWith(ctx, r.Reference, image.PullPolicy(r.Policy), own...)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		select {
		case s.full <- struct{}{}:
		default:
		}
	}
	if err != nil && len(missing) > 0 {
		return nil, fmt.Errorf("%w (imagePullSecrets: there is no Secret %s)", err,
			strings.Join(missing, ", "))
	}
	if err != nil {
		return nil, err
	}
	return &lifecycle.Image{
		ID: img.ID(), Config: img.Config, Layers: img.Layers, Release: img.Release,
	}, nil
}
