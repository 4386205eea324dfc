// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/serverside"
)

// dispatch creates the OCIBundle, corrects it, or removes it from a node that it no longer belongs
// to.
func (r *Reconciler) dispatch(ctx context.Context, s *scope) (bool, error) {
	if s.bundle != nil && s.bundle.Spec.NodeName != s.desired.NodeName {
		s.fact(corev1.EventTypeNormal, "Terminating", "Move", "moves from node %s to node %s",
			s.bundle.Spec.NodeName, s.desired.NodeName)
		return false, r.remove(ctx, s.bundle)
	}
	if s.bundle != nil && s.bundle.IsFormer() {
		// Its agent is older than what would be written, so nothing but the same spec gets here.
		s.found.inSync = s.kept
		return true, nil
	}
	want := r.wanted(s)
	if s.bundle != nil && upToDate(s.bundle, want, s.kept) {
		s.found.inSync = true
		return true, nil
	}
	if s.kept || s.sameRun {
		if err := r.readKept(ctx, s, want); err != nil {
			return false, err
		}
	}
	if len(s.volumes) > 0 {
		defer r.lockClaims(s)()
		wait, err := r.acquireClaims(ctx, s)
		if err != nil {
			r.withdrawFirst(s)
			s.found.failure = err.Error()
			return false, err
		}
		if wait != nil {
			r.withdrawFirst(s)
			s.found.scheduled = wait
			return false, nil
		}
	}
	if s.profile != "" && !s.kept {
		if err := r.Profiles.Ensure(ctx, s.profile); err != nil {
			r.withdrawFirst(s)
			s.found.failure = err.Error()
			return false, err
		}
	}
	// No moment may be in which the OCIBundle is there and nothing holds the Container until the
	// agent has let go of it.
	if err := r.claim(ctx, s, s.desired.NodeName); err != nil {
		r.withdrawFirst(s)
		return false, err
	}
	first := s.bundle == nil
	applied, err := r.apply(ctx, s.bundle, want)
	switch {
	case err == nil:
	case first && apierrors.IsNotFound(err):
		// The NodeAgent is new, and controllers/nodehealth creates the namespace.
		r.withdrawFirst(s)
		s.found.unready = fmt.Sprintf("namespace %s of node %s does not exist yet", want.Namespace,
			s.desired.NodeName)
		s.again = conflictDelay
		return false, nil
	default:
		if reason := apierrors.ReasonForError(err); reason == metav1.StatusReasonUnknown ||
			reason == metav1.StatusReasonTimeout {
			r.attempts.noteUnknown(s.key(), r.Clock.Now())
		} else {
			r.withdrawFirst(s)
		}
		s.found.failure = err.Error()
		return false, err
	}
	s.bundle = applied
	s.found.inSync = true
	if !first && !s.kept {
		s.fact(corev1.EventTypeNormal, "Dispatched", "Dispatch",
			"brought the OCIBundle on node %s up to date", applied.Spec.NodeName)
	}
	return true, nil
}

// withdrawFirst gives the room on the node back of a Container that has no OCIBundle there yet, and
// gets none from an earlier apply with an unknown outcome.
func (r *Reconciler) withdrawFirst(s *scope) {
	if s.bundle != nil {
		return
	}
	left := r.attempts.left(r.RequestTimeout, r.Clock.Now(), only(s.key()))
	if left > 0 {
		s.again = sooner(s.again, left)
		return
	}
	r.Ledger.Withdraw(s.key())
}

// wanted returns the OCIBundle as it should be.
func (r *Reconciler) wanted(s *scope) *v1alpha1.OCIBundle {
	c := s.container
	b := s.newBundle(*s.desired)
	if s.bundle != nil {
		b.Spec.Former = s.bundle.Spec.Former
	}
	b.Spec.CompiledGeneration = c.Generation
	if !s.kept && !s.sameRun {
		b.Spec.MinAgentRevision = compile.MinAgentRevision(&b.Spec)
	}
	b.Annotations = map[string]string{
		AnnotationSpecDigest: specDigest(&b.Spec),
		AnnotationRunDigest:  compile.RunDigest(c.Spec),
	}
	r.noteCompiled(s, b.Annotations)
	if name := c.Spec.RuntimeClassName; name != nil {
		b.Annotations[AnnotationRuntimeClass] = *name
	}
	return b
}

// newBundle returns an OCIBundle of the Container in the namespace of the spec's node.
func (s *scope) newBundle(spec v1alpha1.OCIBundleSpec) *v1alpha1.OCIBundle {
	c := s.container
	key := bundleKey(s.key(), spec.NodeName)
	spec.ContainerRef = s.reference()
	return &v1alpha1.OCIBundle{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "OCIBundle"},
		ObjectMeta: metav1.ObjectMeta{
			Name:      key.Name,
			Namespace: key.Namespace,
			Labels: map[string]string{
				v1alpha1.LabelNamespace: c.Namespace,
				v1alpha1.LabelContainer: label(c.Name),
			},
			Finalizers: []string{v1alpha1.OCIBundleFinalizer},
		},
		Spec: spec,
	}
}

// reference names the Container in its OCIBundle.
func (s *scope) reference() *v1alpha1.ContainerReference {
	return &v1alpha1.ContainerReference{
		Namespace: s.container.Namespace, Name: s.container.Name,
		UID: s.container.UID,
	}
}

var (
	bundleResource = schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "ocibundles"}
	errChanged     = errors.New("it was changed since it was read")
)

// readKept puts the config that the OCIBundle has into want, where the cache's digest of it stands.
func (r *Reconciler) readKept(ctx context.Context, s *scope, want *v1alpha1.OCIBundle) error {
	now, err := r.readWholeBundle(ctx, client.ObjectKeyFromObject(s.bundle))
	if err != nil {
		return err
	}
	if now == nil || now.UID != s.bundle.UID || specDigest(&now.Spec) != specDigest(&s.bundle.Spec) {
		return apierrors.NewConflict(bundleResource, s.bundle.Name, errChanged)
	}
	want.Spec.Config = now.Spec.Config
	if s.edited == nil {
		return nil
	}
	carried, err := change.Carry(&now.Spec, s.edited)
	if err != nil {
		return err
	}
	want.Spec.Config = carried.Config
	want.Spec.MinAgentRevision = max(want.Spec.MinAgentRevision, compile.MinAgentRevision(carried))
	want.Annotations[AnnotationSpecDigest] = specDigest(&want.Spec)
	return nil
}

// label returns the name, cut to the length of a label's value: 63 characters, the last of them a
// letter or digit.
func label(name string) string {
	if len(name) > 63 {
		name = name[:63]
	}
	for name != "" && (name[len(name)-1] == '-' || name[len(name)-1] == '.') {
		name = name[:len(name)-1]
	}
	return name
}

// upToDate reports whether the OCIBundle, as read, has all that is wanted; with kept, want's config
// is a digest, too. Labels and annotations of others are theirs.
func upToDate(have, want *v1alpha1.OCIBundle, kept bool) bool {
	for k, v := range want.Labels {
		if have.Labels[k] != v {
			return false
		}
	}
	compared := []string{AnnotationRuntimeClass, AnnotationSpecDigest, AnnotationRunDigest}
	if !kept {
		compared = append(compared, AnnotationFixedDigest, AnnotationCompileRevision,
			AnnotationRecompiled)
	}
	for _, k := range compared {
		if have.Annotations[k] != want.Annotations[k] {
			return false
		}
	}
	if kept && have.Spec.CompiledGeneration != want.Spec.CompiledGeneration || !kept &&
		!sameSpec(have, want) {
		return false
	}
	return held(have)
}

// held reports whether nothing but its agent and the controller can remove the OCIBundle. An owner
// reference, which cannot name a Container of another namespace, would have it collected as
// garbage.
func held(b *v1alpha1.OCIBundle) bool {
	return controllerutil.ContainsFinalizer(b, v1alpha1.OCIBundleFinalizer) &&
		(b.IsFormer() || len(b.OwnerReferences) == 0)
}

// sameSpec compares have, whose config is a digest, with want, whose config is whole.
func sameSpec(have, want *v1alpha1.OCIBundle) bool {
	spec := want.Spec
	spec.Config = runtime.RawExtension{Raw: digest(want.Spec.Config.Raw)}
	return equality.Semantic.DeepEqual(have.Spec, spec)
}

// claim sets the Container's finalizer, and names the node that its OCIBundle is on.
func (r *Reconciler) claim(ctx context.Context, s *scope, node string) error {
	base := s.container.DeepCopy()
	if !s.found.deleting { // the API server takes no new finalizer from then on
		controllerutil.AddFinalizer(s.container, v1alpha1.ContainerFinalizer)
	}
	if node != "" {
		metav1.SetMetaDataAnnotation(&s.container.ObjectMeta, v1alpha1.AnnotationNode, node)
	}
	if equality.Semantic.DeepEqual(base.ObjectMeta, s.container.ObjectMeta) {
		return nil
	}
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, s.container, patch, client.FieldOwner(FieldOwner)); err != nil {
		return fmt.Errorf("set finalizer and node of the Container: %w", err)
	}
	// The status is patched from here on: as it was, on the object as it is now.
	s.before = s.container.DeepCopy()
	return nil
}

// apply creates the OCIBundle, or changes have, with server-side apply. Server-side apply leaves
// the fields that others have added to the spec. Only the controller may write this spec, which the
// kernel gets, so such fields are removed by replacing the whole.
func (r *Reconciler) apply(ctx context.Context, have,
	want *v1alpha1.OCIBundle,
) (*v1alpha1.OCIBundle, error) {
	var uid types.UID
	if have != nil {
		uid = have.UID
	}
	u, err := serverside.Configuration(want, uid)
	if err != nil {
		return nil, fmt.Errorf("apply the OCIBundle: %w", err)
	}
	if err := r.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u),
		client.FieldOwner(FieldOwner), client.ForceOwnership); err != nil {
		return nil, fmt.Errorf("apply the OCIBundle: %w", err)
	}
	b := &v1alpha1.OCIBundle{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, b); err != nil {
		return nil, fmt.Errorf("read the applied OCIBundle: %w", err)
	}
	whole := b.DeepCopy()
	digestConfig(b)
	if sameSpec(b, want) {
		return b, nil
	}
	whole.Spec = want.Spec
	if err := r.Client.Update(ctx, whole, client.FieldOwner(FieldOwner)); err != nil {
		return nil, fmt.Errorf("put the OCIBundle's spec back: %w", err)
	}
	digestConfig(whole)
	return whole, nil
}

// clearName deletes the OCIBundles of earlier Containers of this name, whatever this one's spec
// says and whether or not it has been dispatched: nothing else ends their processes. Until they are
// gone, schedule waits.
func (r *Reconciler) clearName(ctx context.Context, s *scope) (bool, error) {
	for _, b := range s.predecessors {
		if err := r.remove(ctx, b); err != nil {
			return false, err
		}
	}
	return true, nil
}
