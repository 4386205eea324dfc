// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// errOOM is returned if a container's memory limit does not suffice to start its program.
var errOOM = errors.New(
	"unable to start container process: linux.resources.memory.limit: container init was OOM-killed (memory limit too low?)")

// explainLaunch converts the failure of a launch to an error that says what to change. It uses the
// words that clients of runc look for.
func explainLaunch(err error, spec *specs.Spec, group *cgroup.Group) error {
	var step *launch.StepError
	if errors.As(err, &step) {
		return explainStep(err, step, spec, group)
	}
	var killed *launch.KilledError
	if errors.As(err, &killed) && group.OOMKills() > 0 {
		return errOOM
	}
	return fmt.Errorf("unable to start container process: %w", err)
}

// explainStep explains a failed step, which err wraps.
func explainStep(err error, step *launch.StepError, spec *specs.Spec, group *cgroup.Group) error {
	isProgram := step.Name == "faccessat" || step.Name == "faccessat2"
	switch {
	case isProgram && step.Field.Path == "process.args":
		return &reworded{programError(spec.Process.Args[0], step.Errno), step}
	case step.Name == "execve":
		return &reworded{execError(spec.Process.Args[0], step.Errno), step}
	case step.Field.Path == "process.cwd":
		return fmt.Errorf(
			"unable to start container process: chdir to cwd (%q) set in config.json failed: %w",
			spec.Process.Cwd, &becauseOf{step})
	case step.Errno == unix.ENOMEM && group.OOMKills() > 0:
		return fmt.Errorf("%w: %w", errOOM, err)
	}
	if cause := causeInUserNamespace(step, spec); cause != "" {
		step.Cause = cause
	} else if deadlineOnSomeCPUs(step, spec) {
		step.Cause = "process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus): SCHED_DEADLINE takes all processors of the host"
	}
	return fmt.Errorf("unable to start container process: %w", err)
}

// deadlineOnSomeCPUs reports whether the kernel may have refused SCHED_DEADLINE because the
// container does not have all processors (sched_setattr(2), EPERM).
func deadlineOnSomeCPUs(step *launch.StepError, spec *specs.Spec) bool {
	if step.Field.Path != "process.scheduler" || step.Errno != unix.EPERM ||
		spec.Process.Scheduler == nil || spec.Linux.Resources == nil {
		return false
	}
	cpu := spec.Linux.Resources.CPU
	return spec.Process.Scheduler.Policy == specs.SchedDeadline && cpu != nil && cpu.Cpus != ""
}

// reworded is a failed step in the words that clients of runc look for.
type reworded struct {
	error
	step *launch.StepError
}

func (e *reworded) Unwrap() []error { return []error{e.error, e.step} }

// becauseOf is a failed step whose errno comes first, where clients look for it.
type becauseOf struct{ step *launch.StepError }

func (e *becauseOf) Error() string { return fmt.Sprintf("%s (%s)", e.step.Errno, e.step) }
func (e *becauseOf) Unwrap() error { return e.step }

// ExplainProcessFault returns the error of a process that validation refuses in the words that
// clients look for: with runc a program without a name is one that is not found.
func ExplainProcessFault(p *specs.Process, err error) error {
	if err == nil || p == nil || len(p.Args) == 0 || p.Args[0] != "" {
		return err
	}
	return fmt.Errorf("%w: %w", err, programError("", unix.ENOENT))
}

// explainMemoryPolicyFault adds runc's words to the error of a linux.memoryPolicy that validation
// refuses.
func explainMemoryPolicyFault(linux *specs.Linux, err error) error {
	var faults document.Faults
	if !errors.As(err, &faults) || linux == nil || linux.MemoryPolicy == nil {
		return err
	}
	for _, fault := range faults {
		field, ok := strings.CutPrefix(fault.Path, "linux.memoryPolicy.")
		if !ok {
			continue
		}
		field, _, _ = strings.Cut(field, "[")
		words := "invalid memory policy " + strings.TrimSuffix(field, "s") // mode, flag or node
		mode := linux.MemoryPolicy.Mode
		if field == "nodes" && (mode == specs.MpolDefault || mode == specs.MpolLocal) {
			words = fmt.Sprintf("%s mode requires 0 nodes but got %d", mode,
				plan.CountNodes(linux.MemoryPolicy.Nodes))
		}
		return fmt.Errorf("%w: %s", err, words)
	}
	return err
}

// explainLate explains a step that failed after Create had returned, in another process.
func (r *Runtime) explainLate(rec *record, late *launch.LateError) error {
	for _, s := range rec.Late {
		if s.Index != late.Step {
			continue
		}
		if s.Name == "execve" {
			return execError(s.Program, late.Errno)
		}
		err := fmt.Errorf("unable to start container process: %s: %s: %w", s.Field, s.Name, late.Errno)
		if cause := plan.Cause(s.Field, s.Name, late.Errno); cause != "" {
			err = fmt.Errorf("%w; likely cause: %s", err, cause)
		}
		return err
	}
	return fmt.Errorf("unable to start container process: step %d: %w", late.Step, late.Errno)
}

// programError returns the error of a program that was not found or cannot be executed.
func programError(program string, errno unix.Errno) error {
	if !strings.Contains(program, "/") {
		// Wherever it was looked for last: runc has one answer for all of PATH, and clients know
		// it.
		return fmt.Errorf(
			"unable to start container process: exec: %q: executable file not found in $PATH", program)
	}
	switch errno {
	case unix.EACCES:
		return fmt.Errorf("unable to start container process: exec: %q: %w", program, unix.EACCES)
	case unix.EISDIR:
		return fmt.Errorf("unable to start container process: exec: %q: %w", program, unix.EISDIR)
	}
	return fmt.Errorf("unable to start container process: exec: %q: stat %s: %w", program,
		program, errno)
}

// execError returns the error of a program that exists and that the kernel did not execute.
func execError(program string, errno unix.Errno) error {
	switch errno {
	case unix.ENOENT:
		return fmt.Errorf(
			"unable to start container process: exec %s: %w (its interpreter or loader is missing from the root filesystem)", program, errno)
	case unix.ENOEXEC:
		return fmt.Errorf(
			"unable to start container process: exec %s: %w (neither a program for this machine nor a script with #!)", program, errno)
	}
	return fmt.Errorf("unable to start container process: exec %s: %w", program, errno)
}
