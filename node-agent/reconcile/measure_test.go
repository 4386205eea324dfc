// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/api/v1alpha1"
)

// limitedVolumes gives a bundle two volumes of at most 1 MiB on disk.
func limitedVolumes(b *v1alpha1.OCIBundle) {
	for _, name := range []string{"data", "cache"} {
		b.Spec.Volumes = append(b.Spec.Volumes, v1alpha1.Volume{
			Name: name,
			EmptyDir: &corev1.EmptyDirVolumeSource{
				SizeLimit: new(resource.MustParse("1Mi")),
			},
		})
	}
}

// fill writes a file into a volume of the container.
func (b *bench) fill(volume string, bytes int) {
	b.Helper()
	file := filepath.Join(b.bundles.Dir(oldID).Volume(volume), "file")
	if err := os.WriteFile(file, make([]byte, bytes), 0o600); err != nil {
		b.Fatal(err)
	}
}

// untilMeasured moves the clock until the volumes have been looked at once more.
func (b *bench) untilMeasured() {
	b.Helper()
	m := b.syncer.measurer
	at := func() time.Time {
		m.mu.Lock()
		defer m.mu.Unlock()
		if c := m.of[oldID]; c != nil {
			return c.next
		}
		return time.Time{}
	}
	b.until("volumes to be measured", func() bool { return !at().IsZero() && b.clock.HasWaiters() })
	before := at()
	b.clock.Step(before.Sub(b.clock.Now()))
	b.until("a look at the volumes", func() bool {
		b.clock.Step(time.Millisecond)
		return at() != before
	})
}

// TestOverfullVolumeEndsContainer fills a volume of a running container beyond its limit: the
// process gets its stop signal and a second, ends with a reason that names the volume, and is
// started again after a back-off with that volume empty and the other as it was. With restartPolicy
// Never it stays Failed, also if its exit code is 0. An agent that is killed after the signal was
// sent does not change that.
func TestOverfullVolumeEndsContainer(t *testing.T) {
	const why = "spec.volumes[1].emptyDir.sizeLimit: found "
	for name, policy := range map[string]corev1.RestartPolicy{
		"always": corev1.RestartPolicyAlways, "on failure": corev1.RestartPolicyOnFailure,
		"never": corev1.RestartPolicyNever,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, limitedVolumes, func(o *v1alpha1.OCIBundle) { o.Spec.RestartPolicy = policy })
			b.runs(1)
			b.fill("data", 512<<10)
			b.fill("cache", 1<<20-64<<10)
			b.untilMeasured()
			if kills := b.kills(); len(kills) > 0 {
				t.Fatalf("found the signals %v for volumes within their limits", kills)
			}
			b.fill("cache", 2<<20)
			b.untilMeasured()
			b.until("the stop signal", func() bool { return len(b.kills()) == 1 })
			b.look()
			r := b.record()
			if r.Stop == nil || r.Stop.GraceSeconds != 1 || !strings.HasPrefix(r.Stop.Why, why) ||
				!strings.HasSuffix(r.Stop.Why, " in the volume cache; allowed: 1Mi") {
				t.Fatalf("found the stop %+v", r.Stop)
			}
			b.stop()
			b.run()
			b.exit(0)
			ended := func() *corev1.ContainerStateTerminated {
				st := b.source.last()
				if st.State.Terminated != nil {
					return st.State.Terminated
				}
				return st.LastState.Terminated
			}
			b.until("an eviction in the status", func() bool {
				end := ended()
				return end != nil && end.Reason == v1alpha1.ReasonEvicted &&
					strings.HasPrefix(end.Message, why)
			})
			if policy == corev1.RestartPolicyNever {
				b.until("failure", func() bool {
					st := b.source.last()
					running := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionRunning)
					return st.Phase == v1alpha1.ContainerFailed && running.Reason == v1alpha1.ReasonEvicted &&
						strings.Contains(running.Message, why)
				})
				b.look()
				b.wantStarts(1)
				return
			}
			b.runs(2)
			for volume, want := range map[string]bool{"data": true, "cache": false} {
				_, err := os.Stat(filepath.Join(b.bundles.Dir(oldID).Volume(volume), "file"))
				if found := err == nil; found != want {
					t.Errorf("the file in the volume %s is there: %t; want %t", volume, found, want)
				}
			}
			b.fill("cache", 1<<10)
			b.exit(1)
			b.until("the back-off of a second end", func() bool {
				return b.source.last().State.Waiting != nil && b.waiting()
			})
			b.clock.Step(time.Minute)
			b.runs(3)
			if _, err := os.Stat(filepath.Join(b.bundles.Dir(oldID).Volume("cache"), "file")); err != nil {
				t.Errorf("a volume is emptied once: %v", err)
			}
		})
	}
}
