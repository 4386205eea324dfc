// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/volume"
)

// Claims has the PersistentVolumeClaims that volumes may refer to.
type Claims interface {
	// Unread returns why it is not known whether these objects are there; nil if it is.
	Unread(namespace string, objects []environment.Object) error
	// AccessModes returns the access modes of a claim, or false if there is no such claim yet.
	AccessModes(namespace, claim string) (modes []corev1.PersistentVolumeAccessMode, ok bool)
}

// claimsStage finds or creates the directories of volumes with a PersistentVolumeClaim. Without a
// cluster, a container waits for a claim that is not there, and for one that another container has
// to itself; in a cluster the controller does that. Release removes no data.
type claimsStage struct {
	claims  Claims        // nil in a cluster
	volumes *volume.Store // nil with claims
	waiters *waiters
}

// waiters are the containers that wait for a volume which another one uses.
type waiters struct {
	wake func(source.Key)
	mu   sync.Mutex
	keys map[source.Key]bool
}

func (w *waiters) add(key source.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys[key] = true
}

// wakeAll has all of them look again.
func (w *waiters) wakeAll() {
	w.mu.Lock()
	keys := w.keys
	w.keys = map[source.Key]bool{}
	w.mu.Unlock()
	for key := range keys {
		w.wake(key)
	}
}

func (claimsStage) Name() string { return "claims" }
func (claimsStage) Scope() Scope { return PerContainer }

func (s claimsStage) Ensure(ctx context.Context, c *Container) error {
	if s.claims == nil {
		return ofCluster(c)
	}
	if slices.ContainsFunc(c.Bundle.Spec.Volumes, func(v v1alpha1.Volume) bool {
		return v.PersistentVolumeClaim != nil
	}) {
		if err := s.claims.Unread(c.Bundle.Owner().Namespace, nil); err != nil {
			return &Pending{
				Condition: v1alpha1.ConditionRunning, Reason: v1alpha1.ReasonProgressing,
				Message: err.Error(),
			}
		}
	}
	wanted, readOnly, err := s.wanted(c)
	if err != nil {
		return err
	}
	owner := c.Bundle.Owner()
	user := volume.User{ID: c.ID, Namespace: owner.Namespace, Container: owner.Name}
	paths, err := s.volumes.Use(ctx, user, wanted)
	var inUse *volume.InUseError
	if errors.As(err, &inUse) {
		s.waiters.add(c.Key)
		paths, err = s.volumes.Use(ctx, user, wanted) // released before it was known who waits?
	}
	if errors.As(err, &inUse) {
		return s.waitForVolume(c, inUse)
	}
	if err != nil {
		return ownFiles(err)
	}
	s.waiters.wakeAll() // an older spec may have used another volume
	if c.Directories == nil {
		c.Directories = map[string]merge.Directory{}
	}
	for _, v := range c.Bundle.Spec.Volumes {
		if p := v.PersistentVolumeClaim; p != nil {
			c.Directories[v.Name] = merge.Directory{
				Path: paths[p.ClaimName], ReadOnly: p.ReadOnly || readOnly[p.ClaimName],
			}
		}
	}
	return nil
}

// ofCluster finds the volumes of claims as the controller has resolved them, and checks their paths
// on this node.
func ofCluster(c *Container) error {
	if c.Directories == nil {
		c.Directories = map[string]merge.Directory{}
	}
	for i, v := range c.Bundle.Spec.Volumes {
		p := v.PersistentVolumeClaim
		if p == nil {
			continue
		}
		at := fmt.Sprintf("spec.volumes[%d].persistentVolumeClaim", i)
		j := slices.IndexFunc(c.Bundle.Spec.Claims, func(b v1alpha1.BundleClaim) bool {
			return b.Name == p.ClaimName
		})
		if j < 0 {
			return fmt.Errorf("%s: found no volume of claim %s in claims; allowed: one for each claim", at,
				p.ClaimName)
		}
		claim := &c.Bundle.Spec.Claims[j]
		source := corev1.HostPathVolumeSource{Path: claim.Path, Type: &claim.Type}
		at = fmt.Sprintf("%s: PersistentVolume %s: spec.%s", at, claim.VolumeName, claim.Kind)
		if err := bundle.CheckHostPath(at, &source); err != nil {
			return err
		}
		c.Directories[v.Name] = merge.Directory{
			Path: claim.Path, ReadOnly: p.ReadOnly || claim.ReadOnly,
			Untouched: claim.Kind != v1alpha1.ClaimLocal,
		}
	}
	return nil
}

// wanted returns the claims that a container refers to, and those that are read-only.
func (s claimsStage) wanted(c *Container) (wanted []volume.Claim, readOnly map[string]bool,
	err error,
) {
	readOnly = map[string]bool{}
	for i, v := range c.Bundle.Spec.Volumes {
		p := v.PersistentVolumeClaim
		if p == nil || slices.ContainsFunc(wanted, func(w volume.Claim) bool {
			return w.Name == p.ClaimName
		}) {
			continue
		}
		modes, ok := s.claims.AccessModes(c.Bundle.Owner().Namespace, p.ClaimName)
		if !ok {
			return nil, nil, waitFor(&environment.Missing{
				Path:   claimPath(i),
				Object: environment.Object{Kind: "PersistentVolumeClaim", Name: p.ClaimName},
			})
		}
		wanted = append(wanted, volume.Claim{
			Name: p.ClaimName, Exclusive: slices.Contains(modes, corev1.ReadWriteOncePod),
		})
		readOnly[p.ClaimName] = !slices.ContainsFunc(modes,
			func(m corev1.PersistentVolumeAccessMode) bool { return m != corev1.ReadOnlyMany })
	}
	return wanted, readOnly, nil
}

// waitForVolume returns the *Pending of a start that waits until another container is removed.
func (s claimsStage) waitForVolume(c *Container, inUse *volume.InUseError) error {
	i := slices.IndexFunc(c.Bundle.Spec.Volumes, func(v v1alpha1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == inUse.ID.Name
	})
	return &Pending{
		Condition: v1alpha1.ConditionRunning, Reason: v1alpha1.ReasonVolumeInUse,
		Message: fmt.Sprintf("spec.%s: found the PersistentVolumeClaim %s, which the Container %s"+
			" has; allowed: one Container, as its access mode is ReadWriteOncePod", claimPath(i),
			inUse.ID.Name, inUse.User.Container),
	}
}

func claimPath(i int) string { return fmt.Sprintf("volumes[%d].persistentVolumeClaim.claimName", i) }

// Release forgets the user of the volumes, which stay.
func (s claimsStage) Release(_ context.Context, c *Container) error {
	if s.claims == nil {
		return nil
	}
	if err := s.volumes.Forget(c.ID); err != nil {
		return err
	}
	s.waiters.wakeAll()
	return nil
}
