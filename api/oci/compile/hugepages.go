// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// hugePageSize is a size of huge pages that Containers can ask for.
type hugePageSize struct {
	resource corev1.ResourceName
	medium   corev1.StorageMedium
	kernel   string // as the hugetlb cgroup calls it
	bytes    int64
}

func hugePageSizes() []hugePageSize {
	return []hugePageSize{
		{"hugepages-2Mi", "HugePages-2Mi", "2MB", 2 << 20},
		{"hugepages-1Gi", "HugePages-1Gi", "1GB", 1 << 30},
	}
}

// hugePages compiles the limits of huge pages. As in a Pod, a request is equal to its limit.
func hugePages(d *draft) {
	for _, size := range hugePageSizes() {
		limit, limited := amount(d, d.in.Resources.Limits, "limits", size.resource, maxBytes)
		if limited && limit%size.bytes != 0 {
			d.invalid(d.path.Child("resources", "limits").Key(string(size.resource)),
				resource.NewQuantity(limit, resource.BinarySI).String(), "must be a multiple of the page's size")
		}
		request, requested := amount(d, d.in.Resources.Requests, "requests", size.resource, maxBytes)
		if requested && request != limit {
			q := d.in.Resources.Requests[size.resource]
			d.invalid(d.path.Child("resources", "requests").Key(string(size.resource)), q.String(),
				"must be equal to the limit")
		}
		if limited {
			d.spec.Linux.Resources.HugepageLimits = append(d.spec.Linux.Resources.HugepageLimits,
				specs.LinuxHugepageLimit{Pagesize: size.kernel, Limit: uint64(limit)})
		}
	}
}

// isHugePages reports whether a medium is one of huge pages.
func isHugePages(medium corev1.StorageMedium) bool {
	return medium == corev1.StorageMediumHugePages ||
		strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix))
}

// hugePagesMedium checks the medium of a volume of huge pages, and returns it with the size of the
// pages. Its pages count for a limit, which must be there.
func hugePagesMedium(d *draft, at *field.Path, v *corev1.EmptyDirVolumeSource,
) corev1.StorageMedium {
	var limited []hugePageSize
	for _, size := range hugePageSizes() {
		if _, ok := d.in.Resources.Limits[size.resource]; ok {
			limited = append(limited, size)
		}
	}
	if v.Medium == corev1.StorageMediumHugePages {
		if len(limited) != 1 {
			d.invalid(at.Child("medium"), v.Medium,
				"needs one of resources.limits hugepages-2Mi and hugepages-1Gi: set one, or name the size, "+
					"HugePages-2Mi or HugePages-1Gi")
			return v.Medium
		}
		checkWhole(d, at, v, limited[0])
		return limited[0].medium
	}
	for _, size := range limited {
		if size.medium == v.Medium {
			checkWhole(d, at, v, size)
			return v.Medium
		}
	}
	d.invalid(at.Child("medium"), v.Medium, "needs resources.limits[hugepages-"+
		strings.TrimPrefix(string(v.Medium), string(corev1.StorageMediumHugePagesPrefix))+"]: set it")
	return v.Medium
}

// checkWhole checks the sizeLimit of a volume, which the kernel would round down to whole pages.
func checkWhole(d *draft, at *field.Path, v *corev1.EmptyDirVolumeSource, size hugePageSize) {
	if v.SizeLimit != nil && v.SizeLimit.Value()%size.bytes != 0 {
		d.invalid(at.Child("sizeLimit"), v.SizeLimit.String(), "must be a multiple of the page's size")
	}
}
