// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	testclock "k8s.io/utils/clock/testing"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// records of the agent at commit 49c6b77, the first version that people ran.
const firstVersion = "testdata/49c6b77"

const oldID = "default_x_01234567"

// newOldBench returns a node on which an agent of the first version has run a container, which is
// "finished" or "running".
func newOldBench(t *testing.T, state string) *bench {
	t.Helper()
	dir := t.TempDir()
	logs := filepath.Join(dir, "logs", "default_x_0123456789")
	held := filepath.Join(dir, "bundles", oldID)
	for _, d := range []string{logs, held} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write := func(path string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var desired v1alpha1.OCIBundle
	for _, name := range []string{"record.json", "desired.json"} {
		data, err := os.ReadFile(filepath.Join(firstVersion, state, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "desired.json" {
			if err := json.Unmarshal(data, &desired); err != nil {
				t.Fatal(err)
			}
		}
		write(filepath.Join(held, name), bytes.ReplaceAll(data, []byte("LOGS"),
			[]byte(filepath.Join(dir, "logs"))))
	}
	// As its source gives it to this version.
	desired.Spec.ContainerRef = &v1alpha1.ContainerReference{Name: "x", UID: "of-the-container"}
	write(filepath.Join(logs, "0.log"), []byte("2026-01-02T03:04:05Z stdout F done\n"))
	bundles, err := bundle.Open(filepath.Join(dir, "bundles"))
	if err != nil {
		t.Fatal(err)
	}
	clk := &settableClock{FakeClock: testclock.NewFakeClock(now)}
	b := &bench{
		T: t, clock: clk, dir: dir, bundles: bundles, source: &memorySource{bundle: &desired},
		stop:  func() {},
		super: &fakeSupervisor{clock: clk, all: map[string]*protocol.Status{}},
	}
	if state == "running" {
		b.super.all[oldID] = &protocol.Status{
			ID: oldID, State: protocol.Running, PID: 4242,
			StartedAt: now,
		}
	}
	return b
}

// set changes what is wanted, as the source delivers it to the next agent or this one.
func (b *bench) set(change func(*v1alpha1.OCIBundle)) {
	b.source.mu.Lock()
	next := b.source.bundle.DeepCopy()
	change(next)
	b.source.bundle = next
	b.source.mu.Unlock()
}

// stays asserts that the agent looks, reports the phase, and starts or stops nothing.
func (b *bench) stays(phase v1alpha1.ContainerPhase) {
	b.Helper()
	b.source.mu.Lock()
	generation := b.source.bundle.Generation
	b.source.reports = nil
	b.source.mu.Unlock()
	b.stop()
	b.run()
	b.until("a report", func() bool {
		s := b.source.last()
		return s.Phase == phase && s.ObservedGeneration == generation
	})
	if kills := b.kills(); len(kills) > 0 {
		b.Errorf("the container was sent %v", kills)
	}
	b.super.mu.Lock()
	defer b.super.mu.Unlock()
	if b.super.starts > 0 {
		b.Errorf("the container was started %d times", b.super.starts)
	}
	log, err := os.ReadFile(filepath.Join(b.dir, "logs", "default_x_0123456789", "0.log"))
	if err != nil || !bytes.Contains(log, []byte("done")) {
		b.Errorf("the log is %q (%v)", log, err)
	}
}

func recompile(b *v1alpha1.OCIBundle) {
	b.Spec.Config.Raw = bytes.Replace(b.Spec.Config.Raw, []byte("{"),
		[]byte(`{"annotations":{"compiled-by":"the next version"},`), 1)
}

// TestUpgradeMakesNothingAgain: whatever another version of Berth compiles, a container that runs
// goes on, and one that has finished is not run again.
func TestUpgradeMakesNothingAgain(t *testing.T) {
	leaktest.Check(t)
	for state, phase := range map[string]v1alpha1.ContainerPhase{
		"finished": v1alpha1.ContainerSucceeded, "running": v1alpha1.ContainerRunning,
	} {
		t.Run(state, func(t *testing.T) {
			b := newOldBench(t, state)
			b.stays(phase)
			// The agent of a folder of manifests compiles at every start.
			b.set(func(b *v1alpha1.OCIBundle) {
				recompile(b)
				b.Spec.SubPaths = []v1alpha1.BundleSubPath{{Source: "volumes/v", Path: "p"}}
				b.Annotations = map[string]string{source.AnnotationRun: "what the manifest says"}
			})
			b.stays(phase)
			b.stays(phase)
			// Then somebody edits how it is run, not what runs.
			b.set(func(b *v1alpha1.OCIBundle) {
				b.Spec.TerminationGracePeriodSeconds = 7
				b.Spec.CompiledGeneration = 2
				b.Generation++
			})
			b.stays(phase)
			if accepted := readDesired(b.bundles.Dir(oldID)); accepted.Spec.TerminationGracePeriodSeconds != 7 || accepted.Spec.CompiledGeneration != 2 {
				t.Errorf("the edit is lost: %+v", accepted.Spec)
			}
			b.stays(phase)
			// And then, what runs.
			b.set(func(b *v1alpha1.OCIBundle) {
				b.Annotations = map[string]string{source.AnnotationRun: "something else"}
				b.Spec.SubPaths = nil
				b.Spec.CompiledGeneration = 3
				b.Generation++
			})
			b.syncer.Changed(keyNamed("x"))
			b.until("the spec that was edited", func() bool {
				accepted := readDesired(b.bundles.Dir(oldID))
				return accepted != nil && bytes.Contains(accepted.Spec.Config.Raw, []byte("the next version"))
			})
		})
		t.Run(state+" in a cluster", func(t *testing.T) {
			b := newOldBench(t, state)
			// The controller's next version records which generation the OCIBundle is of.
			b.set(func(b *v1alpha1.OCIBundle) {
				b.Spec.CompiledGeneration = 7
				b.Spec.ContainerRef = &v1alpha1.ContainerReference{Name: "x", UID: "u"}
				b.Generation++
			})
			b.stays(phase)
			if state == "running" {
				return
			}
			// Nor is it run again for a controller that compiled anew for the same generation, as
			// after a hand's edit.
			b.set(func(b *v1alpha1.OCIBundle) {
				recompile(b)
				b.Generation++
			})
			b.stays(phase)
			b.stays(phase)
			// An edit of the Container runs it again.
			if err := os.MkdirAll(filepath.Join(b.dir, "rootfs"), 0o755); err != nil {
				t.Fatal(err)
			}
			b.set(func(o *v1alpha1.OCIBundle) {
				o.Spec.CompiledGeneration = 8
				o.Generation++
				o.Spec.Volumes = nil
				o.Spec.Config.Raw = []byte(`{"ociVersion":"1.3.0","root":{"path":"` +
					filepath.Join(b.dir, "rootfs") + `"},"process":{"cwd":"/"},"linux":{}}`)
			})
			b.syncer.Changed(keyNamed("x"))
			b.until("the run of the edited job", func() bool {
				b.super.mu.Lock()
				defer b.super.mu.Unlock()
				return b.super.starts == 1
			})
		})
	}
}

// TestInterruptedEditIsMadeStill: a job that was edited is run again although the agent was killed
// while it made it.
func TestInterruptedEditIsMadeStill(t *testing.T) {
	leaktest.Check(t)
	r := record(stateEnded, exited(0), func(r *Record) { r.Compiled = 1 })
	next := desired(corev1.RestartPolicyNever)
	next.Spec.CompiledGeneration = 2
	in := Input{Desired: next, Hash: "edited", Record: r}
	if d := Policies().Decide(in); d.Policy != "MakeChanged" {
		t.Fatalf("decided %+v", d)
	}
	before := r.run // as begin does
	r.Before, r.run = &before, before.next()
	r.State, r.Compiled, r.Hash = stateStarting, 2, "edited"
	r.interrupted()
	if d := Policies().Decide(in); d.Policy != "MakeChanged" {
		t.Errorf("decided %+v", d)
	}
}

// TestInterruptedRestartIsMadeStill restarts a finished job and interrupts that start: the job
// still runs, once, also if the agent is replaced in between.
func TestInterruptedRestartIsMadeStill(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		t.Run(fmt.Sprintf("agent replaced %v", replaced), func(t *testing.T) {
			b := newBench(t, func(o *v1alpha1.OCIBundle) {
				o.Spec.RestartPolicy, o.Spec.CompiledGeneration = corev1.RestartPolicyNever, 1
			})
			b.runs(1)
			b.exit(0)
			b.until("it has succeeded", func() bool {
				return b.source.last().Phase == v1alpha1.ContainerSucceeded
			})
			b.super.mu.Lock()
			b.super.unsure = map[string][]string{"create": {"drop"}}
			b.super.mu.Unlock()
			b.set(func(o *v1alpha1.OCIBundle) {
				metav1.SetMetaDataAnnotation(&o.ObjectMeta, source.AnnotationRestart, "again")
			})
			b.look()
			b.wantStarts(1) // the request was lost
			if replaced {
				b.stop()
				b.run()
			}
			b.until("the second run", func() bool {
				if b.waiting() {
					b.clock.Step(time.Second)
				}
				return b.source.last().RestartCount == 1 && b.source.last().PID != 0
			})
			b.exit(0)
			b.until("it has succeeded again", func() bool {
				return b.source.last().Phase == v1alpha1.ContainerSucceeded
			})
			b.look()
			b.wantStarts(2)
		})
	}
}

// TestHashOfTheFirstVersion: records hold the hash, so it must not change for a spec that has
// nothing new.
func TestHashOfTheFirstVersion(t *testing.T) {
	leaktest.Check(t)
	for _, state := range []string{"finished", "running"} {
		var r Record
		var b v1alpha1.OCIBundle
		for name, into := range map[string]any{"record.json": &r, "desired.json": &b} {
			data, err := os.ReadFile(filepath.Join(firstVersion, state, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, into); err != nil {
				t.Fatal(err)
			}
		}
		b.Spec.CompiledGeneration, b.Spec.MinAgentRevision = 3, 1
		if hash, err := Hash(&b.Spec); err != nil || hash != r.Hash {
			t.Errorf("%s: the hash is %s (%v), was %s: every container would be replaced by an upgrade",
				state, hash, err, r.Hash)
		}
	}
}

// TestHashedFieldsAreOmittedWhenEmpty holds that a field which is added to a type that is hashed
// changes no hash where it is empty.
func TestHashedFieldsAreOmittedWhenEmpty(t *testing.T) {
	leaktest.Check(t)
	// of the first version
	always := map[string]bool{"Volume.name": true, "HostPathVolumeSource.path": true}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[v1alpha1.BundleProcess](), reflect.TypeFor[v1alpha1.Volume](),
		reflect.TypeFor[corev1.HostPathVolumeSource](), reflect.TypeFor[corev1.EmptyDirVolumeSource](),
	} {
		for i := range typ.NumField() {
			name, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name = typ.Name() + "." + name; !always[name] && !strings.Contains(options, "omit") {
				t.Errorf("%s has no omitempty: the hash of every container with this type changes", name)
			}
		}
	}
}

// TestHashHasEveryField: an edit of a field that needs a new container is seen, whichever it is.
func TestHashHasEveryField(t *testing.T) {
	leaktest.Check(t)
	// The agent reads these each time that it needs them, or they say nothing of the container.
	read := map[string]bool{
		"ContainerRef": true, "Former": true, "NodeName": true, "RestartPolicy": true,
		"TerminationGracePeriodSeconds": true, "RestartBackOff": true, "Requests": true,
		"CompiledGeneration": true, "MinAgentRevision": true, "Downward": true,
		"OnConfigChange": true, "ConfigChangeSignal": true, "DependsOn": true, "VolumePullSecrets": true,
		"SeccompProfile": true, // the source puts it into config
	}
	spec := v1alpha1.OCIBundleSpec{Config: runtime.RawExtension{Raw: []byte(`{}`)}}
	before, err := Hash(&spec)
	if err != nil {
		t.Fatal(err)
	}
	of := reflect.TypeFor[v1alpha1.OCIBundleSpec]()
	for i := range of.NumField() {
		name := of.Field(i).Name
		changed := spec
		switch f := reflect.ValueOf(&changed).Elem().Field(i); f.Addr().Interface().(type) {
		case *runtime.RawExtension:
			changed.Config.Raw = []byte(`{"hostname":"x"}`)
		case **v1alpha1.BundleImage:
			changed.Image = &v1alpha1.BundleImage{Reference: "x"}
		case *v1alpha1.BundleProcess:
			changed.Process.Command = []string{"x"}
		default:
			switch f.Kind() {
			case reflect.Pointer:
				f.Set(reflect.New(f.Type().Elem()))
			case reflect.Slice:
				f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			case reflect.Map:
				f.Set(reflect.MakeMap(f.Type()))
			case reflect.Bool:
				f.SetBool(true)
			case reflect.String:
				f.SetString("x")
			default:
				f.SetInt(1)
			}
		}
		after, err := Hash(&changed)
		if err != nil {
			t.Fatal(err)
		}
		if (after != before) == read[name] {
			t.Errorf("%s: found hash changed %t; want %t", name, after != before, !read[name])
		}
	}
}
