// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
)

// Bridge is the network of a node that has no configuration: a bridge that masquerades what leaves
// it.
type Bridge struct {
	// Subnets are at most one of IPv4 and one of IPv6; without any, free ones are chosen.
	Subnets []netip.Prefix
	// RunDir is the agent's run directory, which holds the addresses in use.
	RunDir string

	patience time.Duration // of one call of iptables; 0 means pluginPatience

	mu     sync.Mutex
	chosen *libcni.NetworkConfigList // nil until it is known
}

// oldVersion is the CNI version of plugins before 1.6.
const oldVersion = "1.0.0"

// bridgePlugins returns the plugins that the bridge needs. The plugin firewall knows iptables and
// firewalld, and has nothing to do where there is no iptables that drops what is forwarded.
func bridgePlugins() []string {
	plugins := []string{"bridge", "host-local", "portmap"}
	if hasProgram("iptables") {
		plugins = append(plugins, "firewall")
	}
	return plugins
}

// defaultSubnets are the IPv4 subnets of which the first is used that collides with no route.
func defaultSubnets() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.89.0.0/16"), netip.MustParsePrefix("172.29.0.0/16"),
		netip.MustParsePrefix("192.168.89.0/24"),
	}
}

// CheckSubnets returns the fault of the subnets that a user gives.
func CheckSubnets(subnets []netip.Prefix) error {
	seen := map[bool]bool{}
	for _, p := range subnets {
		most := 29
		if p.Addr().Is6() {
			most = 125
		}
		switch {
		case p.Masked() != p:
			return fmt.Errorf("found %s; allowed: the address of a subnet, such as %s", p, p.Masked())
		case p.Bits() < 8 || p.Bits() > most:
			return fmt.Errorf("found %s; allowed: a prefix of 8 to %d bits", p, most)
		case seen[p.Addr().Is6()]:
			return errors.New("found two subnets of one kind; allowed: one of IPv4 and one of IPv6")
		}
		seen[p.Addr().Is6()] = true
	}
	return nil
}

// Name returns the name of the bridge and of its network. Agents with different run directories
// have different ones, since they do not know each other's addresses.
func (b *Bridge) Name() string {
	if b.RunDir == "/run/berth" {
		return "berth0"
	}
	sum := sha256.Sum256([]byte(b.RunDir))
	return "berth-" + hex.EncodeToString(sum[:4])
}

// addressDir holds a file for each address in use. It does not outlive a boot, as the bridge does
// not.
func (b *Bridge) addressDir() string { return filepath.Join(b.RunDir, "cni") }

// lease holds the addresses of a container.
type lease struct {
	device    string
	addresses []netip.Addr
}

// leases returns the addresses in use by the CNI id of the container: host-local has a file for
// each address, whose lines are the id and the device.
func (b *Bridge) leases() (map[string]lease, error) {
	if b == nil {
		return nil, nil
	}
	dir := filepath.Join(b.addressDir(), b.Name())
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("addresses of the bridge: %w", err)
	}
	out := map[string]lease{}
	for _, e := range entries {
		address, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue // the lock, or the last address that was given out
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // given up since
		}
		if err != nil {
			return nil, fmt.Errorf("addresses of the bridge: %w", err)
		}
		id, device, _ := strings.Cut(string(text), "\n")
		id = strings.TrimSpace(id)
		if id == "" {
			continue // host-local creates the file before it writes the id
		}
		out[id] = lease{strings.TrimSpace(device), append(out[id].addresses, address)}
	}
	return out, nil
}

// list returns the configuration list of the bridge. It stays the same for as long as the agent
// runs.
func (b *Bridge) list(ctx context.Context, cni *libcni.CNIConfig) (*libcni.NetworkConfigList,
	error,
) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.chosen != nil {
		return b.chosen, nil
	}
	subnets, err := b.subnets()
	if err == nil {
		err = keepAdvertisedRoutes()
	}
	version := bridgeVersion(ctx, cni)
	var rules firewall
	if err == nil {
		rules, err = findFirewall(version)
	}
	if err == nil {
		err = b.masquerade(ctx, rules, subnets)
	}
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for _, p := range subnets {
		ranges = append(ranges, []object{{"subnet": p.String()}})
		to := "0.0.0.0/0"
		if p.Addr().Is6() {
			to = "::/0"
		}
		routes = append(routes, object{"dst": to})
	}
	ports := object{"type": "portmap", "capabilities": object{portMappings: true}, "snat": true}
	plugins := []object{
		{
			"type": "bridge", "bridge": b.Name(), "isGateway": true, "ipMasq": false, "hairpinMode": true,
			"ipam": object{
				"type": "host-local", "dataDir": b.addressDir(), "ranges": ranges,
				"routes": routes,
			},
		},
		ports,
	}
	if rules == iptables { // as bridgePlugins has it
		plugins = append(plugins, object{"type": "firewall"})
	} else {
		ports["backend"] = string(rules)
	}
	text, err := json.Marshal(object{"cniVersion": version, "name": b.Name(), "plugins": plugins})
	if err != nil {
		return nil, err
	}
	b.chosen, err = libcni.NetworkConfFromBytes(text)
	return b.chosen, err
}

// own returns the configuration list of the bridge; nil if no container has asked for it yet.
func (b *Bridge) own() *libcni.NetworkConfigList {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.chosen
}

// bridgeVersion returns the newest version of the specification that all plugins of the bridge
// know: from 1.1.0 on, they have GC and STATUS.
func bridgeVersion(ctx context.Context, cni *libcni.CNIConfig) string {
	for _, name := range bridgePlugins() {
		info, err := cni.GetVersionInfo(ctx, name)
		if err != nil || !slices.Contains(info.SupportedVersions(), "1.1.0") {
			return oldVersion
		}
	}
	return "1.1.0"
}

// subnets returns those that the user gives, else those that the bridge has, else free ones.
func (b *Bridge) subnets() ([]netip.Prefix, error) {
	routes, err := b.foreignRoutes()
	if err != nil {
		return nil, err
	}
	has6 := hasIPv6()
	subnets := b.Subnets
	if len(subnets) == 0 {
		if subnets = b.present(); len(subnets) > 0 {
			return subnets, nil
		}
		i := slices.IndexFunc(defaultSubnets(), func(p netip.Prefix) bool {
			return overlapping(routes, p) == nil
		})
		if i < 0 {
			return nil, fmt.Errorf(
				"--bridge-subnet: found routes that overlap each of %v; allowed: a subnet without a route",
				defaultSubnets())
		}
		subnets = []netip.Prefix{defaultSubnets()[i]}
		if has6 {
			subnets = append(subnets, localSubnet())
		}
	}
	for _, p := range subnets {
		if p.Addr().Is6() && !has6 {
			return nil, fmt.Errorf("--bridge-subnet: found %s; allowed: IPv4, as this node has no IPv6", p)
		}
		if r := overlapping(routes, p); r != nil {
			return nil, fmt.Errorf(
				"--bridge-subnet: found %s, which overlaps the route to %s by %s; allowed: a subnet without a route",
				p, r.to, r.device)
		}
	}
	return subnets, nil
}

// present returns the subnets of the bridge, if it exists.
func (b *Bridge) present() []netip.Prefix {
	bridge, err := net.InterfaceByName(b.Name())
	if err != nil {
		return nil
	}
	addresses, err := bridge.Addrs()
	if err != nil {
		return nil
	}
	var out []netip.Prefix
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Masked())
		}
	}
	return out
}

// localSubnet returns a unique local subnet (RFC 4193), whose 40 bits follow from the machine's id.
func localSubnet() netip.Prefix {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		name, _ := os.Hostname() // or an empty one: the prefix need not be secret
		id = []byte(name)
	}
	sum := sha256.Sum256(append([]byte("berth "), bytes.TrimSpace(id)...))
	address := [16]byte{0: 0xfd}
	copy(address[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(address), 64)
}

func hasIPv6() bool { return setting("all/disable_ipv6") == "0" }

// setting returns a parameter of the kernel for IPv6; "" if the kernel has none.
func setting(name string) string {
	value, _ := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", name))
	return strings.TrimSpace(string(value))
}

// route is a route of the node, but no default route.
type route struct {
	to     netip.Prefix
	device string
}

func overlapping(routes []route, p netip.Prefix) *route {
	i := slices.IndexFunc(routes, func(r route) bool { return r.to.Overlaps(p) })
	if i < 0 {
		return nil
	}
	return &routes[i]
}

// foreignRoutes returns the routes of the node by other devices than the bridge and loopback.
func (b *Bridge) foreignRoutes() ([]route, error) {
	var out []route
	// Of the thread: /proc/net is that of the main thread, which may be creating a namespace.
	for file, parse := range map[string]func([]string) (route, bool){
		"/proc/thread-self/net/route":      route4,
		"/proc/thread-self/net/ipv6_route": route6,
	} {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("routes of the node: %w", err)
		}
		for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
			r, ok := parse(strings.Fields(s.Text()))
			if ok && r.to.Bits() > 0 && r.device != b.Name() && r.device != "lo" {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// route4 parses a line of /proc/net/route: device, destination and mask are columns 0, 1 and 7.
func route4(columns []string) (route, bool) {
	if len(columns) < 8 {
		return route{}, false
	}
	to, err1 := strconv.ParseUint(columns[1], 16, 32)
	mask, err2 := strconv.ParseUint(columns[7], 16, 32)
	if err1 != nil || err2 != nil {
		return route{}, false // the heading
	}
	var a, m [4]byte // numbers of the byte order of the machine that stand for bytes of the network's
	binary.NativeEndian.PutUint32(a[:], uint32(to))
	binary.NativeEndian.PutUint32(m[:], uint32(mask))
	bits, _ := net.IPMask(m[:]).Size()
	return route{netip.PrefixFrom(netip.AddrFrom4(a), bits), columns[0]}, true
}

// route6 parses a line of /proc/net/ipv6_route: destination, length of the prefix and device are
// columns 0, 1 and 9.
func route6(columns []string) (route, bool) {
	if len(columns) < 10 {
		return route{}, false
	}
	to, err1 := hex.DecodeString(columns[0])
	bits, err2 := strconv.ParseUint(columns[1], 16, 8)
	address, ok := netip.AddrFromSlice(to)
	if err1 != nil || err2 != nil || !ok || address.IsMulticast() || address.IsLinkLocalUnicast() {
		return route{}, false
	}
	return route{netip.PrefixFrom(address, int(bits)), columns[9]}, true
}

// keepAdvertisedRoutes has devices whose default route comes from router advertisements go on with
// these once the node forwards IPv6, which the plugin bridge turns on: accept_ra of 1 means only as
// long as the node does not forward (Documentation/networking/ip-sysctl.rst).
func keepAdvertisedRoutes() error {
	if setting("all/forwarding") != "0" {
		return nil
	}
	text, err := os.ReadFile("/proc/thread-self/net/ipv6_route")
	if err != nil {
		return fmt.Errorf("routes of the node: %w", err)
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		columns := strings.Fields(s.Text())
		if len(columns) < 10 || columns[1] != "00" {
			continue
		}
		const advertised = 0x00040000 // RTF_ADDRCONF, include/uapi/linux/ipv6_route.h
		flags, err := strconv.ParseUint(columns[8], 16, 32)
		if err != nil || flags&advertised == 0 || setting(columns[9]+"/accept_ra") != "1" {
			continue
		}
		if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", columns[9], "accept_ra"),
			[]byte("2"), 0); err != nil {
			return fmt.Errorf("keep the route that is advertised on %s: %w", columns[9], err)
		}
	}
	return nil
}
