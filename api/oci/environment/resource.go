// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// ResourceNames returns what resourceFieldRef.resource may be.
func ResourceNames() []string {
	return []string{"limits.cpu", "limits.memory", "limits.pids", "requests.cpu", "requests.memory"}
}

// divisors returns the divisors that a Pod allows for a resource (pkg/apis/core/validation,
// validContainerResourceDivisorForCPU and ...ForMemory).
func divisors(name corev1.ResourceName) []string {
	switch name {
	case corev1.ResourceCPU:
		return []string{"1m", "1"}
	case corev1.ResourceMemory:
		return []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	}
	return []string{"1"}
}

// CheckDivisor returns what is allowed in place of a divisor, or "" if it may stay.
func CheckDivisor(r *corev1.ResourceFieldSelector) string {
	if r.Divisor.IsZero() {
		return ""
	}
	_, name, _ := strings.Cut(r.Resource, ".")
	allowed := divisors(corev1.ResourceName(name))
	if slices.ContainsFunc(allowed, func(s string) bool {
		q := resource.MustParse(s)
		return q.Cmp(r.Divisor) == 0
	}) {
		return ""
	}
	return "must be one of " + strings.Join(allowed, ", ")
}

// Resource returns a quantity in units of the divisor of r, rounded up as the kubelet rounds it.
func Resource(r *corev1.ResourceFieldSelector, q resource.Quantity) string {
	divisor := r.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if strings.HasSuffix(r.Resource, ".cpu") {
		return ratio(q.MilliValue(), divisor.MilliValue())
	}
	return ratio(q.Value(), divisor.Value())
}

func ratio(value, divisor int64) string {
	whole := value / divisor
	if value%divisor > 0 {
		whole++
	}
	return strconv.FormatInt(whole, 10)
}

// Selected returns the quantity that r selects of a Container's resources, and false if the
// Container says nothing of it. An absent request is the limit, as the API server sets it for a
// Pod.
func Selected(r *corev1.ResourceFieldSelector,
	resources corev1.ResourceRequirements,
) (resource.Quantity, bool) {
	list, name, _ := strings.Cut(r.Resource, ".")
	if list == "requests" {
		if q, ok := resources.Requests[corev1.ResourceName(name)]; ok {
			return q, true
		}
	}
	q, ok := resources.Limits[corev1.ResourceName(name)]
	return q, ok
}

// OfNode returns the value of r for a container without the limit: what the node has.
func OfNode(r *corev1.ResourceFieldSelector, capacity corev1.ResourceList) (string, error) {
	list, name, _ := strings.Cut(r.Resource, ".")
	q, ok := capacity[corev1.ResourceName(name)]
	if list != "limits" || !ok {
		return "", fmt.Errorf(
			"resourceFieldRef.resource: found %q; allowed: a resource that the node has", r.Resource)
	}
	return Resource(r, q), nil
}
