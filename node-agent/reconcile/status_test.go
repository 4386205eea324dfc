// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/oci/seccompref"
	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/source"
)

// summaryOf returns the Ready condition of a bundle's status.
func summaryOf(st v1alpha1.OCIBundleStatus) status.Summary {
	return status.OfRun(st.Phase, st.Conditions)
}

func TestFailureOfARootfsContainerIsReported(t *testing.T) {
	cases := map[string]struct {
		spoil func(*v1alpha1.OCIBundle)
		ready status.Summary
		image metav1.ConditionStatus
	}{
		"handler": {
			func(b *v1alpha1.OCIBundle) { b.Spec.Handler = "kata" },
			status.NotReady(status.Reconciling, v1alpha1.ReasonHandlerNotFound, `found "kata"`),
			metav1.ConditionUnknown,
		},
		"root filesystem": {func(b *v1alpha1.OCIBundle) {
			b.Spec.Config.Raw = []byte(`{"ociVersion":"1.3.0","root":{"path":"/no/such/folder"}}`)
		}, status.NotReady(status.Reconciling, v1alpha1.ReasonCreateFailed,
			"found nothing at /no/such/folder"), metav1.ConditionFalse},
		"volume": {
			func(b *v1alpha1.OCIBundle) {
				b.Spec.Volumes = []v1alpha1.Volume{{
					Name:     "data",
					HostPath: &corev1.HostPathVolumeSource{Path: "/no/such", Type: new(corev1.HostPathDirectory)},
				}}
			}, status.NotReady(status.Reconciling, v1alpha1.ReasonCreateFailed, "/no/such"),
			metav1.ConditionTrue,
		},
		"config": {
			func(b *v1alpha1.OCIBundle) { b.Spec.Process.Command = nil },
			status.NotReady(status.Reconciling, v1alpha1.ReasonCreateFailed, "process.args"),
			metav1.ConditionTrue,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c.spoil)
			b.until("report of the failure", func() bool {
				return b.source.last().State.Waiting != nil &&
					b.source.last().State.Waiting.Reason == c.ready.Reason
			})
			st := b.source.last()
			got := summaryOf(st)
			if got.Ready != c.ready.Ready || got.Reason != c.ready.Reason ||
				got.Outlook != c.ready.Outlook || !strings.Contains(got.Message, c.ready.Message) {
				t.Errorf("found %+v; wanted %+v", got, c.ready)
			}
			image := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionImageReady)
			if image == nil || image.Status != c.image || strings.Contains(image.Message,
				"not looked at yet") {
				t.Errorf("ImageReady is %+v; wanted %s", image, c.image)
			}
		})
	}
}

// TestLongMessageIsCutBetweenLetters: a message that the API server would refuse is cut, and stays
// text.
func TestLongMessageIsCutBetweenLetters(t *testing.T) {
	leaktest.Check(t)
	for shift := range 3 {
		in := Input{Desired: desired(corev1.RestartPolicyAlways), Record: record(stateNone,
			func(r *Record) {
				r.Failure = &failure{}
			})}
		in.Record.Failure.Message = strings.Repeat("x", shift) + strings.Repeat("日本", status.MaxMessage)
		st := Status(in, &v1alpha1.OCIBundleStatus{}, nil)
		for _, message := range []string{st.State.Waiting.Message, meta.FindStatusCondition(st.Conditions,
			v1alpha1.ConditionRunning).Message} {
			if !utf8.ValidString(message) || len(message) > status.MaxMessage ||
				len(message) < status.MaxMessage-100 {
				t.Errorf("found %d bytes, valid %v, which end in %q", len(message), utf8.ValidString(message),
					message[len(message)-40:])
			}
		}
	}
}

// TestReferenceChangesNothing: a profile that an OCIBundle refers to makes the same container as
// one that it holds.
func TestReferenceChangesNothing(t *testing.T) {
	leaktest.Check(t)
	whole := v1alpha1.OCIBundleSpec{}
	whole.Config.Raw = []byte(
		`{"process":{"cwd":"/<&>"},"linux":{"seccomp":{"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":9007199254740993,"op":"SCMP_CMP_EQ"}]}],"defaultAction":"SCMP_ACT_ERRNO"}},"ociVersion":"1.3.0"}`)
	want, err := Hash(&whole)
	if err != nil {
		t.Fatal(err)
	}
	split := whole
	profile, err := seccompref.Split(&split)
	if err != nil {
		t.Fatal(err)
	}
	joined, err := seccompref.Join(&split, profile)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Hash(joined); err != nil || got != want {
		t.Errorf("the hash is %s (%v); wanted %s", got, err, want)
	}
}

// TestUnresolvedBundleLeavesItsContainer: a process goes on while the profile of its next spec
// cannot be read.
func TestUnresolvedBundleLeavesItsContainer(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	change := func(f func(*v1alpha1.OCIBundle)) {
		b.source.mu.Lock()
		next := b.source.bundle.DeepCopy()
		f(next)
		b.source.bundle = next
		b.source.mu.Unlock()
		b.syncer.Changed(keyNamed("x"))
	}
	change(func(o *v1alpha1.OCIBundle) {
		o.Generation++
		o.Annotations = map[string]string{source.AnnotationUnresolved: "spec.seccompProfile: not found"}
		o.Spec.Process.Command = []string{"/next"}
	})
	b.until("a report of that", func() bool {
		c := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionAccepted)
		return c != nil && c.Reason == v1alpha1.ReasonUnresolved && strings.Contains(c.Message,
			"not found; the container goes on")
	})
	if got := summaryOf(b.source.last()); got.Outlook != status.Reconciling ||
		got.Reason != v1alpha1.ReasonUnresolved {
		t.Errorf("found %+v", got)
	}
	if kills := b.kills(); len(kills) > 0 {
		t.Errorf("it was sent %v", kills)
	}
	change(func(o *v1alpha1.OCIBundle) { o.Annotations = nil })
	b.until("the stop of what is replaced", func() bool { return len(b.kills()) > 0 })
}

// TestHashIsComputedOnce: a document's worth of garbage a look is what an agent's memory was made
// of.
func TestHashIsComputedOnce(t *testing.T) {
	leaktest.Check(t)
	b := &v1alpha1.OCIBundle{}
	b.UID, b.Generation = "u", 1
	b.Spec.Config.Raw = []byte(`{"hostname":"a"}`)
	var l lastHash
	first := l.of(b)
	if first != hashOf(b) {
		t.Errorf("found %s; wanted %s", first, hashOf(b))
	}
	if n := testing.AllocsPerRun(10, func() { l.of(b) }); n > 0 {
		t.Errorf("another look at the same bundle takes %v allocations", n)
	}
	next := b.DeepCopy()
	next.Generation, next.Spec.Config.Raw = 2, []byte(`{"hostname":"b"}`)
	other := b.DeepCopy()
	other.UID, other.Spec.Config.Raw = "v", []byte(`{"hostname":"c"}`)
	incomplete := other.DeepCopy()
	incomplete.Generation, incomplete.Spec.Config.Raw = 2, []byte(`{}`)
	incomplete.Annotations = map[string]string{source.AnnotationUnresolved: "not there"}
	complete := incomplete.DeepCopy()
	complete.Annotations, complete.Spec.Config.Raw = nil, []byte(`{"hostname":"d"}`)
	for _, b := range []*v1alpha1.OCIBundle{next, other, incomplete, complete, nil} {
		if got, want := l.of(b), hashOf(b); got != want {
			t.Errorf("%+v: found %s; wanted %s", b, got, want)
		}
	}
}

// TestStartIsReportedOnce: a start that goes well is one write of the OCIBundle's status.
func TestStartIsReportedOnce(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	for range 3 {
		b.syncer.Changed(keyNamed("x"))
		b.until("the end of that look", func() bool {
			b.syncer.mu.Lock()
			defer b.syncer.mu.Unlock()
			return !b.syncer.workers[keyNamed("x")].active
		})
	}
	b.source.mu.Lock()
	defer b.source.mu.Unlock()
	if n := len(b.source.reports); n != 1 {
		t.Errorf("a start took %d reports: %+v", n, b.source.reports)
	}
}

// TestRestartCountOfAStart reads the count of restarts while a start waits. It may yet be
// interrupted, and a count that was reported is not taken back.
func TestRestartCountOfAStart(t *testing.T) {
	leaktest.Check(t)
	before := run{Restarts: 4, StartedAt: time.Now(), Exit: &corev1.ContainerStateTerminated{}}
	for state, want := range map[runState]int32{stateStarting: 4, stateRunning: 5} {
		r := &Record{State: state, run: before.next()}
		if state == stateStarting {
			r.Before = &before
		}
		in := Input{Desired: &v1alpha1.OCIBundle{}, Record: r, Now: time.Now()}
		if got := Status(in, &v1alpha1.OCIBundleStatus{}, nil).RestartCount; got != want {
			t.Errorf("%s: found %d restarts; want %d", state, got, want)
		}
	}
}

// TestDegradedIsReportedOnce: a report that only renews the time of a condition brings about the
// next one.
func TestDegradedIsReportedOnce(t *testing.T) {
	leaktest.Check(t)
	in := Input{
		Desired: &v1alpha1.OCIBundle{},
		Record:  &Record{unreadable: errors.New("unexpected end of JSON input")},
		Now:     time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	first := Status(in, &v1alpha1.OCIBundleStatus{}, nil)
	in.Now = in.Now.Add(time.Minute)
	second := Status(in, first, nil)
	if !apiequality.Semantic.DeepEqual(first, second) {
		t.Errorf("a minute later: found %+v; want %+v", second, first)
	}
	in.Record = &Record{}
	healed := Status(in, second, nil)
	if c := meta.FindStatusCondition(healed.Conditions, v1alpha1.ConditionDegraded); c != nil {
		t.Errorf("the record can be read again: found %+v", c)
	}
}
