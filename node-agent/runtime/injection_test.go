// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/launch"
	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// TestFailureOfEveryStep: whichever step of a plan fails, the error says which, for what field and in what phase, and nothing is left
// (newWorld looks). A step that the plan goes around is none that could fail.
func TestFailureOfEveryStep(t *testing.T) {
	w := newWorld(t)
	w.write("/data/file", "", 0o644)
	spec := w.inUserNamespace(w.sh("true"))
	spec.Linux.Sysctl = map[string]string{"kernel.msgmax": "4242"}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = []string{"/proc/keys", "/data"}, []string{"/proc/sys"}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 77}}
	spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}}
	spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch}
	spec.Process.Capabilities.Inheritable, spec.Process.Capabilities.Ambient = spec.Process.Capabilities.Bounding, spec.Process.Capabilities.Bounding
	w.save(spec)
	failed, phases, fields := 0, map[plan.Sync]bool{}, map[string]bool{}
	for i := 0; ; i++ {
		steps, err := w.runWithout(i)
		if i >= steps {
			break
		}
		if err == nil {
			continue
		}
		var step *launch.StepError
		switch {
		case !errors.As(err, &step):
			t.Errorf("step %d: found %T: %v", i, err, err)
		case step.Index != i || step.Errno != unix.ENOSYS || step.Phase == "" || step.Field.Path == "" || step.Call == "" || step.Name == "" || step.Cause == "" || err.Error() == "":
			t.Errorf("step %d: found %+v: %v", i, step, err)
		default:
			failed++
			phases[step.Phase], fields[step.Field.Path] = true, true
		}
	}
	if failed < 100 || !phases[plan.SyncIDMap] || !phases[plan.SyncExec] {
		t.Errorf("%d steps failed, in the phases %v", failed, phases)
	}
	for _, f := range []string{"linux.namespaces", "linux.timeOffsets", "linux.uidMappings", "mounts", "linux.devices (default)", "linux.sysctl.kernel.msgmax", "linux.readonlyPaths", "linux.maskedPaths", "root",
		"hostname", "process.cwd", "process.rlimits", "process.scheduler", "process.capabilities", "process.capabilities.ambient", "process.user", "process.noNewPrivileges", "linux.seccomp", "process.args"} {
		if !fields[f] {
			t.Errorf("no step for %s has failed", f)
		}
	}
}

// noCall is a system call that no kernel has.
const noCall = 1 << 12

// runWithout runs the bundle's container with a step of its plan in the place of which the kernel is asked for a call that it does not have,
// and returns how many steps the plan has. What is no system call is left as it is.
func (w *world) runWithout(step int) (steps int, err error) {
	w.t.Helper()
	ctx := context.Background()
	m := &maker{r: w.rt, o: CreateOptions{Bundle: w.bundle()}, inputs: map[plan.Input]int{}}
	defer func() {
		m.letGo()
		for _, f := range m.close {
			f.Close()
		}
		for i := len(m.undo) - 1; i >= 0; i-- {
			m.undo[i]()
		}
	}()
	for _, do := range []func(context.Context) error{
		m.readConfig,
		func(context.Context) error { return m.withoutProcess(true) },
		func(context.Context) error { return m.reserve(w.id) },
		func(context.Context) error { return m.makeCgroup(w.id) },
		m.openStreams,
		func(ctx context.Context) error { return m.makePlan(ctx, w.id, true) },
	} {
		w.must(do(ctx))
	}
	if step >= len(m.plan.Steps) {
		return len(m.plan.Steps), nil
	}
	s := &m.plan.Steps[step]
	if s.Call >= plan.OpSet || s.Field.Path == "process.capabilities.bounding" { // which has some forty that are alike
		return len(m.plan.Steps), nil
	}
	s.Call, s.Tolerate, s.Must = noCall, nil, 0
	if err = m.launch(ctx, true); err == nil {
		m.child.Wait()
	}
	return len(m.plan.Steps), err
}
