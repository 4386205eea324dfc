// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
)

// scope holds the data of one reconcile: the objects read before it, and the findings of its
// phases.
type scope struct {
	// container is the object to work on; before is as it was read, for the patch of the status and
	// for the events.
	container, before *v1alpha1.Container
	// bundle is the Container's OCIBundle, or nil. Its config is a digest: see digestConfig.
	bundle *v1alpha1.OCIBundle
	// surplus are further OCIBundles of the Container: the one that bundle replaces, or those that
	// a race has left.
	surplus []*v1alpha1.OCIBundle
	// predecessors are the OCIBundles of earlier Containers of the same name.
	predecessors []*v1alpha1.OCIBundle
	// runtimeClass is nil where the Container names none, or names one that does not exist.
	runtimeClass *nodev1.RuntimeClass

	// found holds the findings that the status is computed from.
	found findings
	// desired is the OCIBundle's spec, by compile and then schedule. If kept is true, it is the one
	// that the OCIBundle has, with the config's digest.
	desired *v1alpha1.OCIBundleSpec
	kept    bool
	// sameRun reports whether desired keeps the config's digest, and the other fields of the
	// running container, from the OCIBundle: see keepRun. Then edited is the newly compiled spec,
	// if the running container is to be given some of it.
	sameRun bool
	edited  *v1alpha1.OCIBundleSpec
	// volumes are the Container's claims, once they are resolved.
	volumes []claimed
	// profile is the seccomp profile that desired refers to, where it was compiled here.
	profile string
	// facts are events of completed work, besides those that follow from the change of the status.
	facts []note
	// again is the time after which to look again, if time alone can change something; 0 is never.
	again time.Duration
	// gone reports whether the Container's last finalizer has been removed, so that there is no
	// status to write any more.
	gone bool
}

func (s *scope) key() client.ObjectKey { return client.ObjectKeyFromObject(s.container) }

// gather reads the objects that a reconcile needs. The nodes, which only a Container without one
// needs, are read by schedule.
func (r *Reconciler) gather(ctx context.Context, c *v1alpha1.Container) (*scope, error) {
	s := &scope{container: c, before: c.DeepCopy()}
	s.found.generation = c.Generation
	s.found.deleting = c.DeletionTimestamp != nil
	s.found.pinned = c.Spec.NodeName
	s.found.once = c.Spec.RestartPolicy == corev1.RestartPolicyNever
	s.found.deadline = status.Deadline(c)

	if err := r.findBundles(ctx, s); err != nil {
		return nil, err
	}
	if s.bundle != nil {
		h, err := r.look(ctx, r.Client, s.bundle.Spec.NodeName)
		if err != nil {
			return nil, err
		}
		s.found.lost, s.found.gone, s.again = h.lost, h.gone, h.wait
	}
	if name := c.Spec.RuntimeClassName; name != nil && !s.found.deleting {
		rc := &nodev1.RuntimeClass{}
		switch err := r.Client.Get(ctx, client.ObjectKey{Name: *name}, rc); {
		case err == nil:
			s.runtimeClass = rc
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("read RuntimeClass %s: %w", *name, err)
		}
	}
	return s, nil
}
