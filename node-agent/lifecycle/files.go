// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// Refresher is a Stage whose objects follow their sources while the container runs.
type Refresher interface {
	// Stale reports whether the objects differ from what Refresh would make of them. An error is a
	// reason for which they stay as they are.
	Stale(c *Container) (bool, error)
	// Refresh updates the objects from their sources. It may be called again.
	Refresh(ctx context.Context, c *Container) error
}

// Stale reports whether Refresh has something to do for a running container.
func (l List) Stale(c *Container) (bool, error) {
	for _, s := range l {
		if r, ok := s.(Refresher); ok {
			if stale, err := r.Stale(c); err != nil || stale {
				return stale, err
			}
		}
	}
	return false, nil
}

// Refresh updates the files of a running container from sources that have changed.
func (l List) Refresh(ctx context.Context, c *Container) error {
	for _, s := range l {
		if r, ok := s.(Refresher); ok {
			if err := r.Refresh(ctx, c); err != nil {
				return fault(s, err)
			}
		}
	}
	return nil
}

// filesStage writes the volumes of ConfigMaps, Secrets and fields. A container that refers to an
// object which is not there waits for it. The files are kept from run to run, and written anew
// while the container runs if their sources change.
type filesStage struct{ environmentStage }

func (filesStage) Name() string { return "files" }
func (filesStage) Scope() Scope { return PerContainer }

func (s filesStage) Ensure(_ context.Context, c *Container) error {
	volumes, err := s.compute(c)
	if missing := (*environment.Missing)(nil); errors.As(err, &missing) {
		return waitFor(missing)
	}
	if missing := (*noTokenError)(nil); errors.As(err, &missing) {
		return &Pending{
			Condition: v1alpha1.ConditionRunning, Reason: v1alpha1.ReasonConfigMissing,
			Message: "spec." + missing.Error(),
		}
	}
	if pending := (*Pending)(nil); err != nil && !errors.As(err, &pending) {
		return fmt.Errorf("spec.%w", err)
	}
	if err != nil {
		return err
	}
	if label := c.Labels.File; label != "" && len(volumes) > 0 {
		if err := c.Dir.MountFiles(label); err != nil {
			return ownFiles(fmt.Errorf("spec.securityContext.seLinuxOptions: volumes of files: %w", err))
		}
	}
	return ownFiles(c.Dir.WriteFiles(volumes))
}

// Stale returns an error if an object or a token is missing: the running container keeps its files
// then. So it does, without an error, until it is known whether they can be had.
func (s filesStage) Stale(c *Container) (bool, error) {
	if !hasFiles(c.Bundle) {
		return false, nil
	}
	if known, err := s.comparable(c, files.References(c.Bundle.Spec.Volumes)); !known {
		if err != nil {
			err = fmt.Errorf("%s: %w", filesStay, err)
		}
		return false, err
	}
	volumes, err := s.compute(c)
	if errors.Is(err, source.ErrNotAsked) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: spec.%w", filesStay, err)
	}
	return c.Dir.FilesDiffer(volumes)
}

const filesStay = "the files of its volumes stay as they are"

func (s filesStage) Refresh(_ context.Context, c *Container) error {
	volumes, err := s.compute(c)
	if err != nil || len(volumes) == 0 {
		return nil //nolint:nilerr // Stale reports it
	}
	if err := c.Dir.WriteFiles(volumes); err != nil {
		return ownFiles(err)
	}
	differ, err := c.Dir.FilesDiffer(volumes)
	if err == nil && differ {
		err = errors.New("the files of its volumes were written, and have been changed since")
	}
	return err
}

func (filesStage) Release(_ context.Context, c *Container) error { return c.Dir.RemoveFiles() }

// compute returns the files of each volume that has some.
func (s filesStage) compute(c *Container) (map[string]files.Tree, error) {
	if !hasFiles(c.Bundle) {
		return nil, nil
	}
	if err := s.readable(c, "volumes", files.References(c.Bundle.Spec.Volumes)); err != nil {
		return nil, err
	}
	out := map[string]files.Tree{}
	for i := range c.Bundle.Spec.Volumes {
		v := &c.Bundle.Spec.Volumes[i]
		if !files.Has(v) {
			continue
		}
		tree, err := files.Compute(fmt.Sprintf("volumes[%d]", i), v, nodeValues{s.environmentStage, c})
		if err != nil {
			return nil, err
		}
		out[v.Name] = ofGroup(tree, c.Bundle.Spec.Security)
	}
	return out, nil
}

// ofGroup gives the files to the group of the container's volumes, which may read them.
func ofGroup(tree files.Tree, security *v1alpha1.BundleSecurity) files.Tree {
	if security == nil || security.FSGroup == nil {
		return tree
	}
	out := files.Tree{}
	for path, file := range tree {
		file.Mode |= 0o440
		file.Group = uint32(*security.FSGroup)
		out[path] = file
	}
	return out
}

// hasFiles reports whether a bundle has a volume of files.
func hasFiles(b *v1alpha1.OCIBundle) bool {
	return slices.ContainsFunc(b.Spec.Volumes, func(v v1alpha1.Volume) bool { return files.Has(&v) })
}

// Files is part of files.Values.
func (v nodeValues) Files(object environment.Object) (map[string]string, bool) {
	return v.objects.Files(v.c.Bundle.Owner().Namespace, object)
}

// Item is part of files.Values.
func (v nodeValues) Item(path string, item *corev1.DownwardAPIVolumeFile) (string, error) {
	for _, known := range v.c.Bundle.Spec.Downward {
		if known.Path == path {
			return known.Value, nil
		}
	}
	if item.ResourceFieldRef != nil {
		return v.Resource(item.ResourceFieldRef)
	}
	if item.FieldRef == nil {
		return "", errors.New("fieldRef: found nothing; allowed: one of fieldRef and resourceFieldRef")
	}
	if at := item.FieldRef.FieldPath; isAddressPath(at) { // not known yet when files are written
		return "", fmt.Errorf("fieldRef.fieldPath: found %q; allowed: in a variable alone", at)
	}
	return v.Field(item.FieldRef.FieldPath)
}
