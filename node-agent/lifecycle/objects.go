// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"crypto/sha256"
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

// Outdated reports whether a running container is to be restarted, since an object that it refers
// to is not what it was at the start. An error is a reason for which it is not restarted.
func (l List) Outdated(c *Container) (bool, error) {
	if c.Bundle.Spec.OnConfigChange != v1alpha1.ConfigChangeRestart {
		return false, nil
	}
	for _, s := range l {
		if o, ok := s.(objectsStage); ok {
			return o.outdated(c)
		}
	}
	return false, nil
}

// outdated compares the digest of the start with that of the objects now. While one is missing that
// the container needs, nothing is outdated: a restarted container would wait for the object.
func (s objectsStage) outdated(c *Container) (bool, error) {
	was := c.Dir.ObjectsDigest()
	if was == "" || s.objects == nil {
		return false, nil
	}
	if known, err := s.comparable(c, allReferences(c)); !known {
		if err != nil {
			err = fmt.Errorf("changes of its ConfigMaps and Secrets do not restart it: %w", err)
		}
		return false, err
	}
	p := &c.Bundle.Spec.Process
	if _, err := environment.Compute(p.Env, p.EnvFrom, nodeValues{s.environmentStage, c}); err != nil {
		return false, nil //nolint:nilerr // it would wait
	}
	if _, err := filesStage(s).compute(c); err != nil {
		return false, nil //nolint:nilerr // it would wait
	}
	return s.digest(c) != was, nil
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
