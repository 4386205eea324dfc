// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkRun is a container from its document to its end inside one process, as in the supervisor: to compare with
// hack/bench/floor.c, which makes the same system calls. BERTH_BENCH_BUNDLE is a bundle that runs /bin/true.
func BenchmarkRun(b *testing.B) {
	bundle := os.Getenv("BERTH_BENCH_BUNDLE")
	if bundle == "" {
		b.Skip("BERTH_BENCH_BUNDLE names no bundle; make bench-runtime does")
	}
	r, err := New(filepath.Join(b.TempDir(), "run"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, err := r.Run(b.Context(), "bench", CreateOptions{Bundle: bundle})
		if err != nil {
			b.Fatal(err)
		}
		if status := p.Wait(); status != 0 {
			b.Fatalf("ended with %v", status)
		}
		if err := p.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
