// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/source"
)

// newFields returns the ways in which a bundle uses a field that this agent does not know, with the
// path that is reported.
func newFields() map[string]func(*v1alpha1.OCIBundle) {
	return map[string]func(*v1alpha1.OCIBundle){
		"spec.process.umask": func(b *v1alpha1.OCIBundle) {
			// as a source does
			b.Annotations = map[string]string{source.AnnotationUnknownFields: "spec.process.umask"}
		},
		"spec.minAgentRevision": func(b *v1alpha1.OCIBundle) {
			b.Spec.MinAgentRevision = v1alpha1.AgentRevision + 1
		},
		`"linux.future"`: func(b *v1alpha1.OCIBundle) {
			b.Spec.Config.Raw = bytes.Replace(b.Spec.Config.Raw, []byte(`"linux":{`),
				[]byte(`"linux":{"future":1,`), 1)
		},
	}
}

func (b *bench) refused(path string, phase v1alpha1.ContainerPhase) {
	b.Helper()
	b.until("the refusal of "+path, func() bool {
		b.source.mu.Lock()
		generation := b.source.bundle.Generation
		b.source.mu.Unlock()
		s := b.source.last()
		c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionAccepted)
		return s.Phase == phase && c != nil && c.Status == "False" &&
			c.Reason == v1alpha1.ReasonAgentTooOld &&
			c.ObservedGeneration == generation && strings.Contains(c.Message, path) &&
			strings.Contains(c.Message, "upgrade berth-agent")
	})
}

// TestUnknownFieldIsRefused: a field that this agent does not know is never dropped.
func TestUnknownFieldIsRefused(t *testing.T) {
	for path, use := range newFields() {
		t.Run("new "+path, func(t *testing.T) {
			b := newBench(t, use)
			b.refused(path, v1alpha1.ContainerPending)
			b.super.mu.Lock()
			if b.super.starts > 0 {
				t.Error("it was started")
			}
			b.super.mu.Unlock()
			b.delete()
			b.until("release", func() bool {
				b.source.mu.Lock()
				defer b.source.mu.Unlock()
				return len(b.source.released) == 1
			})
		})
		t.Run("changed "+path, func(t *testing.T) {
			b := newBench(t)
			b.runs(1)
			before := b.source.Get(keyNamed("x")).Spec
			b.set(func(b *v1alpha1.OCIBundle) {
				use(b)
				b.Spec.Process.Args = []string{"changed"}
				b.Generation++
			})
			b.syncer.Changed(keyNamed("x"))
			b.refused(path, v1alpha1.ContainerRunning)
			// It goes on as it was accepted, in this agent and the next one.
			b.exit(1)
			b.runs(2)
			b.stop()
			b.run()
			b.refused(path, v1alpha1.ContainerRunning)
			if kills := b.kills(); len(kills) > 0 {
				t.Errorf("the container was sent %v", kills)
			}
			config, err := os.ReadFile(filepath.Join(b.dir, "bundles", oldID, "config.json"))
			if err != nil || bytes.Contains(config, []byte(`"changed"`)) {
				t.Errorf("it was made from the refused spec (%v): %s", err, config)
			}
			// The field is taken back.
			b.set(func(b *v1alpha1.OCIBundle) {
				b.Spec, b.Annotations, b.Generation = before, nil, b.Generation+1
			})
			b.syncer.Changed(keyNamed("x"))
			b.until("acceptance", func() bool {
				s := b.source.last()
				return s.ObservedGeneration == 3 && meta.FindStatusCondition(s.Conditions,
					v1alpha1.ConditionAccepted) == nil
			})
			if kills := b.kills(); len(kills) > 0 {
				t.Errorf("the container was sent %v", kills)
			}
		})
	}
}

// TestOlderAgentLeavesWhatANewerOneRan: an older agent does not replace a bundle of a newer one by
// the fields that it knows.
func TestOlderAgentLeavesWhatANewerOneRan(t *testing.T) {
	leaktest.Check(t)
	b := newOldBench(t, "running")
	file := filepath.Join(b.dir, "bundles", oldID, "desired.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(b.dir, "bundles", oldID, "record.json")
	r, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	for path, change := range map[string][]byte{
		file:   bytes.Replace(data, []byte(`"spec":{`), []byte(`"spec":{"future":true,`), 1),
		record: bytes.Replace(r, []byte(`"hash":"`), []byte(`"hash":"with-future-`), 1),
	} {
		if err := os.WriteFile(path, change, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.set(func(b *v1alpha1.OCIBundle) {
		b.Annotations = map[string]string{source.AnnotationUnknownFields: "spec.future"}
	})
	b.stays(v1alpha1.ContainerRunning)
	b.refused("spec.future", v1alpha1.ContainerRunning)
}

// TestUnownedBundleIsRefused: a bundle that was compiled from no Container is not run, whoever has
// created it; one of a controller that did not know spec.containerRef is known by its owner
// reference.
func TestUnownedBundleIsRefused(t *testing.T) {
	owner := func(kind string) func(*v1alpha1.OCIBundle) {
		return func(b *v1alpha1.OCIBundle) {
			b.Spec.ContainerRef = nil
			b.OwnerReferences = []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(),
				Kind:       kind, Name: "x", UID: "1-2", Controller: ptr.To(true),
			}}
		}
	}
	for name, change := range map[string]func(*v1alpha1.OCIBundle){
		"no owner":     func(b *v1alpha1.OCIBundle) { b.Spec.ContainerRef = nil },
		"no uid":       func(b *v1alpha1.OCIBundle) { b.Spec.ContainerRef.UID = "" },
		"another kind": owner("Deployment"),
		"no controller": func(b *v1alpha1.OCIBundle) {
			owner("Container")(b)
			b.OwnerReferences[0].Controller = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, change)
			b.until("the refusal", func() bool {
				s := b.source.last()
				c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionAccepted)
				return s.Phase == v1alpha1.ContainerPending && c != nil && c.Status == "False" &&
					c.Reason == v1alpha1.ReasonUnowned &&
					strings.Contains(c.Message, "spec.containerRef") &&
					s.State.Waiting.Reason == v1alpha1.ReasonUnowned
			})
			b.super.mu.Lock()
			defer b.super.mu.Unlock()
			if b.super.starts > 0 {
				t.Error("it was started")
			}
		})
	}
	b := newBench(t, owner("Container"))
	b.runs(1)
}
