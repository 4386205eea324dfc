// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The kernel's dev_t has 12 bits of major and 20 of minor (makedev(3)).
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// devices checks linux.devices (config-linux.md, "Devices").
func (c *checker) devices() {
	const path = "linux.devices"
	devices := c.linux.Devices
	for i := range devices {
		d := &devices[i]
		if !strings.HasPrefix(d.Path, "/") || hasNUL(d.Path) {
			c.absolute(at(path, i)+".path", d.Path, inContainer)
		}
		switch d.Type {
		case "c", "b", "u":
			c.deviceNumber(path, i, ".major", d.Major, maxMajor)
			c.deviceNumber(path, i, ".minor", d.Minor, maxMinor)
		case "p":
			// A pipe has no numbers.
		default:
			c.err(at(path, i)+".type", quoteOrNothing(d.Type), "c or u (character), b (block), or p (pipe)")
		}
		if d.FileMode != nil && *d.FileMode > 0o177777 {
			c.err(at(path, i)+".fileMode", unsigned(uint32(*d.FileMode)),
				"a mode of mknod(2) in decimal, such as 438 for octal 0666")
		}
		if d.UID != nil && *d.UID == noID {
			c.err(at(path, i)+".uid", unsigned(*d.UID), "0 to 4294967294")
		}
		if d.GID != nil && *d.GID == noID {
			c.err(at(path, i)+".gid", unsigned(*d.GID), "0 to 4294967294")
		}
	}
	c.devicesTwice()
}

// deviceNode identifies a device by its kind and numbers.
type deviceNode struct {
	kind         string
	major, minor int64
}

// devicesTwice looks for devices that are in the way of one another.
func (c *checker) devicesTwice() {
	const path = "linux.devices"
	devices := c.linux.Devices
	if len(devices) < 2 {
		return
	}
	paths, nodes := make(map[string]int, len(devices)), make(map[deviceNode]int, len(devices))
	for i := range devices {
		d := &devices[i]
		node := nodeOf(d)
		j, pathTaken := paths[d.Path]
		k, nodeTaken := nodes[node]
		switch {
		case pathTaken && node != nodeOf(&devices[j]):
			// "If a file already exists at path that does not match the
			// requested device, the runtime MUST generate an error."
			c.err(at(path, i)+".path", quote(d.Path)+", which is another device at "+at(path, j),
				"each path for one device only")
		case pathTaken:
			c.warn(at(path, i)+".path", quote(d.Path)+" again", "each device once")
		case nodeTaken && d.Type != "p":
			c.warn(at(path, i), deviceName(d)+", the same as "+at(path, k),
				"type, major and minor that no other device has")
		}
		if !pathTaken {
			paths[d.Path] = i
		}
		if !nodeTaken {
			nodes[node] = i
		}
	}
}

// nodeOf reads a device. "u" and "c" are the same, and a pipe has no numbers.
func nodeOf(d *specs.LinuxDevice) deviceNode {
	switch d.Type {
	case "p":
		return deviceNode{kind: "p"}
	case "u":
		return deviceNode{"c", d.Major, d.Minor}
	}
	return deviceNode{d.Type, d.Major, d.Minor}
}

func deviceName(d *specs.LinuxDevice) string {
	return quote(d.Type + " " + decimal(d.Major) + ":" + decimal(d.Minor))
}

func (c *checker) deviceNumber(path string, i int, field string, n, limit int64) {
	if n < 0 || n > limit {
		c.err(at(path, i)+field, decimal(n), "0 to "+decimal(limit))
	}
}

// netDevices checks linux.netDevices (config-linux.md, "Network Devices").
func (c *checker) netDevices() {
	devices := c.linux.NetDevices
	if len(devices) == 0 {
		return
	}
	const path = "linux.netDevices"
	if !c.has.contains(specs.NetworkNamespace) {
		c.err(path, "devices without a network namespace",
			"nothing, unless linux.namespaces has one of type network")
	}
	names := sortedKeys(devices)
	taken := make(map[string]string, len(names))
	for _, host := range names {
		if !interfaceName(host) {
			c.err(in(path, host), "the device "+quote(host), interfaceNameAllowed)
		}
		name := devices[host].Name
		if name == "" {
			name = host
		}
		// "%d" is a template whose number the kernel chooses (dev_alloc_name).
		template := strings.Count(name, "%") == 1 && strings.Contains(name, "%d")
		switch {
		case !interfaceName(name) && name != host, strings.Contains(name, "%") && !template:
			c.err(in(path, host)+".name", quote(name), interfaceNameAllowed+`, or such a name with one "%d"`)
		case template:
		case taken[name] != "":
			c.err(in(path, host)+".name", quote(name)+", which "+quote(taken[name])+" gets too",
				"a name for each device")
		}
		taken[name] = host
	}
}
