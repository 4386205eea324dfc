// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/node-agent/runtime/cgroup"
	"github.com/berth-run/berth/node-agent/runtime/launch"
	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// AddMounts mounts more in a created or running container, in order. Sources are the host's, relative ones below the container's bundle. If
// one fails, those before it are taken away again.
func (r *Runtime) AddMounts(ctx context.Context, id string, mounts []specs.Mount) error {
	return r.changeMounts(ctx, id, mounts, func(m *maker, host plan.Host, o plan.Options) error {
		var err error
		if m.plan, err = plan.BuildMounts(m.spec, mounts, host, o); err != nil {
			return err
		}
		for _, w := range m.plan.Warnings {
			r.warn(w)
		}
		if err := m.openMounts(ctx); err != nil {
			return err
		}
		err = m.walk(ctx)
		var step *launch.StepError
		if errors.As(err, &step) && step.Field.Path == "mounts" && step.Field.Index > 0 && step.Field.Index < len(mounts) {
			undo := *m
			var errUndo error
			if undo.plan, errUndo = plan.BuildUnmounts(m.spec, mounts[:step.Field.Index], o); errUndo == nil {
				errUndo = undo.walk(context.WithoutCancel(ctx))
			}
			if errUndo != nil {
				err = errors.Join(err, fmt.Errorf("take away those before it: %w", errUndo))
			}
		}
		return err
	})
}

// RemoveMounts takes mounts away from a created or running container, the last one first: of each the destination counts.
func (r *Runtime) RemoveMounts(ctx context.Context, id string, mounts []specs.Mount) error {
	return r.changeMounts(ctx, id, nil, func(m *maker, _ plan.Host, o plan.Options) (err error) {
		if m.plan, err = plan.BuildUnmounts(m.spec, mounts, o); err != nil {
			return err
		}
		return m.walk(ctx)
	})
}

// changeMounts has do make a plan for a child that joins a container, and walk it.
func (r *Runtime) changeMounts(ctx context.Context, id string, mounts []specs.Mount, do func(*maker, plan.Host, plan.Options) error) error {
	unlock, err := r.lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := r.load(id)
	if err != nil {
		return err
	}
	if status := r.status(rec); !slices.Contains([]specs.ContainerState{specs.StateCreated, specs.StateRunning, StatusPaused}, status) {
		return fmt.Errorf("cannot change the mounts of a %s container", status)
	}
	m := &maker{r: r, rec: rec, inputs: map[plan.Input]int{}}
	defer func() {
		for _, f := range m.close {
			f.Close()
		}
	}()
	spec, err := r.loadConfig(id)
	if err != nil {
		return err
	}
	own := *spec
	own.Mounts = mounts
	m.spec = &own
	faults := validate.MountsOf(m.spec, validate.Options{})
	for _, w := range faults.Warnings() {
		r.warn(w.Error())
	}
	if err := faults.Err(); err != nil {
		return err
	}
	pidfd := rec.pidfd()
	if pidfd < 0 {
		return errors.New("cannot change the mounts of a stopped container")
	}
	m.keepOpen(os.NewFile(uintptr(pidfd), "pidfd"))
	m.inputs[plan.InputContainer] = pidfd
	host, err := r.Host()
	if err != nil {
		return err
	}
	if m.group, err = cgroup.Open(rec.Cgroups); err != nil {
		return err
	}
	o := plan.Options{ID: id, Bundle: rec.Bundle, Rootfs: rec.Rootfs, CgroupPaths: m.group.HostPaths()}
	// What is copied into a tmpfs is the container's.
	if err = m.openCgroups(); err != nil {
		return err
	}
	return do(m, host, o)
}

// walk has a child walk a plan that ends in no program.
func (m *maker) walk(ctx context.Context) (err error) {
	if m.child, err = launch.Start(launch.Request{Plan: m.plan, Inputs: m.inputs, Reserved: 3, OnSync: m.answer(ctx), Deadline: m.r.deadline}); err != nil {
		return err
	}
	if err := m.child.Follow(ctx, plan.SyncReady); err != nil {
		return err
	}
	m.child.Wait()
	return nil
}
