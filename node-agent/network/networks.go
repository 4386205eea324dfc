// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/berth-run/berth/internal/durable"
)

// Networks connects containers to the node's network by CNI plugins.
//
// All that is done to connect a container is recorded in its directory before it is begun, and the
// result of each plugin before the next one is executed. An agent that finds a record without an
// end cannot know how far its predecessor came: it disconnects the container and connects it anew.
type Networks struct {
	Namespaces Namespaces
	// BinDirs hold the plugins. Without any, containers have loopback alone.
	BinDirs []string
	// ConfDir holds the node's configuration lists.
	ConfDir string
	// Bridge is for a node without a configuration list; nil leaves its containers with loopback
	// alone.
	Bridge *Bridge
	Log    *slog.Logger

	ports portTable
	slots chan struct{} // a token for each container that is being connected or disconnected
}

// parallel bounds the containers that are connected or disconnected concurrently. Plugins wait for
// each other's locks, of addresses and of iptables, so that more at a time are not faster.
const parallel = 4

// New returns Networks with the settings of another.
func New(n *Networks) *Networks {
	return &Networks{
		Namespaces: n.Namespaces, BinDirs: n.BinDirs, ConfDir: n.ConfDir, Bridge: n.Bridge, Log: n.Log,
		slots: make(chan struct{}, parallel),
	}
}

// Files gives access to a container's directory, which exists for as long as the container has a
// network.
type Files interface {
	// File returns the path of a file.
	File(name string) string
	// Replace replaces a file, whole or not at all.
	Replace(name string, data []byte) error
}

// Wanted describes the network that a container asks for.
type Wanted struct {
	// Name of the Container, for people.
	Name string
	// None leaves it with loopback alone.
	None bool
	// Ports of the node that lead to the container or, in the node's network, that it listens on.
	Ports []PortMapping
}

// files of a container's directory. lockFile is held by every plugin that runs for the container.
const (
	recordFile = "network.json"
	lockFile   = "network.lock"
	cacheDir   = "cni"
)

// RecordFile is the name of the file of a container's directory that must survive a loss of power.
const RecordFile = recordFile

// recordVersion is the version of the format of record.
const recordVersion = 1

// device is the name of a container's network device.
const device = "eth0"

// record describes how a container is connected, or is being.
type record struct {
	Version int `json:"version"`
	// Name of the Container.
	Name string `json:"name,omitempty"`
	// List is the configuration list, with all plugins in it; empty for a container in the node's
	// network that has ports.
	List  json.RawMessage `json:"list,omitempty"`
	Ports []PortMapping   `json:"ports,omitempty"`
	// Result of the last plugin that has succeeded; empty if none has.
	Result json.RawMessage `json:"result,omitempty"`
	// Done says that all have.
	Done bool `json:"done,omitempty"`
}

// errUnreadable is for a record that this agent cannot read.
var errUnreadable = errors.New("cannot read how the container is connected to its network")

// readRecord returns nil if there is no record.
func readRecord(path string) (*record, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	r := &record{}
	err = json.Unmarshal(data, r)
	if r.Version > recordVersion {
		return nil, fmt.Errorf("%w: %s: found version %d; this agent knows up to %d", errUnreadable, path,
			r.Version, recordVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUnreadable, path, err)
	}
	return r, nil
}

func (r *record) write(f Files) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return f.Replace(recordFile, data)
}

// Addresses returns the addresses of the container whose directory has those files.
func Addresses(f Files) ([]netip.Addr, error) {
	r, err := readRecord(f.File(recordFile))
	if err != nil || r == nil || !r.Done || len(r.List) == 0 {
		return nil, err
	}
	return r.addresses()
}

// addresses returns those that the result assigns to devices of the container.
func (r *record) addresses() ([]netip.Addr, error) {
	parsed, err := create.CreateFromBytes(r.Result)
	if err != nil {
		return nil, fmt.Errorf("result of the network plugins: %w", err)
	}
	result, err := current.NewResultFromResult(parsed)
	if err != nil {
		return nil, fmt.Errorf("result of the network plugins: %w", err)
	}
	var out []netip.Addr
	for _, ip := range result.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(result.Interfaces) &&
			result.Interfaces[*i].Sandbox == "" {
			continue // of a device of the node
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	return out, nil
}

// Attach gives a container its namespace and connects it to its network, unless it has that. It
// returns the path of the namespace.
func (n *Networks) Attach(ctx context.Context, id string, f Files, want Wanted) (string, error) {
	r, err := readRecord(f.File(recordFile))
	if err != nil {
		return "", err
	}
	if r == nil && (want.None || len(n.BinDirs) == 0 && len(want.Ports) == 0) {
		n.ports.release(id)
		return n.Namespaces.Ensure(id)
	}
	op, err := n.begin(ctx, id, f)
	if err != nil {
		return "", err
	}
	defer op.end()
	pinned, err := n.Namespaces.Exists(id)
	if err != nil {
		return "", err
	}
	if err := n.ports.reserve(id, want.Name, want.Ports); err != nil {
		return "", err
	}
	if r != nil {
		if pinned && r.Done && len(r.List) > 0 && !want.None && slices.Equal(r.Ports, want.Ports) &&
			op.check(r) {
			return n.Namespaces.Path(id), nil
		}
		if err := op.remove(r); err != nil {
			return "", err
		}
	}
	if err := checkFree(want.Ports); err != nil {
		return "", err
	}
	path, err := n.Namespaces.Ensure(id)
	if err != nil || want.None {
		return path, err
	}
	return path, op.add(want)
}

// Recover notes the ports of a container that an earlier agent has connected. It is called for all
// containers before Attach is for any.
func (n *Networks) Recover(id string, f Files) {
	r, err := readRecord(f.File(recordFile))
	if err != nil {
		n.Log.Error("the ports of a container are not known", "id", id, "error", err)
	}
	if r != nil {
		n.ports.recovered(id, r.Name, r.Ports)
	}
}

// AttachToNode disconnects a container that is in the node's network from any other, and reserves
// its ports.
func (n *Networks) AttachToNode(ctx context.Context, id string, f Files, want Wanted) error {
	r, err := readRecord(f.File(recordFile))
	if err != nil {
		return err
	}
	if r == nil || len(r.List) > 0 {
		if err := n.Detach(ctx, id, f); err != nil {
			return err
		}
	}
	if err := n.ports.reserve(id, want.Name, want.Ports); err != nil {
		return err
	}
	if err := checkFree(want.Ports); err != nil {
		return err
	}
	if r == nil && len(want.Ports) == 0 || r != nil && len(r.List) == 0 &&
		slices.Equal(r.Ports, want.Ports) {
		return nil
	}
	return (&record{Version: recordVersion, Name: want.Name, Ports: want.Ports, Done: true}).write(f)
}

// Detach disconnects a container from its network and removes its namespace. It is no error if
// there is neither.
func (n *Networks) Detach(ctx context.Context, id string, f Files) error {
	r, err := readRecord(f.File(recordFile))
	unreadable := err != nil
	if unreadable {
		// There is no way to know what to undo but to take it for what would be done today.
		n.Log.Error("disconnect a container from the node's network of today", "id", id, "error", err)
		r = &record{Version: recordVersion}
	}
	if r == nil {
		n.ports.release(id)
		return n.Namespaces.Remove(id)
	}
	op, err := n.begin(ctx, id, f)
	if err != nil {
		return err
	}
	defer op.end()
	if unreadable {
		list, err := n.list(ctx)
		if err != nil {
			return err
		}
		if list == nil {
			return op.forget()
		}
		r.List = flatten(list)
	}
	if err := op.remove(r); err != nil {
		return err
	}
	n.ports.release(id)
	return nil
}

// operation connects or disconnects one container.
type operation struct {
	*Networks
	ctx   context.Context
	id    string
	files Files
	lock  *os.File
}

// orphanPatience bounds the wait of an operation for plugins that a killed agent has left.
const orphanPatience = 2 * pluginPatience

// begin returns once no plugin runs for the container. The end of the agent does not cut an
// operation off: each plugin ends by itself, or after its patience.
func (n *Networks) begin(ctx context.Context, id string, f Files) (*operation, error) {
	select {
	case n.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	waiting, cancel := context.WithTimeout(ctx, orphanPatience)
	defer cancel()
	lock, err := durable.Lock(waiting, f.File(lockFile))
	if err != nil {
		<-n.slots
		return nil, fmt.Errorf("wait for network plugins that an earlier agent has executed: %w", err)
	}
	return &operation{n, context.WithoutCancel(ctx), id, f, lock}, nil
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

// runtime returns the arguments of each plugin. A namespace that is gone, as after a boot, is
// empty: plugins then remove what they can without.
func (op *operation) runtime(ports []PortMapping) (*libcni.RuntimeConf, error) {
	path := ""
	if exists, err := op.Namespaces.Exists(op.id); err != nil {
		return nil, err
	} else if exists {
		path = op.Namespaces.Path(op.id)
	}
	rt := &libcni.RuntimeConf{
		ContainerID: cniID(op.id), NetNS: path, IfName: device,
		Args: [][2]string{{"IgnoreUnknown", "1"}},
	}
	if len(ports) > 0 {
		rt.CapabilityArgs = map[string]any{portMappings: ports}
	}
	return rt, nil
}

// cniID returns the id of a container in the alphabet of CNI, which has no "+".
func cniID(id string) string { return strings.ReplaceAll(id, "+", ".") }

// add connects the container, whose namespace exists and is empty.
func (op *operation) add(want Wanted) error {
	list, err := op.list(op.ctx)
	if err != nil {
		return err
	}
	if list == nil {
		return op.refusePorts(want.Ports)
	}
	if len(want.Ports) > 0 && !slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool {
		return p.Network.Capabilities[portMappings]
	}) {
		return fmt.Errorf(
			"spec.ports: found hostPort %d; allowed on this node: none, as no plugin of its network %s has the capability %s",
			want.Ports[0].HostPort, list.Name, portMappings)
	}
	for _, p := range list.Plugins {
		if _, err := (&plugins{}).FindInPath(p.Network.Type, op.BinDirs); err != nil {
			return fmt.Errorf("network %s: %w", list.Name, err)
		}
	}
	rt, err := op.runtime(want.Ports)
	if err != nil {
		return err
	}
	r := &record{Version: recordVersion, Name: want.Name, List: flatten(list), Ports: want.Ports}
	if err := r.write(op.files); err != nil {
		return err
	}
	// The result of the last plugin is written twice, so that the record says when all are done.
	_, err = op.cni(func(result []byte) error {
		r.Result = slices.Clone(result)
		return r.write(op.files)
	}).AddNetworkList(op.ctx, list, rt)
	if err == nil {
		r.Done = true
		if _, err = r.addresses(); err == nil {
			err = r.write(op.files)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("connect to network %s: %w", list.Name, err), op.remove(r))
	}
	return nil
}

// refusePorts returns why a node without a network cannot map ports.
func (op *operation) refusePorts(ports []PortMapping) error {
	if len(ports) == 0 {
		return nil
	}
	return fmt.Errorf(
		"spec.ports: found hostPort %d; allowed on this node: none, as its containers have no network: %w",
		ports[0].HostPort, op.Missing())
}

// check returns whether the container is still connected as its record says.
func (op *operation) check(r *record) bool {
	list, err := libcni.NetworkConfFromBytes(r.List)
	if err == nil {
		if known, verr := version.GreaterThanOrEqualTo(list.CNIVersion, "0.4.0"); verr == nil && !known {
			return true // CHECK came with that version
		}
	}
	var rt *libcni.RuntimeConf
	if err == nil {
		rt, err = op.runtime(r.Ports)
	}
	if err == nil {
		err = op.writeCache(list, rt, r)
	}
	if err == nil {
		err = op.cni(nil).CheckNetworkList(op.ctx, list, rt)
	}
	if err != nil {
		op.Log.Warn("the container is not connected to its network as it was; connecting it anew", "id",
			op.id, "error", err)
	}
	return err == nil
}

// remove disconnects the container by all plugins, whatever the record says of how far it came, and
// then removes the namespace and the record. It may be repeated.
func (op *operation) remove(r *record) error {
	if len(r.List) == 0 {
		return op.forget()
	}
	list, err := libcni.NetworkConfFromBytes(r.List)
	if err != nil {
		return fmt.Errorf("disconnect from the network: %w", err)
	}
	rt, err := op.runtime(r.Ports)
	if err != nil {
		return err
	}
	if err := op.writeCache(list, rt, r); err != nil {
		return err
	}
	if err := op.cni(nil).DelNetworkList(op.ctx, list, rt); err != nil {
		return fmt.Errorf("disconnect from network %s: %w", list.Name, err)
	}
	return op.forget()
}

// forget removes the namespace and, last, the record. The ports are free if nothing follows.
func (op *operation) forget() error {
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
	r *record,
) error {
	dir := filepath.Join(op.files.File(cacheDir), "results")
	if err := os.RemoveAll(dir); err != nil || len(r.Result) == 0 {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, list.Name+"-"+rt.ContainerID+"-"+rt.IfName),
		r.Result, 0o600)
}

// flatten returns a configuration list as text with all of its plugins, also those that it has from
// files of their own.
func flatten(list *libcni.NetworkConfigList) json.RawMessage {
	out := map[string]any{}
	_ = json.Unmarshal(list.Bytes, &out) // libcni has read the list from it
	var all []json.RawMessage
	for _, p := range list.Plugins {
		all = append(all, p.Bytes)
	}
	out["cniVersion"], out["plugins"], out["loadOnlyInlinedPlugins"] = list.CNIVersion, all, true
	delete(out, "cniVersions")
	text, _ := json.Marshal(out)
	return text
}

// list returns the configuration list of the node's network: the first one of ConfDir by name, as
// the container runtimes of the kubelet choose, else that of the bridge. It is nil if containers
// have loopback alone.
func (n *Networks) list(ctx context.Context) (*libcni.NetworkConfigList, error) {
	file, err := n.file()
	if err != nil {
		return nil, err
	}
	if file != "" && len(n.BinDirs) > 0 {
		return load(file)
	}
	if missing := n.Missing(); missing != nil {
		return nil, nil //nolint:nilerr // that is no fault: containers have loopback alone
	}
	return n.Bridge.list(ctx, libcni.NewCNIConfig(n.BinDirs, &plugins{}))
}

// file returns the file of the node's configuration list; "" if there is none.
func (n *Networks) file() (string, error) {
	files, err := libcni.ConfFiles(n.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil || len(files) == 0 {
		return "", err
	}
	slices.Sort(files)
	return files[0], nil
}

// load reads a configuration list, or the configuration of one plugin.
func load(file string) (list *libcni.NetworkConfigList, err error) {
	if strings.HasSuffix(file, ".conflist") {
		list, err = libcni.NetworkConfFromFile(file)
	} else {
		list, err = loadOne(file)
	}
	if err != nil {
		return nil, fmt.Errorf("--cni-conf-dir: %s: %w", file, err)
	}
	return list, nil
}

// loadOne reads the configuration of one plugin as a list.
func loadOne(file string) (*libcni.NetworkConfigList, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	one, err := libcni.NetworkPluginConfFromBytes(text)
	if err != nil {
		return nil, err
	}
	if text, err = json.Marshal(map[string]any{
		"name": one.Network.Name, "cniVersion": one.Network.CNIVersion,
		"plugins": []json.RawMessage{text},
	}); err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(text)
}

// Missing returns why the node's containers have loopback alone, or nil if they have a network.
func (n *Networks) Missing() error {
	if len(n.BinDirs) == 0 {
		return errors.New("--cni-bin-dir is empty")
	}
	if file, err := n.file(); err != nil || file != "" {
		return err
	}
	if n.Bridge == nil {
		return fmt.Errorf("found no configuration list in %s (--cni-conf-dir)", n.ConfDir)
	}
	if err := installed(n.BinDirs, bridgePlugins()...); err != nil {
		return fmt.Errorf("%w (Debian: apt install containernetworking-plugins)", err)
	}
	return nil
}

// Prune disconnects what no container owns: somebody has removed its directory. bundles returns the
// ids of all containers that have one. A directory exists before the namespace.
func (n *Networks) Prune(ctx context.Context, bundles func() ([]string, error)) error {
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
	for _, id := range ids {
		valid = append(valid, types.GCAttachment{ContainerID: cniID(id), IfName: device})
	}
	owned := func(id string) bool {
		return slices.ContainsFunc(ids, func(b string) bool { return cniID(b) == cniID(id) })
	}
	if list, err := n.list(ctx); err != nil {
		errs = append(errs, err)
	} else if list != nil {
		errs = append(errs, n.pruneList(ctx, list, leases, owned, valid))
	}
	for _, id := range pinned {
		if !owned(id) {
			n.Log.Warn("remove the network namespace of a container that does not exist", "id", id)
			errs = append(errs, n.Namespaces.Remove(id))
		}
	}
	return errors.Join(errs...)
}

// pruneList disconnects from the node's network what has an address of the bridge and no container,
// and has the plugins collect what else belongs to none.
func (n *Networks) pruneList(
	ctx context.Context, list *libcni.NetworkConfigList, leases map[string][]netip.Addr,
	owned func(string) bool, valid []types.GCAttachment,
) error {
	var errs []error
	for id, addresses := range leases {
		if owned(id) || n.Bridge == nil || list.Name != n.Bridge.Name() {
			continue
		}
		n.Log.Warn("disconnect a container that does not exist", "id", id, "addresses", addresses)
		dir, err := os.MkdirTemp("", "berth-cni-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		f := looseFiles(dir)
		op, err := n.begin(ctx, id, f)
		if err != nil {
			return err
		}
		// The plugin portmap removes all ports of a container, and does nothing for one that has none.
		errs = append(errs, op.remove(&record{
			List: flatten(list), Result: leased(list.CNIVersion, addresses),
			Ports: []PortMapping{{HostPort: 1, ContainerPort: 1, Protocol: "tcp"}},
		}))
		op.end()
	}
	// libcni finds no cached result there, so it disconnects nothing itself.
	cni := libcni.NewCNIConfigWithCacheDir(n.BinDirs, filepath.Join(n.Namespaces.Dir, "no-cache"),
		&plugins{})
	gc, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	return errors.Join(append(errs, cni.GCNetworkList(gc, list,
		&libcni.GCArgs{ValidAttachments: valid}))...)
}

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
