// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// limitsStage changes the limits of a running container. A container is created with those of its
// document.
type limitsStage struct{ supervisor Supervisor }

var _ Updater = limitsStage{}

func (limitsStage) Name() string { return "limits" }
func (limitsStage) Scope() Scope { return PerRun }

func (limitsStage) Ensure(context.Context, *Container) error  { return nil }
func (limitsStage) Release(context.Context, *Container) error { return nil }

func (s limitsStage) Update(ctx context.Context, c *Container, changes change.Set) error {
	paths := changes.Limits()
	if len(paths) == 0 {
		return nil
	}
	to, err := change.Resources(&c.Bundle.Spec, paths)
	if err != nil {
		return err
	}
	before, err := change.Resources(&c.Running.Spec, paths)
	if err != nil {
		return err
	}
	if !bundle.SwapLimit(os.DirFS("/")) {
		// As in the document, see bundle.Merge.
		for _, r := range []*specs.LinuxResources{to, before} {
			if r.Memory != nil {
				r.Memory.Swap = nil
			}
		}
	}
	err = s.supervisor.Update(ctx, c.ID, protocol.UpdateRequest{To: to, Before: before})
	switch answer := (*protocol.Error)(nil); {
	case err == nil:
		return nil
	case !errors.As(err, &answer), errors.Is(err, protocol.ErrStopping),
		errors.Is(err, protocol.ErrNotExist), errors.Is(err, protocol.ErrNotRunning):
		// It may have been done, or is not to be done any more: the next look finds out.
		return &StageError{Class: Unknown, Err: err}
	case errors.Is(err, protocol.ErrInvalid):
		err = fmt.Errorf("the supervisor of this node is older than the agent and cannot change a running"+
			" container: upgrade it with berth supervise --upgrade: %w", err)
	}
	return &StageError{Reason: v1alpha1.ReasonUpdateRefused, Err: errors.New(refusedFields(err, paths))}
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
