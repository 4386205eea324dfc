// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"testing"
	"testing/fstest"
)

func TestSwapLimit(t *testing.T) {
	const memory = "sys/fs/cgroup/memory/memory."
	for name, tc := range map[string]struct {
		files []string
		want  bool
	}{
		"v1 with swap accounting": {[]string{memory + "limit_in_bytes", memory +
			"memsw.limit_in_bytes", "proc/swaps"}, true},
		"v1 with swapaccount=0": {[]string{memory + "limit_in_bytes", "proc/swaps"}, false},
		"hybrid, memory on v1, without": {[]string{
			memory + "limit_in_bytes",
			"sys/fs/cgroup/unified/cgroup.controllers", "proc/swaps",
		}, false},
		"v2": {[]string{
			"sys/fs/cgroup/cgroup.controllers",
			"proc/swaps",
		}, true},
		"v2, a kernel without CONFIG_SWAP": {[]string{"sys/fs/cgroup/cgroup.controllers"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			host := fstest.MapFS{}
			for _, f := range tc.files {
				host[f] = &fstest.MapFile{}
			}
			if got := SwapLimit(host); got != tc.want {
				t.Errorf("found %v, want %v", got, tc.want)
			}
		})
	}
}
