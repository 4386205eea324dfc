// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/api/v1alpha1"
)

// Compile turns a Container into the spec of an OCIBundle, as compile.Bundle does.
type Compile func(*v1alpha1.Container, ...compile.Option) (*v1alpha1.OCIBundleSpec, field.ErrorList)

// compile compiles the spec, once for each generation. An OCIBundle of this generation stays as it
// is, whatever this version of the compiler would write, until the Container asks for a recompile.
// Where the spec has faults, everything stops here, and an OCIBundle of an earlier generation is
// left alone.
func (r *Reconciler) compile(ctx context.Context, s *scope) (bool, error) {
	if s.holdsGeneration() && !s.asksToRecompile() {
		s.kept = true
		kept := s.bundle.Spec
		s.desired = &kept
		// The verdict on this generation is in the status, unless somebody has removed it.
		s.found.compiled = !meta.IsStatusConditionTrue(s.before.Status.Conditions,
			v1alpha1.ConditionSpecValid)
		return true, r.offer(ctx, s)
	}
	return r.compileAnew(s), nil
}

// compileAnew compiles the Container of this generation. It returns false if the spec has faults.
func (r *Reconciler) compileAnew(s *scope) bool {
	s.kept = false
	desired, faults := r.Compile(s.container)
	lines := make([]string, 0, len(faults))
	for _, f := range faults {
		lines = append(lines, f.Error())
	}
	if len(lines) == 0 {
		found := validateBundle(desired)
		for _, f := range found.Errors() {
			lines = append(lines, "config."+f.Error())
		}
		for _, w := range found.Warnings() {
			s.found.warnings = append(s.found.warnings, "config."+w.Error())
		}
	}
	s.found.compiled = true
	if len(lines) > 0 {
		s.found.invalid = strings.Join(lines, "; ")
		return false
	}
	s.desired = desired
	s.desired.ContainerRef = s.reference()
	return true
}

// holdsGeneration reports whether the OCIBundle holds the spec compiled for the Container's
// generation, unedited.
func (s *scope) holdsGeneration() bool {
	return s.bundle != nil && compiledGeneration(s.bundle, s.before) == s.container.Generation &&
		unedited(s.bundle)
}

// unedited reports whether the spec of an OCIBundle is as the controller wrote it.
func unedited(b *v1alpha1.OCIBundle) bool {
	// Without the annotation there is nothing to compare with. A restart is worse than an edit that
	// goes unseen.
	was, recorded := b.Annotations[AnnotationSpecDigest]
	return !recorded || was == specDigest(&b.Spec)
}

// keepRun keeps the OCIBundle's process, image, volumes and document, if the edit of the Container
// concerns only where and how it is run, such as its grace period: then another version of the
// compiler replaces nothing, either. Of an edit of the resources, readKept puts no more into the
// document than a running container can be given.
func (s *scope) keepRun(node, handler string) {
	b := s.bundle
	if b == nil || b.Spec.NodeName != node || b.Spec.Handler != handler || !unedited(b) ||
		s.asksToRecompile() {
		return
	}
	if b.Annotations[AnnotationRunDigest] != compile.RunDigest(s.container.Spec) {
		if b.Annotations[AnnotationFixedDigest] != compile.FixedDigest(s.container.Spec) {
			return
		}
		s.edited = s.desired
	}
	kept, next := b.Spec, s.desired
	kept.RestartPolicy, kept.TerminationGracePeriodSeconds = next.RestartPolicy,
		next.TerminationGracePeriodSeconds
	kept.RestartBackOff, kept.Logging = next.RestartBackOff, next.Logging
	if kept.Image != nil && next.Image != nil {
		kept.Image = &v1alpha1.BundleImage{
			Reference:   kept.Image.Reference,
			PullPolicy:  next.Image.PullPolicy,
			PullSecrets: next.Image.PullSecrets,
		}
	}
	kept.VolumePullSecrets, kept.Claims = next.VolumePullSecrets, next.Claims
	s.desired, s.sameRun, s.profile = &kept, true, ""
}

// compiledGeneration returns the generation of the Container that its OCIBundle was compiled for; 0
// if that is unknown.
func compiledGeneration(b *v1alpha1.OCIBundle, c *v1alpha1.Container) int64 {
	if b.Spec.CompiledGeneration != 0 {
		return b.Spec.CompiledGeneration
	}
	// Controllers that did not record it said so all the same: they mirrored the agent's word with
	// the Container's generation only if the OCIBundle was that generation's.
	var generation int64
	for _, kind := range mirrored {
		if said := meta.FindStatusCondition(c.Status.Conditions, kind); said != nil {
			generation = max(generation, said.ObservedGeneration)
		}
	}
	return generation
}

// compileFor compiles once more where the node is of another architecture than the controller,
// since the default seccomp profile names the system calls of a machine. It finds no fault that
// compile did not find.
func (r *Reconciler) compileFor(s *scope, architecture string) error {
	if architecture == "" || architecture == runtime.GOARCH {
		return nil
	}
	desired, faults := r.Compile(s.container, compile.Architecture(architecture))
	if len(faults) > 0 {
		return fmt.Errorf("compile for %s: %w", architecture, faults.ToAggregate())
	}
	s.desired = desired
	s.desired.ContainerRef = s.reference()
	return nil
}

// fromImage stands for the image's values in a document that is checked before the image is known.
const fromImage = "(from the image)"

// validateBundle checks the runtime-spec document as far as it can be without the image; the agent
// checks it again with the image's values.
func validateBundle(b *v1alpha1.OCIBundleSpec) document.Faults {
	doc := &specs.Spec{}
	if err := json.Unmarshal(b.Config.Raw, doc); err != nil {
		return document.Faults{{
			Found: err.Error(), Allowed: "a runtime-spec document",
			Severity: document.Error,
		}}
	}
	if b.Image != nil {
		if doc.Process == nil {
			doc.Process = &specs.Process{}
		}
		if len(doc.Process.Args) == 0 {
			doc.Process.Args = []string{fromImage}
		}
		if doc.Process.Cwd == "" {
			doc.Process.Cwd = "/"
		}
	}
	return validate.Spec(doc, validate.Options{})
}
