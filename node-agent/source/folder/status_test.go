// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// TestProgressDeadlineOfOneHost has a deadline of a second, which passes while nothing else
// happens.
func TestProgressDeadlineOfOneHost(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	err := os.WriteFile(filepath.Join(dir, "a.yaml"),
		[]byte(container("a", ", progressDeadlineSeconds: 1")), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	run := func() (f *Folder, stop func()) {
		f = newFolder(t, dir, state)
		ctx, cancel := context.WithCancel(context.Background())
		e := events{changed: make(chan source.Key, 10), synced: make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx, e) }()
		<-e.synced
		return f, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	report := func(f *Folder, running metav1.ConditionStatus, reason string) {
		t.Helper()
		b := f.Get(key("a"))
		st := b.Status.DeepCopy()
		st.ObservedGeneration, st.Phase = b.Generation, v1alpha1.ContainerRunning
		st.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionRunning, Status: running,
			Reason: reason, Message: "said", LastTransitionTime: metav1.Now(),
		}}
		if err := f.ReportStatus(t.Context(), b, st); err != nil {
			t.Fatal(err)
		}
	}
	// until waits for Stalled with a message that contains cause, or for none.
	until := func(cause string) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
			all, err := Read(state)
			if err != nil || len(all) != 1 {
				t.Fatalf("found %d Containers, %v", len(all), err)
			}
			conditions := all[0].Status.Conditions
			c := meta.FindStatusCondition(conditions, v1alpha1.ConditionStalled)
			if c == nil && cause == "" && meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionReady) {
				return
			}
			if c != nil && cause != "" && c.Reason == v1alpha1.ReasonProgressDeadlineExceeded &&
				strings.Contains(c.Message, cause) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("never came: %q; found %+v", cause, conditions)
			}
		}
	}

	f, stop := run()
	until("not looked at yet")
	report(f, metav1.ConditionTrue, v1alpha1.ReasonStarted)
	until("")
	report(f, metav1.ConditionFalse, v1alpha1.ReasonCrashLoopBackOff)
	stop()

	// The next agent does not begin the time afresh, nor does it need a report.
	f, stop = run()
	defer stop()
	until("CrashLoopBackOff: said")
	report(f, metav1.ConditionTrue, v1alpha1.ReasonStarted)
	until("")
}

// TestStatusOfAnotherBoot reads the status of a container that ran before the machine was started
// again. Nobody may take it for running, and its restarts are counted on.
func TestStatusOfAnotherBoot(t *testing.T) {
	t.Run("accepted", func(t *testing.T) { testStatusOfAnotherBoot(t, nil) })
	t.Run("refused by this version", func(t *testing.T) { testStatusOfAnotherBoot(t, refuseAll) })
}

func testStatusOfAnotherBoot(t *testing.T, compile Compile) {
	dir, state := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(container("a", "")),
		0o600); err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, state)
	f.scan()
	running := &v1alpha1.OCIBundleStatus{ObservedGeneration: 1, Phase: v1alpha1.ContainerRunning}
	running.PID, running.RestartCount = 42, 3
	running.State.Running = &corev1.ContainerStateRunning{}
	meta.SetStatusCondition(&running.Conditions, condition(v1alpha1.ConditionRunning, "True"))
	if err := f.ReportStatus(t.Context(), f.Get(key("a")), running); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{
		Dir: dir, StateDir: state, NodeName: "node-1",
		NewBoot: true, Compile: compile,
	}); err != nil {
		t.Fatal(err)
	}
	all, err := Read(state)
	if err != nil || len(all) != 1 {
		t.Fatalf("found %+v, %v", all, err)
	}
	st := all[0].Status
	if st.Phase != v1alpha1.ContainerPending || st.PID != 0 || st.State.Running != nil ||
		st.State.Waiting == nil {
		t.Errorf("found %+v; want a container that waits to be looked at", st)
	}
	if st.ObservedGeneration == all[0].Generation || meta.IsStatusConditionTrue(st.Conditions,
		v1alpha1.ConditionReady) {
		t.Errorf("found %+v; want a status that says that it is old", st)
	}
	if st.RestartCount != 3 {
		t.Errorf("found %d restarts; want 3", st.RestartCount)
	}
}
