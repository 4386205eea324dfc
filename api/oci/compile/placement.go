// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// placement checks the fields that the scheduler uses: nodeName, nodeSelector, tolerations and
// runtimeClassName do not reach the document.
func placement(d *draft) {
	if n := d.in.NodeName; n != "" {
		for _, msg := range validation.IsDNS1123Subdomain(n) {
			d.invalid(d.path.Child("nodeName"), n, msg)
		}
	}
	if n := d.in.RuntimeClassName; n != nil {
		for _, msg := range validation.IsDNS1123Subdomain(*n) {
			d.invalid(d.path.Child("runtimeClassName"), *n, msg)
		}
	}
	for _, key := range sortedKeys(d.in.NodeSelector) {
		at := d.path.Child("nodeSelector")
		for _, msg := range validation.IsQualifiedName(key) {
			d.invalid(at, key, msg)
		}
		for _, msg := range validation.IsValidLabelValue(d.in.NodeSelector[key]) {
			d.invalid(at.Key(key), d.in.NodeSelector[key], msg)
		}
	}
	for i, t := range d.in.Tolerations {
		toleration(d, d.path.Child("tolerations").Index(i), t)
	}
}

func toleration(d *draft, at *field.Path, t corev1.Toleration) {
	if t.Key != "" {
		for _, msg := range validation.IsQualifiedName(t.Key) {
			d.invalid(at.Child("key"), t.Key, msg)
		}
	} else if t.Operator != corev1.TolerationOpExists {
		d.invalid(at.Child("operator"), t.Operator,
			"must be Exists when key is empty, which means all keys")
	}
	switch t.Operator {
	case "", corev1.TolerationOpEqual:
		for _, msg := range validation.IsValidLabelValue(t.Value) {
			d.invalid(at.Child("value"), t.Value, msg)
		}
	case corev1.TolerationOpExists:
		if t.Value != "" {
			d.invalid(at.Child("value"), t.Value, "must be empty when operator is Exists")
		}
	default:
		oneOf(d, at.Child("operator"), t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
	}
	if t.Effect != "" {
		oneOf(d, at.Child("effect"), t.Effect,
			corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
	}
	if t.TolerationSeconds != nil {
		d.refuse(at.Child("tolerationSeconds"),
			"is not supported: Containers are not evicted by taints; remove it")
	}
}

// sortedKeys returns the keys in order, so that faults are reported in the order of names.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
