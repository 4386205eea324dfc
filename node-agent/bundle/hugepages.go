// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// hugePages returns the size of the pages of a medium; 0 if it has none of its own.
func hugePages(medium corev1.StorageMedium) (int64, error) {
	name, ok := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix))
	if !ok {
		return 0, nil
	}
	size, err := resource.ParseQuantity(name)
	if err != nil || size.Sign() <= 0 {
		return 0, fmt.Errorf("found %q; allowed: HugePages-2Mi or HugePages-1Gi", medium)
	}
	return size.Value(), nil
}

// checkHugePages returns an error if a medium needs huge pages that the kernel does not have.
func checkHugePages(medium corev1.StorageMedium) error {
	size, err := hugePages(medium)
	if err != nil || size == 0 {
		return err
	}
	dir := fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/", size>>10)
	for _, name := range []string{"nr_hugepages", "nr_overcommit_hugepages"} {
		text, err := os.ReadFile(dir + name)
		if err != nil {
			return fmt.Errorf("found %s, a size of pages that this node does not have; "+
				"allowed: those in /sys/kernel/mm/hugepages", medium)
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
			return nil
		}
	}
	return fmt.Errorf("found %s, and no such pages on this node; allowed: once some are reserved in "+
		"%snr_hugepages", medium, dir)
}
