// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
)

// TestGetReturnsTheWholeConfig: with a seccomp profile and without, byte for byte, before and after a restart.
func TestGetReturnsTheWholeConfig(t *testing.T) {
	for name, spec := range map[string]string{
		"default profile": "",
		"no profile":      ", securityContext: {seccompProfile: {type: Unconfined}}",
	} {
		t.Run(name, func(t *testing.T) {
			text := container("a", spec)
			c := manifest.Parse([]byte(text))[0].Container
			SetDefaults(c)
			compiled, faults := compile.Bundle(c)
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			dir, state := t.TempDir(), t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			f := newFolder(t, dir, state)
			f.scan()
			for _, f := range []*Folder{f, newFolder(t, dir, state)} {
				if got := string(f.Get(key("a")).Spec.Config.Raw); got != string(compiled.Config.Raw) {
					t.Errorf("found %s; wanted %s", got, compiled.Config.Raw)
				}
			}
		})
	}
}

// TestMemoryOfAContainer: what is held of a container is a fraction of its config, most of which is a seccomp profile that
// all have (docs/benchmarks.md).
func TestMemoryOfAContainer(t *testing.T) {
	const count, limit = 500, 10 << 10
	dir := t.TempDir()
	for i := range count {
		name := fmt.Sprintf("c%d", i)
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(container(name, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := newFolder(t, dir, t.TempDir())
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	f.scan()
	for i := range count {
		b := f.Get(key(fmt.Sprintf("c%d", i)))
		if err := f.ReportStatus(t.Context(), b, &v1alpha1.OCIBundleStatus{
			ObservedGeneration: 1, Phase: v1alpha1.ContainerRunning,
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionRunning, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonStarted, Message: "the process runs with pid 12345"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	each := (heap() - before) / count
	config := len(f.Get(key("c0")).Spec.Config.Raw)
	t.Logf("%d bytes a container, with a config of %d", each, config)
	if each > limit {
		t.Errorf("found %d bytes a container; allowed: %d", each, limit)
	}
	runtime.KeepAlive(f)
}
