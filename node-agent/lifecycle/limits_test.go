// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// TestUpdate: the supervisor gets the limits that change and what they were; what it answers is the
// container's fault with the path of the field, and anything else is not known.
func TestUpdate(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.c.Running = n.c.Bundle.DeepCopy()
	n.c.Running.Spec.Config.Raw = []byte(
		`{"linux":{"resources":{"cpu":{"shares":2},"pids":{"limit":9}}}}`)
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
		{
			&protocol.Error{Message: "update x: linux.resources.memory.limit: no"}, ContainerFault,
			"config.linux.resources.memory.limit: no",
		},
		{&protocol.Error{Message: "linux.resources: runc update x: no"}, ContainerFault, both +
			"runc update x: no"},
		{&protocol.Error{Message: "no"}, ContainerFault, both + "no"},
		{&protocol.Error{Code: "Invalid", Message: "op"}, ContainerFault, both +
			"the supervisor of this node is older than the agent and cannot change a running" +
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
	// The log's, with the agent's default for what the bundle does not set; a refusal names all
	// fields.
	n.super.fail["update"] = nil
	logged := n.c.Bundle.DeepCopy()
	logged.Spec.Logging = &v1alpha1.Logging{MaxSize: new(resource.MustParse("1Mi"))}
	logged.Spec.RestartBackOff = &v1alpha1.RestartBackOff{MaxSeconds: new(int32(1))}
	for _, tc := range []struct {
		from, to *v1alpha1.OCIBundle
		want     string
	}{
		{n.c.Bundle, logged, `{"log":{"maxBytes":1048576,"maxFiles":5}}`},
		{
			n.c.Running, logged,
			`{"to":{"cpu":{"shares":512},"pids":{"limit":-1}},"before":{"cpu":{"shares":2},"pids":{"limit":9}},"log":{"maxBytes":1048576,"maxFiles":5}}`,
		},
		{logged, n.c.Bundle, `{"log":{"maxFiles":5}}`},
	} {
		c := *n.c
		c.Running, c.Bundle = tc.from, tc.to
		err := n.stages.Update(t.Context(), &c, change.Classify(&tc.from.Spec, &tc.to.Spec))
		if err != nil {
			t.Error(err)
		}
		if got, _ := json.Marshal(n.super.update); string(got) != tc.want {
			t.Errorf("got %s; want %s", got, tc.want)
		}
	}
	n.super.fail["update"] = &protocol.Error{Message: "log: record: no space left on device"}
	c := *n.c
	c.Bundle = logged
	err := n.stages.Update(t.Context(), &c, change.Classify(&c.Running.Spec, &logged.Spec))
	if want := "config.linux.resources.cpu.shares, config.linux.resources.pids.limit, logging.maxSize: log: record: no space left on device"; err == nil || err.Error() != want {
		t.Errorf("got %v; want %s", err, want)
	}
	// How it is run is the agent's own business.
	n.super.fail["update"] = errors.New("asked")
	again := n.c.Bundle.DeepCopy()
	again.Spec.TerminationGracePeriodSeconds = 7
	if err := n.stages.Update(t.Context(), n.c, change.Classify(&n.c.Bundle.Spec,
		&again.Spec)); err != nil {
		t.Error(err)
	}
}

// TestUpdateOfSwap: limits of memory, and of memory and swap together, are given to the supervisor
// together, also if one of them stays as it is. A node that counts no swap refuses the latter.
func TestUpdateOfSwap(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.c.Running = n.c.Bundle.DeepCopy()
	config := func(limit, swap int) []byte {
		return fmt.Appendf(nil, `{"linux":{"resources":{"memory":{"limit":%d,"swap":%d}}}}`, limit, swap)
	}
	n.c.Running.Spec.Config.Raw = config(64, 80)
	for name, tc := range map[string]struct{ limit, swap int }{
		"more swap":                {64, 96},
		"swap in place of memory":  {48, 80},
		"more memory and its swap": {96, 112},
	} {
		n.c.Bundle.Spec.Config.Raw = config(tc.limit, tc.swap)
		err := n.stages.Update(t.Context(), n.c, change.Classify(&n.c.Running.Spec, &n.c.Bundle.Spec))
		if !bundle.SwapLimit(os.DirFS("/")) {
			if err == nil || !strings.HasPrefix(err.Error(), "spec.resources.limits[swap]: found ") {
				t.Errorf("%s: found %v; want a refusal", name, err)
			}
			continue
		}
		want := fmt.Sprintf(`{"to":{"memory":{"limit":%d,"swap":%d,"checkBeforeUpdate":true}},`+
			`"before":{"memory":{"limit":64,"swap":80,"checkBeforeUpdate":true}}}`, tc.limit, tc.swap)
		if got, _ := json.Marshal(n.super.update); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v; want %s", name, got, err, want)
		}
	}
}

// TestLogLimitsOfAContainerAreTheSupervisors: the supervisor accepts exactly the log limits that a
// Container may have.
func TestLogLimitsOfAContainerAreTheSupervisors(t *testing.T) {
	leaktest.Check(t)
	for limits, taken := range map[protocol.LogLimits]bool{
		{MaxBytes: v1alpha1.MinLogSize, MaxFiles: v1alpha1.MinLogFiles}:     true,
		{MaxBytes: v1alpha1.MinLogSize, MaxFiles: v1alpha1.MaxLogFiles}:     true,
		{MaxBytes: v1alpha1.MinLogSize - 1, MaxFiles: v1alpha1.MinLogFiles}: false,
		{MaxBytes: v1alpha1.MinLogSize, MaxFiles: v1alpha1.MinLogFiles - 1}: false,
		{MaxBytes: v1alpha1.MinLogSize, MaxFiles: v1alpha1.MaxLogFiles + 1}: false,
		{MaxBytes: 1<<63 - 1, MaxFiles: v1alpha1.MaxLogFiles}:               true,
	} {
		r := protocol.UpdateRequest{Log: &limits}
		if err := r.Validate(); (err == nil) != taken {
			t.Errorf("%+v: %v", limits, err)
		}
	}
}
