// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/v1alpha1"
)

const (
	// quotaPeriod is the kubelet's CFS period in µs.
	quotaPeriod = 100_000
	// minQuota is the least quota in µs that the kernel takes
	// (kernel/sched/core.c, min_cfs_quota_period); the kubelet raises to it, too.
	minQuota = 1_000
	// maxMilliCPU is the limit whose quota is the greatest that the kernel takes:
	// 2^44-1 µs (kernel/sched/core.c, max_bw_runtime_us).
	maxMilliCPU = (1<<44 - 1) / (quotaPeriod / 1000)
	// minShares and maxShares bound cpu.shares (kernel/sched/sched.h, MIN_SHARES and MAX_SHARES).
	minShares = 2
	maxShares = 262_144
	// maxBytes is the greatest limit of memory: from a page more on, the kernel's
	// page counters stand at PAGE_COUNTER_MAX, which is no limit (mm/page_counter.c).
	// A Quantity too large to parse is read as 2^63-1 and so is refused, too.
	maxBytes = 1<<63 - 2*4096
	// maxPIDs is the greatest value of pids.max besides "max":
	// PID_MAX_LIMIT of include/linux/threads.h on 64 bits.
	maxPIDs = 4 << 20
)

// amount reads a limit or a request in units of its resource: milli-CPUs for
// cpu, bytes for memory, tasks for pids.
func amount(d *draft, list corev1.ResourceList, kind string, name corev1.ResourceName,
	most int64,
) (int64, bool) {
	q, ok := list[name]
	if !ok {
		return 0, false
	}
	at := d.path.Child("resources", kind).Key(string(name))
	if q.IsZero() && kind == "limits" {
		d.invalid(at, q.String(), "a limit of 0 allows nothing: remove it, or name a limit")
		return 0, false
	}
	scale := resource.Scale(0)
	if name == corev1.ResourceCPU {
		scale = resource.Milli
	}
	v, msg := exact(q, scale, most)
	if msg != "" {
		d.invalid(at, q.String(), msg)
		return 0, false
	}
	return v, true
}

// exact returns a quantity in units of 10^scale, or a message with the allowed values: it never
// rounds.
func exact(q resource.Quantity, scale resource.Scale, most int64) (int64, string) {
	unit := "a whole number"
	if scale == resource.Milli {
		unit = "a multiple of 1m"
	}
	greatest := resource.NewScaledQuantity(most, scale)
	switch {
	case q.Sign() < 0:
		return 0, "must not be negative"
	// First of all this, for ScaledValue wraps beyond 63 bits.
	case q.Cmp(*greatest) > 0:
		return 0, "must be at most " + greatest.String() + ", the most that the kernel takes"
	case q.Cmp(*resource.NewScaledQuantity(q.ScaledValue(scale), scale)) != 0:
		if number, milli := strings.CutSuffix(q.String(), "m"); milli && scale == 0 {
			return 0, "must be " + unit + ": m is a thousandth; did you mean " + number + "Mi or " +
				number + "M?"
		}
		return 0, "must be " + unit
	}
	return q.ScaledValue(scale), ""
}

// demand reads limit and request of a resource. The request is the limit where
// it is absent, as in a Pod, and is what the scheduler counts.
func demand(d *draft, name corev1.ResourceName, most int64) (limit, request int64) {
	limit, limited := amount(d, d.in.Resources.Limits, "limits", name, most)
	request, requested := amount(d, d.in.Resources.Requests, "requests", name, most)
	if !requested {
		request = limit
	}
	if limited && request > limit {
		q := d.in.Resources.Requests[name]
		d.invalid(d.path.Child("resources", "requests").Key(string(name)), q.String(),
			"must not exceed the limit")
	}
	if limited || requested {
		if d.out.Requests == nil {
			d.out.Requests = corev1.ResourceList{}
		}
		q, ok := d.in.Resources.Requests[name]
		if !ok {
			q = d.in.Resources.Limits[name]
		}
		d.out.Requests[name] = q
	}
	return limit, request
}

// cpu compiles the CFS quota from the limit and the weight from the request, by the kubelet's
// formulas. Without a request the weight is the least there is, so that nobody who asked for cpu
// has to give way.
func cpu(d *draft) {
	limit, request := demand(d, corev1.ResourceCPU, maxMilliCPU)
	c := &specs.LinuxCPU{Shares: new(uint64(min(max(request*1024/1000, minShares), maxShares)))}
	if limit > 0 {
		c.Period = new(uint64(quotaPeriod))
		c.Quota = new(max(limit*quotaPeriod/1000, minQuota))
	}
	d.spec.Linux.Resources.CPU = c
}

// memory compiles the limit of memory, and of memory and swap together. Without a limit of swap the
// two are the same: the container does not swap, as on a kubelet without swap.
func memory(d *draft) {
	limit, _ := demand(d, corev1.ResourceMemory, maxBytes)
	swap, swaps := amount(d, d.in.Resources.Limits, "limits", v1alpha1.ResourceSwap, maxBytes)
	at := d.path.Child("resources", "limits").Key(string(v1alpha1.ResourceSwap))
	if _, limited := d.in.Resources.Limits[corev1.ResourceMemory]; swaps && !limited {
		d.refuse(at, "without a limit of memory nothing limits swap: set limits[memory], or remove it")
	}
	if swap > maxBytes-limit {
		q := d.in.Resources.Limits[v1alpha1.ResourceSwap]
		d.invalid(at, q.String(), "must be at most "+resource.NewQuantity(maxBytes-limit,
			resource.BinarySI).String()+" beside this limit of memory, the most that the kernel takes")
		return
	}
	if limit > 0 {
		d.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(limit), Swap: new(limit + swap)}
	}
}

// pids compiles the limit of processes and threads.
func pids(d *draft) {
	if limit, ok := amount(d, d.in.Resources.Limits, "limits", v1alpha1.ResourcePIDs, maxPIDs); ok {
		d.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(limit)}
	}
}

// ulimits checks spec.ulimits and passes them to the agent, which makes process.rlimits of them.
func ulimits(d *draft) {
	seen := map[string]bool{}
	for i, u := range d.in.Ulimits {
		at := d.path.Child("ulimits").Index(i)
		if !slices.Contains(ulimitNames(), u.Name) {
			d.faults = append(d.faults, field.NotSupported(at.Child("name"), u.Name, ulimitNames()))
			continue
		}
		if seen[u.Name] {
			d.faults = append(d.faults, field.Duplicate(at.Child("name"), u.Name))
			continue
		}
		seen[u.Name] = true
		ok := ulimit(d, at.Child("soft"), u.Soft)
		// The kernel's number for no limit is its greatest.
		if ulimit(d, at.Child("hard"), u.Hard) && ok && uint64(u.Soft) > uint64(u.Hard) {
			d.invalid(at.Child("soft"), u.Soft, "must be at most hard, where -1 is no limit")
		}
		d.out.Process.Ulimits = append(d.out.Process.Ulimits, u)
	}
}

// ulimitNames returns the names of the resources of getrlimit(2), without RLIMIT_.
func ulimitNames() []string {
	return []string{
		"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
		"rss", "rtprio", "rttime", "sigpending", "stack",
	}
}

// ulimit reports whether a limit is one: a number, or -1 for none.
func ulimit(d *draft, at *field.Path, v int64) bool {
	if v < -1 {
		d.invalid(at, v, "must be 0 or more, or -1 for no limit")
		return false
	}
	return true
}

// otherResources refuses every other resource.
func otherResources(d *draft) {
	at := d.path.Child("resources")
	var huge []corev1.ResourceName
	for _, size := range hugePageSizes() {
		huge = append(huge, size.resource)
	}
	for _, list := range []struct {
		kind    string
		names   corev1.ResourceList
		allowed []corev1.ResourceName
	}{
		{"limits", d.in.Resources.Limits, append([]corev1.ResourceName{
			corev1.ResourceCPU, corev1.ResourceMemory, v1alpha1.ResourceSwap, v1alpha1.ResourcePIDs,
		}, huge...)},
		{"requests", d.in.Resources.Requests, append([]corev1.ResourceName{
			corev1.ResourceCPU,
			corev1.ResourceMemory,
		}, huge...)},
	} {
		for _, name := range sortedKeys(list.names) {
			oneOf(d, at.Child(list.kind).Key(string(name)), name, list.allowed...)
		}
	}
	if len(d.in.Resources.Claims) > 0 {
		d.faults = append(d.faults, field.Forbidden(at.Child("claims"), "is not supported: remove it"))
	}
}
