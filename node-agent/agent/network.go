// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"os"
	"path/filepath"

	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/nameserver"
	"github.com/berth-run/berth/node-agent/network"
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
