// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// TestUpdate: the supervisor gets the limits that change and what they were; what it answers is the container's fault with the path
// of the field, and anything else is not known.
func TestUpdate(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.c.Running = n.c.Bundle.DeepCopy()
	n.c.Running.Spec.Config.Raw = []byte(`{"linux":{"resources":{"cpu":{"shares":2},"pids":{"limit":9}}}}`)
	n.c.Bundle.Spec.Config.Raw = []byte(`{"linux":{"resources":{"cpu":{"shares":512}}}}`)
	set := change.Classify(&n.c.Running.Spec, &n.c.Bundle.Spec)
	if err := n.stages.Update(t.Context(), n.c, set); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(n.super.update)
	if want := `{"to":{"cpu":{"shares":512},"pids":{"limit":-1}},"before":{"cpu":{"shares":2},"pids":{"limit":9}}}`; string(got) != want {
		t.Errorf("got %s; want %s", got, want)
	}
	both := "config.linux.resources.cpu.shares, config.linux.resources.pids.limit: "
	for _, tc := range []struct {
		err   error
		class Class
		text  string
	}{
		{&protocol.Error{Message: "update x: linux.resources.memory.limit: no"}, ContainerFault, "config.linux.resources.memory.limit: no"},
		{&protocol.Error{Message: "linux.resources: runc update x: no"}, ContainerFault, both + "runc update x: no"},
		{&protocol.Error{Message: "no"}, ContainerFault, both + "no"},
		{&protocol.Error{Code: "Invalid", Message: "op"}, ContainerFault, both + "the supervisor of this node is older than the agent and cannot change a running" +
			" container: upgrade it with berth supervise --upgrade: op"},
		{&protocol.Error{Code: "Stopping", Message: "ends"}, Unknown, "ends"},
		{&protocol.Error{Code: "NotRunning", Message: "ended"}, Unknown, "ended"},
		{fmt.Errorf("lost: %w", protocol.ErrUnknownOutcome), Unknown, "lost: outcome unknown"},
		{errors.New("connection refused"), Unknown, "connection refused"},
	} {
		n.super.fail["update"] = tc.err
		var fault *StageError
		err := n.stages.Update(t.Context(), n.c, set)
		if !errors.As(err, &fault) || fault.Class != tc.class || fault.Error() != tc.text {
			t.Errorf("%v: found %+v (%v)", tc.err, fault, err)
		}
		if tc.class == ContainerFault && fault.Reason != v1alpha1.ReasonUpdateRefused {
			t.Errorf("%v: the reason is %s", tc.err, fault.Reason)
		}
	}
	// How it is run is the agent's own business.
	n.super.fail["update"] = errors.New("asked")
	again := n.c.Bundle.DeepCopy()
	again.Spec.TerminationGracePeriodSeconds = 7
	if err := n.stages.Update(t.Context(), n.c, change.Classify(&n.c.Bundle.Spec, &again.Spec)); err != nil {
		t.Error(err)
	}
}
