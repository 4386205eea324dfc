// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/v1alpha1"
)

// objectsStage computes a digest of the objects that a container refers to, before any of their
// values is used: an object that changes while the container is started has another digest then.
// The config stage keeps it.
type objectsStage struct{ environmentStage }

func (objectsStage) Name() string { return "objects" }
func (objectsStage) Scope() Scope { return PerRun }

func (s objectsStage) Ensure(_ context.Context, c *Container) error {
	c.ObjectsDigest = ""
	if s.objects != nil &&
		s.objects.Unread(c.Bundle.Owner().Namespace, allReferences(c)) == nil {
		c.ObjectsDigest = s.digest(c)
	}
	return nil
}

// Release does nothing: the digest is removed with config.json.
func (objectsStage) Release(context.Context, *Container) error { return nil }

// Outdater is a Stage by whose concern a running container may have to be restarted.
type Outdater interface {
	// Outdated returns why the running container is to be restarted; "" if it is not. An error is a
	// reason for which it is not restarted.
	Outdated(c *Container) (why string, err error)
}

// Outdated returns the first reason of a stage to restart a running container, and the errors.
func (l List) Outdated(c *Container) (string, error) {
	var errs []error
	for _, s := range l {
		if o, ok := s.(Outdater); ok {
			why, err := o.Outdated(c)
			if why != "" {
				return why, nil
			}
			errs = append(errs, err)
		}
	}
	return "", errors.Join(errs...)
}

// Outdated compares the digest at the start with the digest of the objects now.
func (s objectsStage) Outdated(c *Container) (string, error) {
	digest, err := s.changed(c, v1alpha1.ConfigChangeRestart, "restart")
	if digest == "" {
		return "", err
	}
	return "a ConfigMap or Secret that it refers to has changed", nil
}

// Untold returns the digest of the objects of a running container that have changed since its
// program was told of them, if it is to be told by a signal. An error is a reason for which it is
// not told.
func (l List) Untold(c *Container) (string, error) {
	for _, s := range l {
		if o, ok := s.(objectsStage); ok {
			return o.changed(c, v1alpha1.ConfigChangeSignal, "signal")
		}
	}
	return "", nil
}

// changed returns the digest of the objects of a container with that policy, if it differs from the
// one that is kept. While an object is missing that the container needs, nothing has changed: a
// restarted container would wait for it.
func (s objectsStage) changed(c *Container, policy v1alpha1.ConfigChangePolicy, verb string,
) (string, error) {
	was := c.Dir.ObjectsDigest()
	if c.Bundle.Spec.OnConfigChange != policy || was == "" || s.objects == nil {
		return "", nil
	}
	if known, err := s.comparable(c, allReferences(c)); !known {
		if err != nil {
			err = fmt.Errorf("changes of its ConfigMaps and Secrets do not %s it: %w", verb, err)
		}
		return "", err
	}
	p := &c.Bundle.Spec.Process
	if _, err := environment.Compute(p.Env, p.EnvFrom, nodeValues{s.environmentStage, c}); err != nil {
		return "", nil //nolint:nilerr // it would wait
	}
	if _, err := filesStage(s).compute(c); err != nil {
		return "", nil //nolint:nilerr // it would wait
	}
	if digest := s.digest(c); digest != was {
		return digest, nil
	}
	return "", nil
}

// digest returns a digest of all that the objects hold, or "" if there is no reference to one.
func (s objectsStage) digest(c *Container) string {
	references := allReferences(c)
	if len(references) == 0 {
		return ""
	}
	h := sha256.New()
	for _, o := range references {
		data, found := s.objects.Files(c.Bundle.Owner().Namespace, o)
		fmt.Fprintf(h, "%s %q %t\n", o.Kind, o.Name, found)
		for _, key := range slices.Sorted(maps.Keys(data)) {
			fmt.Fprintf(h, "%q %q\n", key, data[key])
		}
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}
