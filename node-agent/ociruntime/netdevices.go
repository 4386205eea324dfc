// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/ociruntime/netdev"
)

// moveNetDevices moves linux.netDevices. If the container fails they are moved back: its network
// namespace would take virtual devices with it.
func (c *newContainer) moveNetDevices(pid int) (err error) {
	if c.devices, err = netdev.Move(c.spec.Linux.NetDevices, fmt.Sprintf("/proc/%d/ns/net",
		pid)); err != nil {
		return err
	}
	c.moveBackOnFailure()
	return nil
}

func (c *newContainer) moveBackOnFailure() {
	devices := c.devices
	c.onFailure(devices.MoveBack)
}

// checkNetDevices refuses to checkpoint or restore a container with network devices of the host's
// and a network namespace of its own: criu creates devices of some kinds in that namespace, and
// cannot create one of the host's. In a namespace that linux.namespaces names by its path they are
// still there, or are moved there.
func checkNetDevices(spec *specs.Spec) error {
	if len(spec.Linux.NetDevices) > 0 && joinedNetwork(spec) == "" {
		return errors.New(
			"linux.netDevices: found devices; to be checkpointed and restored with them a container needs a network namespace that outlives it: name one by its path in linux.namespaces")
	}
	return nil
}

// joinedNetwork returns the path of the network namespace, empty where it is the container's own.
func joinedNetwork(spec *specs.Spec) string {
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return n.Path
		}
	}
	return ""
}

// restoreNetDevices moves linux.netDevices into the network namespace that a container is about to
// be restored in, unless they are there.
func (c *newContainer) restoreNetDevices(context.Context) (err error) {
	if err := checkNetDevices(c.spec); err != nil || len(c.spec.Linux.NetDevices) == 0 {
		return err
	}
	if c.devices, err = netdev.MoveAgain(c.spec.Linux.NetDevices, joinedNetwork(c.spec)); err != nil {
		return err
	}
	c.moveBackOnFailure()
	return nil
}
