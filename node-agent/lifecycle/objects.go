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
	if s.objects != nil && s.objects.Read() {
		c.ObjectsDigest = s.digest(c)
	}
	return nil
}

// Release does nothing: the digest is removed with config.json.
func (objectsStage) Release(context.Context, *Container) error { return nil }

// Outdated reports whether a running container is to be restarted, since an object that it refers
// to is not what it was at the start.
func (l List) Outdated(c *Container) bool {
	if c.Bundle.Spec.OnConfigChange != v1alpha1.ConfigChangeRestart {
		return false
	}
	return slices.ContainsFunc(l, func(s Stage) bool {
		o, ok := s.(objectsStage)
		return ok && o.outdated(c)
	})
}

// outdated compares the digest of the start with that of the objects now. While one is missing that
// the container needs, nothing is outdated: it would wait for it.
func (s objectsStage) outdated(c *Container) bool {
	was := c.Dir.ObjectsDigest()
	if was == "" || s.objects == nil || !s.comparable(c) {
		return false
	}
	p := &c.Bundle.Spec.Process
	if _, err := environment.Compute(p.Env, p.EnvFrom, nodeValues{s.environmentStage, c}); err != nil {
		return false
	}
	if _, err := filesStage(s).compute(c); err != nil {
		return false
	}
	return s.digest(c) != was
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
