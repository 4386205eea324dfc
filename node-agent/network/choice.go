// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containernetworking/cni/libcni"
)

// aliases is the capability of plugins that give names to containers.
const aliases = "aliases"

// lists returns the configuration lists of the networks that a container asks for, in the order of
// their devices; nil if it is to have loopback alone. It refuses what they cannot do.
func (n *Networks) lists(ctx context.Context, want Wanted) ([]*libcni.NetworkConfigList, error) {
	var out []*libcni.NetworkConfigList
	for i, asked := range want.Networks {
		list, err := n.named(ctx, asked.Network)
		if err != nil {
			return nil, fmt.Errorf("spec.networks[%d].name: %w", i, err)
		}
		if j := slices.IndexFunc(out, func(l *libcni.NetworkConfigList) bool {
			return l.Name == list.Name
		}); j >= 0 {
			return nil, fmt.Errorf(
				"spec.networks[%d].name: found network %s, which networks[%d] has too; allowed: another network",
				i, list.Name, j)
		}
		if len(asked.Aliases) > 0 && n.Names == nil && !capable(list, aliases) {
			return nil, noAliases(i, asked, list, fmt.Errorf("no plugin of it has the capability %s",
				aliases))
		}
		out = append(out, list)
	}
	if len(want.Networks) == 0 {
		list, err := n.list(ctx)
		if err != nil {
			return nil, err
		}
		if list == nil && want.Bandwidth != (Bandwidth{}) {
			return nil, want.Bandwidth.refuse(fmt.Sprintf("its containers have no network: %v", n.Missing()))
		}
		if list == nil {
			return nil, n.refusePorts(want.Ports)
		}
		out = append(out, list)
	}
	if len(want.Ports) > 0 && !slices.ContainsFunc(out, mapping) {
		return nil, fmt.Errorf(
			"spec.ports: found hostPort %d; allowed on this node: none, as no plugin of its network %s has the capability %s",
			want.Ports[0].HostPort, strings.Join(namesOf(out), ", "), portMappings)
	}
	for i := range out {
		var err error
		if want.Bandwidth != (Bandwidth{}) {
			if out[i], err = n.limiting(out[i], want.Bandwidth); err != nil {
				return nil, err
			}
		}
	}
	for _, list := range out {
		for _, p := range list.Plugins {
			if _, err := (&plugins{}).FindInPath(p.Network.Type, n.BinDirs); err != nil {
				return nil, fmt.Errorf("network %s: %w", list.Name, err)
			}
		}
	}
	return out, nil
}

// capable returns whether a plugin of the list has a capability.
func capable(list *libcni.NetworkConfigList, capability string) bool {
	return slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool {
		return p.Network.Capabilities[capability]
	})
}

func mapping(list *libcni.NetworkConfigList) bool { return capable(list, portMappings) }

// mapsPorts returns which connection has the ports: the first that can.
func (r *record) mapsPorts() int {
	return slices.IndexFunc(r.connections(), func(c *connection) bool {
		list, err := libcni.NetworkConfFromBytes(c.List)
		return err == nil && mapping(list)
	})
}

// refusePorts returns why a node without a network cannot map ports.
func (n *Networks) refusePorts(ports []PortMapping) error {
	if len(ports) == 0 {
		return nil
	}
	return fmt.Errorf(
		"spec.ports: found hostPort %d; allowed on this node: none, as its containers have no network: %w",
		ports[0].HostPort, n.Missing())
}

// named returns the configuration list of a name. An empty name stands for the node's network for
// containers.
func (n *Networks) named(ctx context.Context, name string) (*libcni.NetworkConfigList, error) {
	if name == "" {
		list, err := n.list(ctx)
		if err == nil && list == nil {
			err = fmt.Errorf("found none; allowed on this node: none, as its containers have no network: %w",
				n.Missing())
		}
		return list, err
	}
	if len(n.BinDirs) == 0 {
		return nil, fmt.Errorf("found %s; allowed on this node: none, as its containers have no network: %w",
			name, n.Missing())
	}
	lists, faults := n.configured()
	i := slices.IndexFunc(lists, func(l *libcni.NetworkConfigList) bool { return l.Name == name })
	if i >= 0 {
		return lists[i], nil
	}
	names := namesOf(lists)
	if n.Bridge != nil && installed(n.BinDirs, bridgePlugins()...) == nil {
		if name == n.Bridge.Name() {
			return n.Bridge.list(ctx, libcni.NewCNIConfig(n.BinDirs, &plugins{}))
		}
		names = append(names, n.Bridge.Name())
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	return nil, errors.Join(fmt.Errorf("found %s; allowed on this node: %s", name,
		strings.Join(names, ", ")), faults)
}

// configured returns the configuration lists of ConfDir, and the faults of files that have none.
func (n *Networks) configured() (lists []*libcni.NetworkConfigList, faults error) {
	files, err := n.files()
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		list, err := load(file)
		if err != nil {
			faults = errors.Join(faults, err)
			continue
		}
		lists = append(lists, list)
	}
	return lists, faults
}

func namesOf(lists []*libcni.NetworkConfigList) []string {
	var out []string
	for _, l := range lists {
		out = append(out, l.Name)
	}
	return out
}

// usedNetworks are the names of networks that containers of an earlier agent are in. The zero value
// is ready.
type usedNetworks struct {
	mu    sync.Mutex
	names map[string]bool
}

func (u *usedNetworks) note(r *record) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.names == nil {
		u.names = map[string]bool{}
	}
	for _, c := range r.connections() {
		if list, err := libcni.NetworkConfFromBytes(c.List); err == nil {
			u.names[list.Name] = true
		}
	}
}

func (u *usedNetworks) has(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.names[name]
}
