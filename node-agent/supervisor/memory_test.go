// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A running container costs the supervisor at most 64 KiB (docs/benchmarks.md). PSS counts the
// memory that is the supervisor's alone and its share of the rest.
func TestMemoryOfARunningContainer(t *testing.T) {
	const count, limit = 100, 64 << 10
	n := newNode(t)
	n.warm("berth")
	pss := func() int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", n.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var kib int
			if _, err := fmt.Sscanf(line, "Pss: %d kB", &kib); err == nil {
				return kib << 10
			}
		}
		t.Fatalf("no Pss in %s", b)
		return 0
	}
	before := pss()
	for i := range count {
		n.run("berth", fmt.Sprintf("c%d", i), "echo started; exec sleep 1000")
	}
	each := (pss() - before) / count
	t.Logf("%d bytes a container", each)
	if each > limit {
		t.Errorf("%d bytes a container, want at most %d", each, limit)
	}
}
