// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/nameserver"
	"github.com/berth-run/berth/node-agent/network"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// Network says how containers are connected.
type Network struct {
	// BinDirs are the directories of CNI plugins; without one, containers have loopback alone.
	BinDirs []string
	// ConfDir is the directory of CNI configuration.
	ConfDir string
	// Subnets are the subnets of the bridge of an agent that works alone. Its containers have it
	// without CNI configuration; optional.
	Subnets []netip.Prefix
}

// networks returns the networks of the node's containers.
func (a *agent) networks() *network.Networks {
	n := &network.Networks{
		Namespaces: network.Namespaces{Dir: filepath.Join(a.RunDir, "netns")},
		BinDirs:    a.Network.BinDirs, ConfDir: a.Network.ConfDir, Log: a.Log,
	}
	if a.Manifests != "" {
		n.Names = nameserver.New(func() ([]netip.Addr, error) {
			return bundle.NodeServers(os.DirFS("/"))
		}, a.Log)
		a.closeLater(n.Names.Close)
		n.Bridge = &network.Bridge{Subnets: a.Network.Subnets, RunDir: a.RunDir}
	}
	return network.New(n)
}

// followNetwork keeps what is known of the node's network, for people and for the NodeAgent.
func (a *agent) followNetwork(ctx context.Context) error {
	a.network.FollowReadiness(ctx, func(r network.Readiness) {
		if r.Err != nil {
			a.Log.Warn("containers cannot be connected to the node's network", "error", r.Err)
		} else {
			a.Log.Info("containers can be connected", "to", r.Network)
		}
		if a.Manifests == "" {
			return
		}
		if err := folder.WriteNetworkFault(a.StateDir, r.Err); err != nil {
			a.Log.Warn("berth-agent status does not show the state of the network", "error", err)
		}
	})
	return nil
}

// networkReady returns why containers cannot be connected to the node's network, or nil if they
// can.
func (a *agent) networkReady(context.Context) error {
	r, known := a.network.Readiness()
	if !known {
		return errors.New("the node's network has not been looked at yet")
	}
	return r.Err
}
