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
	"github.com/berth-run/berth/internal/heaptest"
)

// TestGetReturnsTheWholeConfig: with a seccomp profile and without, byte for byte, before and after
// a restart.
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

// TestMemoryOfAContainer: what is held of a container is a fraction of its config, nearly all of
// which others have, too; after a restart as before (docs/benchmarks.md).
func TestMemoryOfAContainer(t *testing.T) {
	// 7,682 bytes after a restart, on amd64.
	const count, limit = 500, 8 << 10
	dir, state := t.TempDir(), t.TempDir()
	for i := range count {
		name := fmt.Sprintf("c%d", i)
		err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(container(name, "")), 0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, begin func() *Folder) {
		before := heaptest.Live()
		f := begin()
		each := (heaptest.Live() - before) / count
		t.Logf("%s: %d bytes a container, with a config of %d", when, each,
			len(f.Get(key("c0")).Spec.Config.Raw))
		if each > limit {
			t.Errorf("%s: found %d bytes a container; allowed: %d", when, each, limit)
		}
		runtime.KeepAlive(f)
	}
	// What the process holds once, such as what packages of JSON know of types, is no container's.
	// Nor is what containers share: it stays.
	other := newFolder(t, dir, t.TempDir())
	other.scan()
	check("at first", func() *Folder {
		f := newFolder(t, dir, state)
		f.scan()
		for i := range count {
			b := f.Get(key(fmt.Sprintf("c%d", i)))
			if err := f.ReportStatus(t.Context(), b, &v1alpha1.OCIBundleStatus{
				ObservedGeneration: 1, Phase: v1alpha1.ContainerRunning,
				Conditions: []metav1.Condition{{
					Type: v1alpha1.ConditionRunning, Status: metav1.ConditionTrue,
					Reason: v1alpha1.ReasonStarted, Message: "the process runs with pid 12345",
				}},
			}); err != nil {
				t.Fatal(err)
			}
		}
		return f
	})
	check("after a restart", func() *Folder {
		f := newFolder(t, dir, state)
		f.scan()
		return f
	})
	runtime.KeepAlive(other)
}
