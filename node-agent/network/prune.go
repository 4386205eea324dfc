// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/berth-run/berth/internal/durable"
)

// Prune disconnects what no container owns: somebody has removed its directory. bundles returns the
// ids of all containers that have one. A directory exists before the namespace.
//
// No container is connected or disconnected at the same time: plugins would collect what a new one
// has, and an address may be another's by the time that its rules are removed.
func (n *Networks) Prune(ctx context.Context, bundles func() ([]string, error)) error {
	for range cap(n.slots) {
		select {
		case n.slots <- struct{}{}:
			defer func() { <-n.slots }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := os.MkdirAll(n.pruneDir(), 0o700); err != nil {
		return err
	}
	collector, err := n.waitForOrphans(ctx, n.collectorLock())
	if err != nil {
		return err
	}
	defer collector.Close()
	pinned, err := n.Namespaces.List()
	if err != nil {
		return err
	}
	leases, err := n.Bridge.leases()
	if err != nil {
		return err
	}
	ids, err := bundles()
	if err != nil {
		return err
	}
	var errs []error
	var valid []types.GCAttachment
	owned := map[string]bool{} // by the id of CNI
	for _, id := range ids {
		owned[cniID(id)] = true
		for i := range MaxNetworks { // as the record of each may not be readable
			valid = append(valid, types.GCAttachment{ContainerID: cniID(id), IfName: device(i)})
		}
	}
	stray := false
	for id := range leases {
		stray = stray || !owned[id]
	}
	lists, err := n.collectable(ctx, stray)
	errs = append(errs, err)
	for _, list := range lists {
		errs = append(errs, n.pruneList(ctx, collector, list, leases, owned, valid))
	}
	for _, id := range pinned {
		if !owned[cniID(id)] {
			n.Log.Warn("remove the network namespace of a container that does not exist", "id", id)
			errs = append(errs, n.Namespaces.Remove(id))
		}
	}
	return errors.Join(errs...)
}

// collectable returns the node's network for containers, the networks that containers are in, and
// the bridge if stray says that something else has an address of it. Other networks may be of other
// programs.
func (n *Networks) collectable(ctx context.Context, stray bool) ([]*libcni.NetworkConfigList,
	error,
) {
	var out []*libcni.NetworkConfigList
	add := func(list *libcni.NetworkConfigList) {
		if !slices.Contains(namesOf(out), list.Name) {
			out = append(out, list)
		}
	}
	list, err := n.list(ctx)
	if list != nil {
		add(list)
	}
	if len(n.BinDirs) == 0 {
		return out, err
	}
	lists, _ := n.configured() // a file with a fault has no list
	for _, list := range lists {
		if n.used.has(list.Name) {
			add(list)
		}
	}
	if n.Bridge != nil && (stray || n.used.has(n.Bridge.Name())) {
		list, berr := n.named(ctx, n.Bridge.Name())
		err = errors.Join(err, berr)
		if list != nil {
			add(list)
		}
	}
	return out, err
}

// pruneList disconnects from the node's network what has an address of the bridge and no container,
// and has the plugins collect what else belongs to none. They inherit the lock collector.
func (n *Networks) pruneList(
	ctx context.Context, collector *os.File, list *libcni.NetworkConfigList,
	leases map[string]lease, owned map[string]bool, valid []types.GCAttachment,
) error {
	var errs []error
	for id, l := range leases {
		if owned[id] || n.Bridge == nil || list.Name != n.Bridge.Name() {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		n.Log.Warn("disconnect a container that does not exist", "id", id, "addresses", l.addresses)
		f := looseFiles(filepath.Join(n.pruneDir(), l.addresses[0].String()))
		if err := os.MkdirAll(string(f), 0o700); err != nil {
			errs = append(errs, err)
			continue
		}
		op, err := n.beginAlone(ctx, id, f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// The plugin portmap removes all ports of a container, and does nothing for one that has none.
		errs = append(errs, op.remove(&record{
			connection: connection{
				List: flatten(list), Device: l.device,
				Result: leased(list.CNIVersion, l.addresses),
			},
			Ports: []PortMapping{{HostPort: 1, ContainerPort: 1, Protocol: "tcp"}},
		}))
		op.lock.Close()
	}
	left, err := os.ReadDir(n.pruneDir()) // also by a killed agent
	errs = append(errs, err)
	for _, e := range left {
		dir := filepath.Join(n.pruneDir(), e.Name())
		if e.IsDir() && !durable.Locked(filepath.Join(dir, lockFile)) {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	// libcni finds no cached result there, so it disconnects nothing itself.
	cni := libcni.NewCNIConfigWithCacheDir(n.BinDirs, filepath.Join(n.Namespaces.Dir, "no-cache"),
		&plugins{lock: collector})
	gc, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	return errors.Join(append(errs, cni.GCNetworkList(gc, list,
		&libcni.GCArgs{ValidAttachments: valid}))...)
}

// pruneDir has a directory for each container that is being disconnected without one of its own. An
// agent that follows a killed one finds the locks of its plugins there.
func (n *Networks) pruneDir() string { return n.Namespaces.Dir + "-prune" }

// collectorLock is inherited by the plugins that collect what belongs to no container.
func (n *Networks) collectorLock() string { return filepath.Join(n.pruneDir(), lockFile) }

// leased returns the result of a container that has those addresses.
func leased(cniVersion string, addresses []netip.Addr) json.RawMessage {
	type ip struct {
		Address string `json:"address"`
	}
	var ips []ip
	for _, a := range addresses {
		ips = append(ips, ip{netip.PrefixFrom(a, a.BitLen()).String()})
	}
	text, _ := json.Marshal(map[string]any{"cniVersion": cniVersion, "ips": ips})
	return text
}

// looseFiles is a directory of files that nothing keeps.
type looseFiles string

func (d looseFiles) File(name string) string { return filepath.Join(string(d), name) }

func (d looseFiles) Replace(name string, data []byte) error {
	return os.WriteFile(d.File(name), data, 0o600)
}
