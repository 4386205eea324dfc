// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// AddMounts mounts more in a created or running container, in order. Sources are the host's,
// relative ones below the container's bundle. If one fails, those before it are taken away again.
func (r *Runtime) AddMounts(ctx context.Context, id string, mounts []specs.Mount) error {
	return r.changeMounts(ctx, id, mounts, func(c *mountChange) error { return c.add(ctx, mounts) })
}

// RemoveMounts takes mounts away from a created or running container, the last one first: of each
// the destination counts.
func (r *Runtime) RemoveMounts(ctx context.Context, id string, mounts []specs.Mount) error {
	return r.changeMounts(ctx, id, nil, func(c *mountChange) error { return c.remove(ctx, mounts) })
}

// mountChange changes the mounts of a container by means of children that join it.
type mountChange struct {
	*session
	rec *record
	// spec is the container's document with the mounts replaced by those that are added.
	spec    *specs.Spec
	cgroup  membership
	host    plan.Host
	options plan.Options
}

// changeMounts locks a container, opens its process and its cgroup, and calls do.
func (r *Runtime) changeMounts(ctx context.Context, id string, mounts []specs.Mount,
	do func(*mountChange) error,
) (err error) {
	unlock, err := r.lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	c := &mountChange{session: r.newSession()}
	defer func() { c.end(err) }()
	if err := c.readDocument(id, mounts); err != nil {
		return err
	}
	if err := c.openContainer(); err != nil {
		return err
	}
	return do(c)
}

// readDocument reads the container's record and document, and validates the mounts.
func (c *mountChange) readDocument(id string, mounts []specs.Mount) (err error) {
	if c.rec, err = c.r.load(id); err != nil {
		return err
	}
	switch status := c.r.status(c.rec); status {
	case specs.StateCreated, specs.StateRunning, StatusPaused:
	default:
		return fmt.Errorf("cannot change the mounts of a %s container", status)
	}
	spec, err := c.r.loadConfig(id)
	if err != nil {
		return err
	}
	own := *spec
	own.Mounts = mounts
	c.spec = &own
	faults := validate.MountsOf(c.spec, validate.Options{})
	for _, w := range faults.Warnings() {
		c.r.warn(w.Error())
	}
	return faults.Err()
}

// openContainer opens the container's first process, which the children join, and its cgroup: what
// is copied into a tmpfs counts as the container's memory.
func (c *mountChange) openContainer() (err error) {
	if c.openProcess(c.rec) == nil {
		return errors.New("cannot change the mounts of a stopped container")
	}
	if c.host, err = c.r.Host(); err != nil {
		return err
	}
	if c.cgroup.group, err = cgroup.Open(c.rec.Cgroups); err != nil {
		return err
	}
	c.options = plan.Options{
		ID: c.rec.ID, Bundle: c.rec.Bundle, Rootfs: c.rec.Rootfs, CgroupPaths: c.cgroup.group.HostPaths(),
	}
	return c.cgroup.open(c.session)
}

// add adds mounts. If one fails, it removes those before it.
func (c *mountChange) add(ctx context.Context, mounts []specs.Mount) error {
	p, err := plan.BuildMounts(c.spec, mounts, c.host, c.options)
	if err != nil {
		return err
	}
	for _, w := range p.Warnings {
		c.r.warn(w)
	}
	c.plan = p
	inputs := mountInputs{session: c.session, spec: c.spec, cgroup: &c.cgroup}
	if err := inputs.open(ctx); err != nil {
		return err
	}
	err = c.walk(ctx, &inputs)
	var step *launch.StepError
	if !errors.As(err, &step) || step.Field.Path != "mounts" {
		return err
	}
	if done := step.Field.Index; done > 0 && done < len(mounts) {
		if undo := c.remove(context.WithoutCancel(ctx), mounts[:done]); undo != nil {
			err = errors.Join(err, fmt.Errorf("take away those before it: %w", undo))
		}
	}
	return err
}

// remove removes mounts.
func (c *mountChange) remove(ctx context.Context, mounts []specs.Mount) (err error) {
	if c.plan, err = plan.BuildUnmounts(c.spec, mounts, c.options); err != nil {
		return err
	}
	return c.walk(ctx, nil)
}

// walk starts a child that walks the plan, which ends in no program, and waits for its end.
func (c *mountChange) walk(ctx context.Context, inputs *mountInputs) (err error) {
	c.child, err = launch.Start(launch.Request{
		Plan: c.plan, Inputs: c.inputs, Reserved: 3, OnSync: c.answer(ctx, inputs),
		Deadline: c.r.deadline,
	})
	if err != nil {
		return err
	}
	if err := c.child.Follow(ctx, plan.SyncReady); err != nil {
		return err
	}
	c.child.Wait()
	return nil
}

// answer returns the function that answers the child's synchronization points.
func (c *mountChange) answer(ctx context.Context, inputs *mountInputs) func(plan.Sync, int) error {
	return func(s plan.Sync, _ int) error {
		switch s {
		case plan.SyncHostFiles:
			return inputs.sendHostFiles()
		case plan.SyncCopyUp:
			return inputs.copyUp(ctx)
		}
		return errNoAnswer(s)
	}
}
