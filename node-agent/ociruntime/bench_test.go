// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkRun measures a container inside one process, as in the supervisor: from its document
// until its program is executed, and until all is removed, the median of each in milliseconds. It
// is to compare with hack/bench/floor.c, which makes the same system calls. BERTH_BENCH_BUNDLE is a
// bundle that runs /bin/true, BERTH_BENCH_PAUSE how long nothing is done before each.
func BenchmarkRun(b *testing.B) {
	bundle := os.Getenv("BERTH_BENCH_BUNDLE")
	if bundle == "" {
		b.Skip("BERTH_BENCH_BUNDLE names no bundle; make bench-runtime does")
	}
	r, err := New(filepath.Join(b.TempDir(), "run"))
	if err != nil {
		b.Fatal(err)
	}
	var pause time.Duration
	if s := os.Getenv("BERTH_BENCH_PAUSE"); s != "" {
		if pause, err = time.ParseDuration(s); err != nil {
			b.Fatal(err)
		}
	}
	var executed, removed []time.Duration
	for b.Loop() {
		time.Sleep(pause)
		begin := time.Now()
		p, err := r.Run(b.Context(), "bench", CreateOptions{Bundle: bundle})
		if err != nil {
			b.Fatal(err)
		}
		executed = append(executed, time.Since(begin))
		if status := p.Wait(); status != 0 {
			b.Fatalf("ended with %v", status)
		}
		if err := p.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		removed = append(removed, time.Since(begin))
	}
	median := func(of []time.Duration) float64 {
		slices.Sort(of)
		return of[len(of)/2].Seconds() * 1e3
	}
	b.ReportMetric(median(executed), "executed-ms")
	b.ReportMetric(median(removed), "removed-ms")
}
