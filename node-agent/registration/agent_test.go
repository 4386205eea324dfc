// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestNetworkCondition: the condition has the reason for which containers cannot be connected, but
// no more of it than the API server takes.
func TestNetworkCondition(t *testing.T) {
	c := networkCondition(Load{Network: "network front"})
	if c.Status != metav1.ConditionTrue || c.Message != "network front" {
		t.Errorf("found %+v; want True", c)
	}
	const most = 32768 // of metav1.Condition
	text := "no route " + strings.Repeat("x", most)
	c = networkCondition(Load{Network: "network front", NetworkErr: errors.New(text)})
	if c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonNetworkNotReady ||
		!strings.HasPrefix(c.Message, "no route ") || len(c.Message) > most {
		t.Errorf("found %s, %s and %d bytes that begin with %.20s; want at most %d", c.Status, c.Reason,
			len(c.Message), c.Message, most)
	}
}
