// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
)

// summaryOf is what Ready says of a bundle's status.
func summaryOf(st v1alpha1.OCIBundleStatus) status.Summary {
	return status.OfRun(st.Phase, st.Conditions)
}

func TestFailureOfARootfsContainerIsReported(t *testing.T) {
	cases := map[string]struct {
		spoil func(*v1alpha1.OCIBundle)
		ready status.Summary
		image metav1.ConditionStatus
	}{
		"handler": {func(b *v1alpha1.OCIBundle) { b.Spec.Handler = "kata" },
			status.NotReady(status.Reconciling, v1alpha1.ReasonHandlerNotFound, `found "kata"`), metav1.ConditionUnknown},
		"root filesystem": {func(b *v1alpha1.OCIBundle) {
			b.Spec.Config.Raw = []byte(`{"ociVersion":"1.3.0","root":{"path":"/no/such/folder"}}`)
		}, status.NotReady(status.Reconciling, v1alpha1.ReasonCreateFailed, "found nothing at /no/such/folder"), metav1.ConditionFalse},
		"volume": {func(b *v1alpha1.OCIBundle) {
			b.Spec.Volumes = []v1alpha1.Volume{{Name: "data", HostPath: &corev1.HostPathVolumeSource{Path: "/no/such", Type: new(corev1.HostPathDirectory)}}}
		}, status.NotReady(status.Reconciling, v1alpha1.ReasonCreateFailed, "/no/such"), metav1.ConditionTrue},
		"config": {func(b *v1alpha1.OCIBundle) { b.Spec.Process.Command = nil },
			status.NotReady(status.Reconciling, v1alpha1.ReasonCreateFailed, "process.args"), metav1.ConditionTrue},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c.spoil)
			b.until("report of the failure", func() bool {
				return b.source.last().State.Waiting != nil && b.source.last().State.Waiting.Reason == c.ready.Reason
			})
			st := b.source.last()
			got := summaryOf(st)
			if got.Ready != c.ready.Ready || got.Reason != c.ready.Reason || got.Outlook != c.ready.Outlook || !strings.Contains(got.Message, c.ready.Message) {
				t.Errorf("found %+v; wanted %+v", got, c.ready)
			}
			image := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionImageReady)
			if image == nil || image.Status != c.image || strings.Contains(image.Message, "not looked at yet") {
				t.Errorf("ImageReady is %+v; wanted %s", image, c.image)
			}
		})
	}
}
