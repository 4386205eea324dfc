// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"

	"github.com/berth-run/berth/api/v1alpha1"
)

// AnnotationUnknownFields on a bundle lists the fields of its spec that this agent does not know,
// comma separated. Decode sets it in memory, and it is never written to the API; a bundle with it
// is refused.
const AnnotationUnknownFields = "berth.run/unknown-fields"

// AnnotationUnresolved on a bundle is why its document is not complete: something that the spec
// refers to could not be read. The source sets it in memory; a bundle with it is refused until the
// source says that it has changed.
const AnnotationUnresolved = "berth.run/unresolved"

// Decode reads a bundle from JSON. The decoder drops fields that this agent does not know: those of
// the spec are listed in AnnotationUnknownFields.
func Decode(data []byte, b *v1alpha1.OCIBundle) error {
	strict, err := json.UnmarshalStrict(data, b, json.DisallowUnknownFields)
	if err != nil {
		return err
	}
	var unknown []string
	for _, e := range strict {
		if field, ok := e.(json.FieldError); ok && strings.HasPrefix(field.FieldPath(), "spec.") { //nolint:errorlint // they are not wrapped
			unknown = append(unknown, field.FieldPath())
		}
	}
	delete(b.Annotations, AnnotationUnknownFields)
	delete(b.Annotations, AnnotationUnresolved)
	if len(unknown) > 0 {
		metav1.SetMetaDataAnnotation(&b.ObjectMeta, AnnotationUnknownFields, strings.Join(unknown, ", "))
	}
	return nil
}
