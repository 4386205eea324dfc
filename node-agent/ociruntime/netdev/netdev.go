// SPDX-License-Identifier: Apache-2.0

// Package netdev moves network devices into a container's network namespace, as linux.netDevices of
// the runtime-spec asks (config-linux.md, Network Devices). It speaks rtnetlink(7) by itself: four
// messages do not need a library.
package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Moved are devices that have been moved. One of Back and Close has to be called.
type Moved struct {
	host, container *conn
	ownNS           int
	devices         []device
	// again allows that a device has been moved before.
	again bool
}

// device is a moved device, with its name, addresses and state on the host.
type device struct {
	name      string
	up        bool
	addresses []address
	index     int32 // in the container
}

// address is one that the device keeps: a struct ifaddrmsg and attributes.
type address struct {
	header     [unix.SizeofIfAddrmsg]byte
	label      string
	attributes []byte
}

// Move moves devices by their names from the calling thread's network namespace into that of a
// file. If one cannot be moved, all are moved back.
func Move(devices map[string]specs.LinuxNetDevice, file string) (*Moved, error) {
	return move(devices, file, false)
}

// MoveAgain moves devices as Move does, into the namespace of a container that has been there
// before: a device that the calling thread's namespace lacks, and the other one has, stays there.
func MoveAgain(devices map[string]specs.LinuxNetDevice, file string) (*Moved, error) {
	return move(devices, file, true)
}

func move(devices map[string]specs.LinuxNetDevice, file string, again bool) (_ *Moved, err error) {
	m := &Moved{ownNS: -1, again: again}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.MoveBack())
		}
	}()
	if m.ownNS, err = ownNamespace(); err != nil {
		return nil, fmt.Errorf("linux.netDevices: %w", err)
	}
	ns, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("linux.netDevices: %w", &os.PathError{Op: "open", Path: file, Err: err})
	}
	defer unix.Close(ns)
	if m.host, err = dial(); err != nil {
		return nil, fmt.Errorf("linux.netDevices: %w", err)
	}
	if m.container, err = dialIn(ns); err != nil {
		return nil, fmt.Errorf("linux.netDevices: %w", err)
	}
	names := make([]string, 0, len(devices))
	for name := range devices {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := m.move(name, devices[name].Name, ns); err != nil {
			return nil, fmt.Errorf("linux.netDevices.%s: %w", name, err)
		}
	}
	return m, nil
}

func (m *Moved) move(name, newName string, ns int) error {
	if newName == "" {
		newName = name
	}
	host, err := m.host.find(name)
	if errors.Is(err, unix.ENODEV) {
		if _, err := m.container.find(newName); m.again && err == nil {
			return nil
		}
		return errors.New("found no such device in the runtime's network namespace")
	}
	if err != nil {
		return err
	}
	if host.flags&unix.IFF_LOOPBACK != 0 {
		return errors.New("found a loopback device, which the kernel does not move")
	}
	d := device{name: name, up: host.flags&unix.IFF_UP != 0}
	if d.addresses, err = m.host.addresses(host.index); err != nil {
		return fmt.Errorf("read its addresses: %w", err)
	}
	// With another name asked for, the kernel moves the device first and renames it then: what
	// stands in the way is found before.
	template := strings.Contains(newName, "%d")
	taken := fmt.Errorf("name %q: found a device of that name in the container's network namespace",
		newName)
	before := map[int32]bool{}
	if template {
		if err := m.container.links(func(l link) { before[l.index] = true }); err != nil {
			return err
		}
	} else if _, err := m.container.find(newName); err == nil {
		return taken
	} else if !errors.Is(err, unix.ENODEV) {
		return err
	}
	if err := m.host.moveLink(host.index, ns, newName); err != nil {
		switch {
		case errors.Is(err, unix.EEXIST):
			return taken
		case errors.Is(err, unix.EINVAL):
			return fmt.Errorf("move it: %w (the device is bound to its network namespace)", err)
		}
		return fmt.Errorf("move it: %w", err)
	}
	if template {
		d.index, newName = 0, ""
		err := m.container.links(func(l link) {
			if !before[l.index] {
				d.index, newName = l.index, l.name
			}
		})
		if err != nil || d.index == 0 {
			return errors.Join(errors.New("moved, but not found in the container's network namespace"), err)
		}
	} else {
		// The number is the same unless the container has had a device of it.
		there, err := m.container.find(newName)
		if err != nil {
			return fmt.Errorf("find it in the container's network namespace: %w", err)
		}
		d.index = there.index
	}
	m.devices = append(m.devices, d)
	if err := m.container.setAddresses(d.index, d.addresses, name, newName); err != nil {
		return err
	}
	if err := m.container.setUp(d.index); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return nil
}

// MoveBack moves all devices back, and restores their names, addresses and state. It is for a
// container whose creation failed. A container that was created owns its devices, and the kernel
// handles them at its end (network_namespaces(7)).
func (m *Moved) MoveBack() error {
	defer m.Close()
	var all error
	for _, d := range m.devices {
		err := m.container.moveLink(d.index, m.ownNS, d.name)
		if err == nil {
			err = m.restore(d)
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("linux.netDevices.%s: move it back: %w", d.name, err))
		}
	}
	m.devices = nil
	return all
}

func (m *Moved) restore(d device) error {
	l, err := m.host.find(d.name)
	if err != nil {
		return err
	}
	if err := m.host.setAddresses(l.index, d.addresses, d.name, d.name); err != nil {
		return err
	}
	if d.up {
		return m.host.setUp(l.index)
	}
	return nil
}

// Close leaves the devices where they are.
func (m *Moved) Close() {
	for _, c := range []**conn{&m.host, &m.container} {
		if *c != nil {
			(*c).close()
			*c = nil
		}
	}
	if m.ownNS >= 0 {
		unix.Close(m.ownNS)
		m.ownNS = -1
	}
}

// link holds the state of a device that a move needs.
type link struct {
	index int32
	flags uint32
	name  string
}

func parseLink(m syscall.NetlinkMessage) (link, error) {
	if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
		return link{}, fmt.Errorf("netlink: found a message of type %d for a device", m.Header.Type)
	}
	l := link{
		index: int32(binary.NativeEndian.Uint32(m.Data[4:])),
		flags: binary.NativeEndian.Uint32(m.Data[8:]),
	}
	attributes, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return link{}, fmt.Errorf("netlink: found a malformed device: %w", err)
	}
	for _, a := range attributes {
		if a.Attr.Type == unix.IFLA_IFNAME {
			l.name = strings.TrimRight(string(a.Value), "\x00")
		}
	}
	return l, nil
}

// find finds a device by its name; ENODEV without one.
func (c *conn) find(name string) (found link, err error) {
	body := append(linkMessage(0, 0, 0), attribute(unix.IFLA_IFNAME, cString(name))...)
	err = c.request(unix.RTM_GETLINK, unix.NLM_F_ACK, body,
		func(m syscall.NetlinkMessage) (err error) {
			found, err = parseLink(m)
			return err
		})
	return found, err
}

// links passes all devices to f.
func (c *conn) links(f func(link)) error {
	return c.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, linkMessage(0, 0, 0),
		func(m syscall.NetlinkMessage) error {
			l, err := parseLink(m)
			if err == nil {
				f(l)
			}
			return err
		})
}

func (c *conn) moveLink(index int32, ns int, name string) error {
	body := append(linkMessage(index, 0, 0), attribute(unix.IFLA_NET_NS_FD, number(uint32(ns)))...)
	body = append(body, attribute(unix.IFLA_IFNAME, cString(name))...)
	return c.request(unix.RTM_NEWLINK, unix.NLM_F_ACK, body, nil)
}

func (c *conn) setUp(index int32) error {
	return c.request(unix.RTM_NEWLINK, unix.NLM_F_ACK, linkMessage(index, unix.IFF_UP,
		unix.IFF_UP), nil)
}

// addresses returns the addresses that stay with a device: permanent ones of global scope.
func (c *conn) addresses(index int32) (out []address, err error) {
	err = c.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg),
		func(m syscall.NetlinkMessage) error {
			if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
				return fmt.Errorf("netlink: found a message of type %d for an address", m.Header.Type)
			}
			attributes, err := syscall.ParseNetlinkRouteAttr(&m)
			if err != nil {
				return fmt.Errorf("netlink: found a malformed address: %w", err)
			}
			var a address
			copy(a.header[:], m.Data)
			flags, scope := uint32(a.header[2]), a.header[3]
			for _, at := range attributes {
				switch at.Attr.Type {
				case unix.IFA_ADDRESS, unix.IFA_LOCAL, unix.IFA_BROADCAST, unix.IFA_RT_PRIORITY:
					a.attributes = append(a.attributes, attribute(at.Attr.Type, at.Value)...)
				case unix.IFA_LABEL:
					a.label = strings.TrimRight(string(at.Value), "\x00")
				case unix.IFA_FLAGS: // the whole of them; the header has room for eight
					flags = binary.NativeEndian.Uint32(at.Value)
				}
			}
			if binary.NativeEndian.Uint32(a.header[4:]) != uint32(index) ||
				flags&unix.IFA_F_PERMANENT == 0 || scope != unix.RT_SCOPE_UNIVERSE {
				return nil
			}
			// What the user has asked for, not what has become of it, such as a duplicate found.
			flags &= unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR |
				unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN
			a.header[2] = 0
			a.attributes = append(a.attributes, attribute(unix.IFA_FLAGS, number(flags))...)
			out = append(out, a)
			return nil
		})
	return out, err
}

// setAddresses gives a device its addresses. A label, such as eth0:1, follows the name of the
// device.
func (c *conn) setAddresses(index int32, addresses []address, oldName, newName string) error {
	for _, a := range addresses {
		binary.NativeEndian.PutUint32(a.header[4:], uint32(index))
		body := append(a.header[:], a.attributes...)
		if rest, ok := strings.CutPrefix(a.label, oldName); ok && len(newName+rest) < unix.IFNAMSIZ {
			body = append(body, attribute(unix.IFA_LABEL, cString(newName+rest))...)
		}
		err := c.request(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, nil)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("give it its addresses: %w", err)
		}
	}
	return nil
}
