// SPDX-License-Identifier: Apache-2.0

package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/berth-run/berth/internal/durable"
)

// operation connects or disconnects one container.
type operation struct {
	*Networks
	ctx   context.Context
	id    string
	files Files
	lock  *os.File
}

// orphanPatience bounds the wait of an operation for plugins that a killed agent has left, and for
// processes that a failed plugin has left.
const orphanPatience = 2 * pluginPatience

// begin returns once no plugin runs for the container. The end of the agent does not cut an
// operation off: each plugin ends by itself, or after its patience.
func (n *Networks) begin(ctx context.Context, id string, f Files) (*operation, error) {
	select {
	case n.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// A killed agent may have left plugins that collect what containers of that time do not own.
	collector, err := n.waitForOrphans(ctx, n.collectorLock())
	if err == nil {
		collector.Close()
	}
	var op *operation
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		op, err = n.beginAlone(ctx, id, f)
	}
	if err != nil {
		<-n.slots
	}
	return op, err
}

// beginAlone begins an operation for a caller that has all slots.
func (n *Networks) beginAlone(ctx context.Context, id string, f Files) (*operation, error) {
	lock, err := n.waitForOrphans(ctx, f.File(lockFile))
	if err != nil {
		return nil, err
	}
	return &operation{n, context.WithoutCancel(ctx), id, f, lock}, nil
}

// ErrBusy is for a container for which a plugin runs that has been executed before.
var ErrBusy = errors.New("network plugins that have been executed before do not end")

// waitForOrphans returns a lock that plugins inherit, such as that of a container, once none of
// them runs.
func (n *Networks) waitForOrphans(ctx context.Context, path string) (*os.File, error) {
	patience := cmp.Or(n.patience, orphanPatience)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lock, err := durable.Lock(limited, path)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w within %s", ErrBusy, patience)
	}
	if err != nil {
		return nil, fmt.Errorf("wait for network plugins that have been executed before: %w", err)
	}
	return lock, nil
}

// settle returns once all that a failed plugin has executed has ended: its processes hold the lock
// that they have inherited.
func (op *operation) settle() error {
	op.lock.Close()
	lock, err := op.waitForOrphans(op.ctx, op.files.File(lockFile))
	if err == nil {
		op.lock = lock
	}
	return err
}

func (op *operation) end() {
	op.lock.Close()
	<-op.slots
}

// cni returns libcni for the container. Its cache is in the container's directory, and is written
// from the record before it is read, since libcni does not replace it as a whole.
func (op *operation) cni(added func([]byte) error) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(op.BinDirs, op.files.File(cacheDir),
		&plugins{lock: op.lock, added: added})
}

// runtime returns the arguments of each plugin for a connection. A namespace that is gone, as after
// a boot, is empty: plugins then remove what they can without.
func (op *operation) runtime(r *record, i int, list *libcni.NetworkConfigList) (*libcni.RuntimeConf,
	error,
) {
	path := ""
	if exists, err := op.Namespaces.Exists(op.id); err != nil {
		return nil, err
	} else if exists {
		path = op.Namespaces.Path(op.id)
	}
	rt := &libcni.RuntimeConf{
		ContainerID: cniID(op.id), NetNS: path, IfName: device(i),
		Args: [][2]string{{"IgnoreUnknown", "1"}}, CapabilityArgs: map[string]any{},
	}
	if len(r.Ports) > 0 && r.mapsPorts() == i {
		rt.CapabilityArgs[portMappings] = r.Ports
	}
	if r.Bandwidth != (Bandwidth{}) {
		rt.CapabilityArgs[bandwidth] = r.Bandwidth.arguments()
	}
	c := r.connections()[i]
	if c.Device != "" {
		rt.IfName = c.Device
	}
	// The form of podman, for its plugin dnsname.
	if asked := c.Asked; asked != nil && len(asked.Aliases) > 0 {
		rt.CapabilityArgs[aliases] = map[string][]string{list.Name: asked.Aliases}
	}
	return rt, nil
}

// cniID returns the id of a container in the alphabet of CNI, which has no "+".
func cniID(id string) string { return strings.ReplaceAll(id, "+", ".") }

// add connects the container, whose namespace is empty if it exists. The record is written before
// there is a namespace: one without a record is not to have a network.
func (op *operation) add(want Wanted) error {
	lists, err := op.lists(op.ctx, want)
	if err != nil {
		return err
	}
	if lists == nil {
		_, err := op.Namespaces.Ensure(op.id, want.Users)
		return err
	}
	r := &record{Name: want.Name, Host: want.Host, Ports: want.Ports, Bandwidth: want.Bandwidth}
	for i, list := range lists {
		c := connection{List: flatten(list)}
		if len(want.Networks) > 0 {
			c.Asked = &want.Networks[i]
		}
		if i == 0 {
			r.connection = c
		} else {
			r.More = append(r.More, c)
		}
	}
	if err := r.write(op.files); err != nil {
		return err
	}
	if _, err := op.Namespaces.Ensure(op.id, want.Users); err != nil {
		return err
	}
	done, donePorts := op.first.begin(), func(error) {}
	if len(want.Ports) > 0 {
		donePorts = op.firstPorts.begin()
	}
	for i, list := range lists {
		if err = op.connect(r, i, list); err != nil {
			err = fmt.Errorf("connect to network %s: %w", list.Name, err)
			break
		}
	}
	donePorts(err)
	done(err)
	if err == nil {
		err = op.refuseAliases(r, op.announce(op.id, r))
	}
	if err == nil {
		r.Done = true
		err = r.write(op.files)
	}
	if err == nil {
		return nil
	}
	if serr := op.settle(); serr != nil {
		return errors.Join(err, serr) // the record has no end, so the next operation disconnects
	}
	return errors.Join(err, op.remove(r))
}

// connect gives the container the device of one network. The result of the last plugin is written
// twice, so that the record says when all are done.
func (op *operation) connect(r *record, i int, list *libcni.NetworkConfigList) error {
	rt, err := op.runtime(r, i, list)
	if err != nil {
		return err
	}
	c := r.connections()[i]
	_, err = op.cni(func(result []byte) error {
		c.Result = slices.Clone(result)
		return r.write(op.files)
	}).AddNetworkList(op.ctx, list, rt)
	if err == nil {
		_, err = c.addresses()
	}
	return err
}

// check returns whether the container is still connected as its record says.
func (op *operation) check(r *record) bool {
	for i, c := range r.connections() {
		if err := op.checkOne(r, i, c); err != nil {
			op.Log.Warn("the container is not connected to its network as it was; connecting it anew", "id",
				op.id, "device", device(i), "error", err)
			return false
		}
	}
	return true
}

func (op *operation) checkOne(r *record, i int, c *connection) error {
	list, err := libcni.NetworkConfFromBytes(c.List)
	if err != nil {
		return err
	}
	if known, err := version.GreaterThanOrEqualTo(list.CNIVersion, "0.4.0"); err == nil && !known {
		return nil // CHECK came with that version
	}
	rt, err := op.runtime(r, i, list)
	if err == nil {
		err = op.writeCache(list, rt, c)
	}
	if err == nil {
		err = op.cni(nil).CheckNetworkList(op.ctx, list, rt)
	}
	if err != nil && looksForAbsentFamily(err, c) {
		others := *list
		others.Plugins = slices.DeleteFunc(slices.Clone(list.Plugins), func(p *libcni.PluginConfig) bool {
			return p.Network.Type == "portmap"
		})
		err = op.cni(nil).CheckNetworkList(op.ctx, &others, rt)
	}
	return err
}

// looksForAbsentFamily reports whether CHECK has failed because the plugin portmap before 1.3 looks
// for rules of IPv6 for a container that has IPv4 alone, or the other way round
// (containernetworking/plugins#819). It would lose its address with each restart.
func looksForAbsentFamily(err error, c *connection) bool {
	addresses, aerr := c.addresses()
	if aerr != nil {
		return false
	}
	for family, is := range map[string]func(netip.Addr) bool{
		"ipv4": netip.Addr.Is4, "ipv6": netip.Addr.Is6,
	} {
		if strings.Contains(err.Error(), "portmap: could not check "+family+" dnat") {
			return !slices.ContainsFunc(addresses, is)
		}
	}
	return false
}

// remove disconnects the container from its networks, the last one first, by all plugins, whatever
// the record says of how far it came, and then removes the namespace and the record. It may be
// repeated.
func (op *operation) remove(r *record) error {
	for i, c := range slices.Backward(r.connections()) {
		list, err := libcni.NetworkConfFromBytes(c.List)
		if err != nil {
			return fmt.Errorf("disconnect from the network: %w", err)
		}
		rt, err := op.runtime(r, i, list)
		if err != nil {
			return err
		}
		if err := op.writeCache(list, rt, c); err != nil {
			return err
		}
		if err := op.cni(nil).DelNetworkList(op.ctx, list, rt); err != nil {
			return fmt.Errorf("disconnect from network %s: %w", list.Name, err)
		}
	}
	return op.forget()
}

// forget removes the namespace and, last, the record. The ports are free if nothing follows.
func (op *operation) forget() error {
	if op.Names != nil {
		op.Names.Remove(op.id)
	}
	if err := op.Namespaces.Remove(op.id); err != nil {
		return err
	}
	err := errors.Join(os.RemoveAll(op.files.File(cacheDir)), os.Remove(op.files.File(recordFile)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// writeCache writes the result of the record where libcni looks for it. Plugins need it to know
// the addresses whose rules they remove.
func (op *operation) writeCache(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf,
	c *connection,
) error {
	dir := filepath.Join(op.files.File(cacheDir), "results")
	if err := os.RemoveAll(dir); err != nil || len(c.Result) == 0 {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, list.Name+"-"+rt.ContainerID+"-"+rt.IfName),
		c.Result, 0o600)
}
