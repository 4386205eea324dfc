// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"cmp"
	"strconv"

	"github.com/berth-run/berth/api/v1alpha1"
)

// annotationRecompiled is the last value of v1alpha1.AnnotationRecompile for which a Container was
// compiled anew.
const annotationRecompiled = "berth.run/recompiled"

// annotationCompiled is the generation that a Container was edited in last, if it was compiled anew
// since.
const annotationCompiled = "berth.run/compiled-generation"

// asksToRecompile reports whether a manifest has a new value of v1alpha1.AnnotationRecompile.
func asksToRecompile(old, in *v1alpha1.Container) bool {
	told := in.Annotations[v1alpha1.AnnotationRecompile]
	return told != "" && told != recompiled(old)
}

// recompiled returns the value of v1alpha1.AnnotationRecompile that has been obeyed.
func recompiled(c *v1alpha1.Container) string {
	// An agent that did not know the annotation passed it on with all others.
	return cmp.Or(c.Annotations[annotationRecompiled], c.Annotations[v1alpha1.AnnotationRecompile])
}

// compiledGeneration returns the generation that a Container was edited in last.
func compiledGeneration(c *v1alpha1.Container) int64 {
	if n, err := strconv.ParseInt(c.Annotations[annotationCompiled], 10, 64); err == nil {
		return n
	}
	return c.Generation
}
