// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// accept takes a Container over.
func (f *Folder) accept(key source.Key, name string, in compiled, changed map[source.Key]bool) {
	old := f.entries[key]
	if old != nil && old.bundle != nil && old.bundle.DeletionTimestamp != nil {
		return // it is made afresh when the old one is gone
	}
	if f.unreadable[statusFile(f.o.StateDir, key)] != nil {
		return
	}
	if old != nil && old.bundle != nil && old.file == name && old.fault == "" &&
		Missing(old.container) == "" &&
		old.container.Annotations[annotationDigest] == in.digest && sameLabels(old.container,
		in.container) {
		return
	}
	c := in.container.DeepCopy()
	noted := map[string]string{annotationManifest: name, annotationDigest: in.digest}
	c.UID = types.UID(uuid.NewString())
	c.Generation = 1
	c.CreationTimestamp = metav1.Now().Rfc3339Copy()
	c.Status = v1alpha1.ContainerStatus{ObservedGeneration: -1, NodeName: f.on.name, Bundle: key.Name}
	if old != nil && old.container.UID != "" {
		c.UID, c.Generation, c.CreationTimestamp, c.Status = old.container.UID, old.container.Generation,
			old.container.CreationTimestamp, old.container.Status
		switch {
		case edited(old.container, in):
			c.Generation++
			changed[key] = true
		case asksToRecompile(old.container, in.container):
			// It is no edit, so what has finished does not run again.
			noted[annotationCompiled] = strconv.FormatInt(compiledGeneration(old.container), 10)
			c.Generation++
			c.Spec = old.container.Spec
			changed[key] = true
		default:
			c.Spec = old.container.Spec
			if v, ok := old.container.Annotations[annotationCompiled]; ok {
				noted[annotationCompiled] = v
			}
		}
	} else {
		changed[key] = true
	}
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	for _, a := range ownAnnotations() {
		delete(c.Annotations, a)
	}
	last := ""
	if old != nil {
		maps.Copy(c.Annotations, requested(old.container))
		last = recompiled(old.container)
	}
	if last = cmp.Or(c.Annotations[v1alpha1.AnnotationRecompile], last); last != "" {
		noted[annotationRecompiled] = last
	}
	maps.Copy(c.Annotations, noted)
	if changed[key] {
		f.o.Log.Info("manifest accepted", "container", key.String(), "file", name, "generation",
			c.Generation)
	}
	e := &entry{file: name, container: c, bundle: f.toBundle(c, in.spec), config: in.config}
	f.entries[key] = e
	f.writeStatus(key, e)
}

// edited reports whether a manifest says something else than the Container was accepted from. What
// another version of Berth makes of the same words, such as another default, is no edit.
func edited(c *v1alpha1.Container, in compiled) bool {
	if digest, ok := c.Annotations[annotationDigest]; ok {
		return digest != in.digest
	}
	// An agent accepted it that did not record the digest.
	return specDigest(&c.Spec) != specDigest(&in.container.Spec)
}

// sameLabels reports whether labels and annotations of two Containers are equal.
func sameLabels(a, b *v1alpha1.Container) bool {
	annotations := func(c *v1alpha1.Container) map[string]string {
		out := maps.Clone(c.Annotations)
		for _, a := range ownAnnotations() {
			delete(out, a)
		}
		return out
	}
	return maps.Equal(a.Labels, b.Labels) && maps.Equal(annotations(a), annotations(b))
}

// noteBroken reports a wrong file where people look for its Containers.
func (f *Folder) noteBroken(name, fault string, claims map[source.Key]string) {
	for key, e := range f.entries {
		if claims[key] == name && e.fault != fault {
			f.replace(key, func(e *entry, c *v1alpha1.Container, _ *v1alpha1.OCIBundle) {
				e.fault = fault
				delete(c.Annotations, annotationMissing)
			})
		}
	}
	fl := f.files[name]
	named := slices.Clone(fl.named)
	for _, c := range fl.containers {
		named = append(named, identity(c.container))
	}
	for _, c := range named {
		key := keyOf(c)
		if f.entries[key] != nil {
			continue
		}
		c.CreationTimestamp = metav1.Now().Rfc3339Copy()
		c.Annotations = map[string]string{annotationManifest: name}
		c.Status = v1alpha1.ContainerStatus{
			ObservedGeneration: -1, Phase: v1alpha1.ContainerPending,
			NodeName: f.on.name,
		}
		e := &entry{file: name, container: c, fault: fault}
		f.entries[key] = e
		f.writeStatus(key, e)
	}
}

func (f *Folder) toBundle(c *v1alpha1.Container, spec *v1alpha1.OCIBundleSpec) *v1alpha1.OCIBundle {
	b := &v1alpha1.OCIBundle{Spec: *spec}
	b.Spec.ContainerRef = &v1alpha1.ContainerReference{Name: c.Name, UID: c.UID}
	b.Name, b.Namespace, b.UID, b.Generation, b.CreationTimestamp = c.Name, c.Namespace, c.UID,
		c.Generation, c.CreationTimestamp
	b.DeletionTimestamp = c.DeletionTimestamp
	b.Labels = map[string]string{"berth.run/container": c.Name}
	b.Annotations = annotations(c)
	b.Spec.CompiledGeneration = compiledGeneration(c)
	b.Status = v1alpha1.OCIBundleStatus{
		ObservedGeneration: c.Status.ObservedGeneration, Phase: c.Status.Phase,
		RunStatus: *c.Status.RunStatus.DeepCopy(),
	}
	for _, cond := range c.Status.Conditions {
		if slices.Contains(source.Conditions(), cond.Type) {
			b.Status.Conditions = append(b.Status.Conditions, cond)
		}
	}
	return b
}

// annotations returns the annotations for the bundle of a Container.
func annotations(c *v1alpha1.Container) map[string]string {
	out := requested(c)
	out[source.AnnotationRun], out[source.AnnotationFixed] = compile.RunDigest(c.Spec),
		compile.FixedDigest(c.Spec)
	if v := c.Annotations[annotationRecompiled]; v != "" {
		for _, a := range []string{source.AnnotationRun, source.AnnotationFixed} {
			out[a] += " recompiled " + v
		}
	}
	return out
}
