// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"maps"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// prefetch creates the slowest parts of a container concurrently with the rest, and sends them to
// the child after clone3 as deferred inputs (plan.Plan.Deferred):
//
//   - A thread creates the network namespace while the document is validated and planned.
//   - This process creates the cgroups of version 1 while the child works through its plan.
type prefetch struct {
	c *newContainer
	// thread creates the network namespace; nil if none is to be created or if it hangs.
	thread *launch.Thread
	// network becomes the namespace's descriptor; until then it is one of /dev/null.
	network int
	// defersCgroup reports whether Take creates the cgroup.
	defersCgroup bool
}

// Start begins to create the network namespace of a document, which need not be validated yet. It
// does nothing if that has begun or if the parent creates none.
func (p *prefetch) Start(spec *specs.Spec) error {
	if p.thread != nil || spec.Linux == nil {
		return nil
	}
	steps := plan.BuildPrefetch(spec)
	if steps == nil {
		return nil
	}
	network, err := unix.Open("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	if p.thread, err = launch.StartThread(steps,
		map[plan.Input]int{plan.InputNetwork: network}); err != nil {
		unix.Close(network)
		return err
	}
	p.network = network
	p.c.closeLater(closerFunc(p.close))
	return nil
}

// createCgroup creates the cgroup and opens it for the child, or leaves that to Take: the child of
// a document that allows it joins cgroups of version 1 by itself, when it has received them.
func (p *prefetch) createCgroup() error {
	c := p.c
	host, err := c.r.Host()
	if err != nil {
		return err
	}
	group := c.cgroup.group
	p.defersCgroup = plan.CanDeferCgroups(c.spec, host) && !c.r.isRootless(host) &&
		group.Unit() == nil &&
		len(group.Hierarchies()) > 0
	if !p.defersCgroup {
		if err := c.createCgroup(); err != nil {
			return err
		}
		return c.cgroup.open(c.session)
	}
	c.cgroup.hierarchies = group.Hierarchies()
	// The child is created in the directory of version 2, if there is one beside the others.
	if err := group.CreateUnified(); err != nil {
		return err
	}
	c.onFailure(group.RemoveUnified)
	return c.cgroup.openUnified(c.session)
}

// Take returns the deferred inputs of the child, once they exist. They stay the session's.
func (p *prefetch) Take() (map[plan.Input]int, error) {
	inputs := map[plan.Input]int{}
	if p.defersCgroup {
		if err := p.c.createCgroup(); err != nil {
			return nil, err
		}
		if err := p.c.cgroup.open(p.c.session); err != nil {
			return nil, err
		}
		maps.Copy(inputs, p.c.cgroup.tasks)
	}
	if p.thread == nil {
		return inputs, nil
	}
	if err := p.thread.Await(p.c.r.deadline); err != nil {
		var failed *launch.StepError
		if !errors.As(err, &failed) {
			p.abandon()
		}
		return nil, err
	}
	inputs[plan.InputNetwork] = p.network
	return inputs, nil
}

// abandon leaves the descriptor to a thread that hangs: it puts its namespace there if it goes on.
func (p *prefetch) abandon() { p.thread, p.network = nil, -1 }

// close waits for the thread and closes the descriptor. The namespace is the container's alone
// then, or gone.
func (p *prefetch) close() {
	if p.thread != nil && p.thread.End(p.c.r.deadline) != nil {
		p.abandon()
	}
	if p.network >= 0 {
		unix.Close(p.network)
	}
}
