// SPDX-License-Identifier: Apache-2.0

package container

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/seccompref"
	"github.com/berth-run/berth/api/v1alpha1"
)

// asksToRecompile reports whether the Container has been asked to be compiled anew since its
// OCIBundle was written.
func (s *scope) asksToRecompile() bool {
	told := s.container.Annotations[v1alpha1.AnnotationRecompile]
	return told != "" && s.bundle != nil && s.bundle.Annotations[AnnotationRecompiled] != told
}

func (r *Reconciler) revision() int {
	if r.Revision != nil {
		return r.Revision()
	}
	return compile.Revision
}

// noteCompiled records in annotations of an OCIBundle which compiler has compiled its document, and
// from which spec.
func (r *Reconciler) noteCompiled(s *scope, annotations map[string]string) {
	set := func(name, value string) {
		if value != "" {
			annotations[name] = value
		}
	}
	var had map[string]string
	if s.bundle != nil {
		had = s.bundle.Annotations
	}
	revision := strconv.Itoa(r.revision())
	if s.kept || s.sameRun {
		revision = had[AnnotationCompileRevision]
	}
	set(AnnotationCompileRevision, revision)
	set(AnnotationFixedDigest, compile.FixedDigest(s.container.Spec))
	// A value that was removed from the Container is remembered: only a new one has it compiled
	// again.
	set(AnnotationRecompiled, cmp.Or(s.container.Annotations[v1alpha1.AnnotationRecompile],
		had[AnnotationRecompiled]))
}

// offer finds out whether this version of the compiler would compile a Container differently that
// keeps the document of its generation. It compares once: the answer is in the status.
func (r *Reconciler) offer(ctx context.Context, s *scope) error {
	if s.bundle.Annotations[AnnotationCompileRevision] == strconv.Itoa(r.revision()) {
		return nil
	}
	offer := fmt.Sprintf("revision %d of the defaults ", r.revision())
	said := meta.FindStatusCondition(s.before.Status.Conditions, v1alpha1.ConditionRecompileAvailable)
	if said != nil && said.ObservedGeneration == s.container.Generation &&
		strings.HasPrefix(said.Message, offer) {
		s.found.newer = said.Message
		return nil
	}
	node, err := r.readNode(ctx, s.bundle.Spec.NodeName)
	if err != nil || node == nil {
		return err
	}
	var options []compile.Option
	if a := node.Agent.Status.NodeInfo.Architecture; a != "" {
		options = append(options, compile.Architecture(a))
	}
	next, faults := r.Compile(s.container, options...)
	if len(faults) > 0 {
		return nil
	}
	if s.bundle.Spec.SeccompProfile != "" {
		if _, err := seccompref.Split(next); err != nil {
			return err
		}
	}
	// The placement sets these two, not the compiler.
	next.Handler, next.Claims = s.bundle.Spec.Handler, s.bundle.Spec.Claims
	cached := *next
	cached.Config.Raw = digest(next.Config.Raw)
	if differs, _ := difference(&s.bundle.Spec, &cached); differs == "" {
		return nil
	}
	kept, err := r.readWholeBundle(ctx, client.ObjectKeyFromObject(s.bundle))
	if err != nil || kept == nil {
		return err
	}
	differs, kind := difference(&kept.Spec, next)
	if differs == "" {
		return nil
	}
	how := "which replaces the container"
	if kind == change.Live {
		how = "which the running container takes up"
	}
	s.found.newer = offer +
		fmt.Sprintf("gives %s another value: to have that, set the annotation %s to a new value, %s",
			differs, v1alpha1.AnnotationRecompile, how)
	return nil
}

// difference returns the fields that take an update of the container, or another one.
func difference(kept, next *v1alpha1.OCIBundleSpec) (string, change.Kind) {
	set := change.Classify(kept, next)
	fields := append(set.Of(change.Replace), set.Of(change.Live)...)
	if kept.SeccompProfile != next.SeccompProfile {
		fields = append(fields, "config.linux.seccomp") // it refers to that
		set.Kind = change.Replace
	}
	slices.Sort(fields)
	return strings.Join(fields, ", "), set.Kind
}
