// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Usage is a sum of requests on a node.
type Usage struct {
	// MilliCPU is the sum of cpu requests in thousandths of a processor.
	MilliCPU int64
	// Memory is the sum of memory requests in bytes.
	Memory int64
	// Containers that have not ended.
	Containers int

	// weightCPU and weightMemory are the same sums with a default for containers that request
	// nothing, so that these spread too. They only rank nodes; the true sums decide whether a
	// request fits.
	weightCPU, weightMemory int64
}

// What a container without requests weighs when nodes are ranked: kube-scheduler's
// DefaultMilliCPURequest and DefaultMemoryRequest (pkg/scheduler/util/pod_resources.go).
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// The most that counts of one container's requests. No node has as much, and the sum of some 32,000
// containers with spec.nodeName, which are placed without a look at the room, does not wrap around.
const (
	maxMilliCPU = 1 << 48
	maxMemory   = 1 << 48
)

// usageOf returns the usage of one container with these requests.
func usageOf(requests corev1.ResourceList) Usage {
	u := Usage{Containers: 1, weightCPU: defaultMilliCPU, weightMemory: defaultMemory}
	if q, ok := requests[corev1.ResourceCPU]; ok {
		u.MilliCPU = atMost(q, maxMilliCPU, resource.Milli)
		u.weightCPU = u.MilliCPU
	}
	if q, ok := requests[corev1.ResourceMemory]; ok {
		u.Memory = atMost(q, maxMemory, 0)
		u.weightMemory = u.Memory
	}
	return u
}

// atMost returns a quantity as a number of 10^scale, or most if it is greater: ScaledValue wraps
// around beyond 63 bits.
func atMost(q resource.Quantity, most int64, scale resource.Scale) int64 {
	if q.Cmp(*resource.NewScaledQuantity(most, scale)) > 0 {
		return most
	}
	return q.ScaledValue(scale)
}

func (u Usage) plus(v Usage) Usage {
	u.MilliCPU += v.MilliCPU
	u.Memory += v.Memory
	u.Containers += v.Containers
	u.weightCPU += v.weightCPU
	u.weightMemory += v.weightMemory
	return u
}

func (u Usage) minus(v Usage) Usage {
	u.MilliCPU -= v.MilliCPU
	u.Memory -= v.Memory
	u.Containers -= v.Containers
	u.weightCPU -= v.weightCPU
	u.weightMemory -= v.weightMemory
	return u
}

// roomAfter returns the mean of the shares of cpu and memory that would be left free:
// kube-scheduler's LeastAllocated. It may be below 0 where containers without requests crowd a
// node.
func roomAfter(r Request, n Node) float64 {
	after := n.Used.plus(usageOf(r.Resources))
	var sum float64
	var kinds int
	if q, ok := n.Agent.Status.Allocatable[corev1.ResourceCPU]; ok && q.MilliValue() > 0 {
		sum += 1 - float64(after.weightCPU)/float64(q.MilliValue())
		kinds++
	}
	if q, ok := n.Agent.Status.Allocatable[corev1.ResourceMemory]; ok && q.Value() > 0 {
		sum += 1 - float64(after.weightMemory)/float64(q.Value())
		kinds++
	}
	if kinds == 0 {
		return 0
	}
	return sum / float64(kinds)
}
