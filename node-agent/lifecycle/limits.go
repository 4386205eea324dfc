// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// limitsStage changes the limits of a running container and of its log. A container is created with
// those of its bundle.
type limitsStage struct {
	supervisor  Supervisor
	logMaxBytes int64
}

var _ Updater = limitsStage{}

func (limitsStage) Name() string { return "limits" }
func (limitsStage) Scope() Scope { return PerRun }

func (limitsStage) Ensure(context.Context, *Container) error  { return nil }
func (limitsStage) Release(context.Context, *Container) error { return nil }

func (s limitsStage) Update(ctx context.Context, c *Container, changes change.Set) error {
	var r protocol.UpdateRequest
	var err error
	limits, log := changes.Limits(), changes.Log()
	paths := slices.Concat(limits, log)
	if len(paths) == 0 {
		return nil
	}
	if len(limits) > 0 {
		limits = withMemory(limits)
		if r.To, err = change.Resources(&c.Bundle.Spec, limits); err != nil {
			return err
		}
		if r.Before, err = change.Resources(&c.Running.Spec, limits); err != nil {
			return err
		}
		if !bundle.SwapLimit(os.DirFS("/")) {
			if err := dropSwapLimit(&c.Bundle.Spec, &r); err != nil {
				return &StageError{Reason: v1alpha1.ReasonUpdateRefused, Err: err}
			}
		}
	}
	if len(log) > 0 {
		r.Log = new(logLimits(c.Bundle, s.logMaxBytes))
	}
	err = s.supervisor.Update(ctx, c.ID, r)
	switch answer := (*protocol.Error)(nil); {
	case err == nil:
		return nil
	case !errors.As(err, &answer), errors.Is(err, protocol.ErrStopping),
		errors.Is(err, protocol.ErrNotExist), errors.Is(err, protocol.ErrNotRunning):
		// It may have been done, or is not to be done any more: the next look finds out.
		return &StageError{Class: Unknown, Err: err}
	case errors.Is(err, protocol.ErrInvalid):
		err = fmt.Errorf(
			"the supervisor of this node is older than the agent and cannot change a running"+
				" container: upgrade it with berth supervise --upgrade: %w", err)
	}
	return &StageError{
		Reason: v1alpha1.ReasonUpdateRefused,
		Err:    errors.New(refusedFields(err, paths)),
	}
}

// memoryLimit is the path of the limit of memory, and swapLimit that of memory and swap together.
const (
	memoryLimit = "config.linux.resources.memory.limit"
	swapLimit   = "config.linux.resources.memory.swap"
)

// withMemory adds the one of these two limits that is missing beside the other. Cgroup v2 limits
// swap alone, which is their difference: it changes with each of them, and crun does not know the
// one that it is not given.
func withMemory(limits []string) []string {
	switch memory, swap := slices.Contains(limits, memoryLimit), slices.Contains(limits, swapLimit); {
	case memory && !swap:
		return append(limits, swapLimit)
	case swap && !memory:
		return append(limits, memoryLimit)
	}
	return limits
}

// dropSwapLimit leaves the limit of memory and swap out of an update to a spec, as merge.Document
// leaves it out of a document.
func dropSwapLimit(spec *v1alpha1.OCIBundleSpec, r *protocol.UpdateRequest) error {
	if r.To.Memory == nil {
		return nil
	}
	whole, err := change.Resources(spec, []string{memoryLimit})
	if err != nil {
		return err
	}
	if r.Before.Memory != nil {
		r.Before.Memory.Swap = nil // it was left out before
	}
	return merge.DropSwapLimit(r.To.Memory, whole.Memory.Limit)
}

// logLimits returns the limits of the log files of a bundle. maxBytes is for one that has no size.
func logLimits(b *v1alpha1.OCIBundle, maxBytes int64) protocol.LogLimits {
	l := protocol.LogLimits{MaxBytes: maxBytes, MaxFiles: protocol.DefaultLogFiles}
	if b.Spec.Logging != nil && b.Spec.Logging.MaxSize != nil {
		l.MaxBytes = b.Spec.Logging.MaxSize.Value()
	}
	if b.Spec.Logging != nil && b.Spec.Logging.MaxFiles != nil {
		l.MaxFiles = int(*b.Spec.Logging.MaxFiles)
	}
	return l
}

// refusedFields returns an error of the runtime so that it begins with the path of the field, or of
// all fields if the runtime does not say which.
func refusedFields(err error, paths []string) string {
	const resources = "linux.resources"
	_, rest, ok := strings.Cut(err.Error(), resources)
	switch {
	case ok && strings.HasPrefix(rest, "."):
		return "config." + resources + rest
	case ok && strings.HasPrefix(rest, ": "):
		rest = rest[2:]
	default:
		rest = err.Error()
	}
	return fmt.Sprintf("%s: %s", strings.Join(paths, ", "), rest)
}
