// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// TestFailureOfEveryStep: whichever step of a plan fails, the error says which, for what field and
// in what phase, and nothing is left (newWorld looks). Steps that the plan skips are left out.
func TestFailureOfEveryStep(t *testing.T) {
	w := newWorld(t)
	w.write("/data/file", "", 0o644)
	spec := w.inUserNamespace(w.sh("true"))
	spec.Linux.Sysctl = map[string]string{"kernel.msgmax": "4242"}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = []string{"/proc/keys", "/data"},
		[]string{"/proc/sys"}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.TimeNamespace})
	spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 77}}
	spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}}
	// which takes no right
	spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 19}
	spec.Process.Capabilities.Inheritable,
		spec.Process.Capabilities.Ambient = spec.Process.Capabilities.Bounding,
		spec.Process.Capabilities.Bounding
	w.save(spec)
	var steps []plan.Step
	w.rt.change = func(p *plan.Plan) { steps = slices.Clone(p.Steps) }
	w.must(w.runToItsEnd())
	failed, phases, fields := 0, map[plan.Sync]bool{}, map[string]bool{}
	for i, s := range steps {
		// no system call, and some forty that are alike
		if s.Call >= plan.OpSet || s.Field.Path == "process.capabilities.bounding" {
			continue
		}
		w.rt.change = func(p *plan.Plan) {
			s := &p.Steps[i]
			s.Call, s.Tolerate, s.Must = noCall, nil, 0
		}
		err := w.runToItsEnd()
		if err == nil {
			continue
		}
		var step *launch.StepError
		switch {
		case !errors.As(err, &step):
			t.Errorf("step %d: found %T: %v", i, err, err)
		case step.Index != i || step.Errno != unix.ENOSYS || step.Phase == "" || step.Field.Path == "" ||
			step.Call == "" || step.Name == "" || step.Cause == "" || err.Error() == "":
			t.Errorf("step %d: found %+v: %v", i, step, err)
		default:
			failed++
			phases[step.Phase], fields[step.Field.Path] = true, true
		}
	}
	if failed < 100 || !phases[plan.SyncIDMap] || !phases[plan.SyncExec] {
		t.Errorf("%d steps failed, in the phases %v", failed, phases)
	}
	for _, f := range []string{
		"linux.namespaces", "linux.timeOffsets", "linux.uidMappings", "mounts", "linux.devices (default)",
		"linux.sysctl.kernel.msgmax", "linux.readonlyPaths", "linux.maskedPaths", "root",
		"hostname", "process.cwd", "process.rlimits", "process.scheduler", "process.capabilities",
		"process.capabilities.ambient", "process.user", "process.noNewPrivileges", "linux.seccomp",
		"process.args",
	} {
		if !fields[f] {
			t.Errorf("no step for %s has failed", f)
		}
	}
}

// noCall is a system call that no kernel has.
const noCall = 1 << 12

// runToItsEnd runs the bundle's container, and removes it.
func (w *world) runToItsEnd() error {
	w.t.Helper()
	p, err := w.rt.Run(background, w.id, CreateOptions{Bundle: w.bundle()})
	if err == nil {
		p.Wait()
		w.must(p.Delete(background))
	}
	return err
}
