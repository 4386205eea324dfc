// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
)

// show reads the spec of the OCIBundle for the status of a Container that asks for it: tenants
// cannot read the namespaces of nodes. Who does not ask pays nothing, and who does pays a read for
// each spec.
func (r *Reconciler) show(ctx context.Context, s *scope) error {
	if _, asked := s.container.Annotations[v1alpha1.AnnotationShowCompiled]; !asked ||
		s.bundle == nil {
		return nil
	}
	digest := s.bundle.Annotations[AnnotationSpecDigest]
	if have := s.before.Status.Compiled; have != nil && have.Digest == digest {
		s.found.shown = have
		return nil
	}
	b, err := r.readWholeBundle(ctx, client.ObjectKeyFromObject(s.bundle))
	if err != nil || b == nil {
		return err
	}
	spec, err := json.Marshal(b.Spec)
	if err != nil {
		return fmt.Errorf("show the OCIBundle: %w", err)
	}
	s.found.shown = &v1alpha1.CompiledSpec{
		Digest: b.Annotations[AnnotationSpecDigest],
		Spec:   runtime.RawExtension{Raw: spec},
	}
	return nil
}
