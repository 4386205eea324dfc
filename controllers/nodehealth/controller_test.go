// SPDX-License-Identifier: Apache-2.0

package nodehealth

import (
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

func TestVerdict(t *testing.T) {
	condition := func(status metav1.ConditionStatus, reason string) *v1alpha1.NodeAgent {
		return &v1alpha1.NodeAgent{Status: v1alpha1.NodeAgentStatus{Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Status: status, Reason: reason},
		}}}
	}
	const grace = 40 * time.Second
	beats, stands := pulse{beat: "x", moved: true}, pulse{beat: "x"}
	cases := map[string]struct {
		agent   *v1alpha1.NodeAgent
		pulse   pulse
		silence time.Duration
		want    metav1.ConditionStatus
	}{
		"fresh": {
			condition(metav1.ConditionTrue, "AgentReady"), beats,
			39 * time.Second, "",
		},
		"silent": {
			condition(metav1.ConditionTrue, "AgentReady"), beats, grace,
			metav1.ConditionUnknown,
		},
		"silent and not ready before": {
			condition(metav1.ConditionFalse, "NoCgroups"), beats, grace,
			metav1.ConditionUnknown,
		},
		"silent and said so already": {
			condition(metav1.ConditionUnknown, v1alpha1.ReasonNodeLost),
			beats, time.Hour, "",
		},
		"silent from the start": {
			&v1alpha1.NodeAgent{},
			pulse{},
			grace,
			metav1.ConditionUnknown,
		},
		"new": {&v1alpha1.NodeAgent{}, pulse{}, 0, ""},
		"back": {
			condition(metav1.ConditionUnknown, v1alpha1.ReasonNodeLost),
			beats, 0, metav1.ConditionTrue,
		},
		"lost, and no beat since we began": {
			condition(metav1.ConditionUnknown, v1alpha1.ReasonNodeLost),
			stands, 0, "",
		},
		"not ready by its own word": {condition(metav1.ConditionFalse, "NoCgroups"), beats, 0, ""},
		"unknown by its own word":   {condition(metav1.ConditionUnknown, "Starting"), beats, 0, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := verdict(c.agent, c.pulse, c.silence, grace)
			switch {
			case c.want == "" && got != nil:
				t.Errorf("found %+v; wanted nothing", got)
			case c.want != "" && (got == nil || got.Status != c.want):
				t.Errorf("found %+v; wanted %s", got, c.want)
			case got != nil && got.Status == metav1.ConditionUnknown && !strings.Contains(got.Message,
				"40s"):
				t.Errorf("the message does not say how long: %q", got.Message)
			}
		})
	}
}

func TestPulses(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	lease := func(s int64) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: at(s)}},
		}
	}
	var ps pulses
	if p := ps.observe("a", nil, at(100)); p.at != at(100) || p.moved {
		t.Errorf("without a Lease: %+v", p)
	}
	if p := ps.observe("a", nil, at(110)); p.at != at(100) {
		t.Errorf("a Lease that is not there was seen to beat: %+v", p)
	}
	if p := ps.observe("a", lease(1), at(120)); p.at != at(120) || !p.moved {
		t.Errorf("the first beat: %+v", p)
	}
	if p := ps.observe("a", lease(1), at(130)); p.at != at(120) {
		t.Errorf("the same beat counted twice: %+v", p)
	}
	// The clock of the node is an hour ahead: only that it moves counts.
	if p := ps.observe("a", lease(3600), at(131)); p.at != at(131) {
		t.Errorf("the next beat: %+v", p)
	}
	if p := ps.observe("a", nil, at(140)); p.at != at(131) {
		t.Errorf("the Lease was deleted: %+v", p)
	}
	// The first sight of a Lease does not say how old it is.
	if p := ps.observe("b", lease(1), at(200)); p.moved || p.at != at(200) {
		t.Errorf("the first sight: %+v", p)
	}
	ps.forget("a")
	if p := ps.observe("a", lease(3600), at(300)); p.moved {
		t.Errorf("forgotten: %+v", p)
	}
}
