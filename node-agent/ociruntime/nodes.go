// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// openNodes mounts the tmpfs for plan.Nodes. It is attached nowhere on the host.
func (m *mountInputs) openNodes() error {
	if len(m.plan.Nodes) == 0 {
		return nil
	}
	fail := func(call string, err error) error {
		return fmt.Errorf("linux.devices: tmpfs for them: %s: %w", call, err)
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail("fsopen", err)
	}
	defer unix.Close(fs)
	options := [][2]string{
		{"source", "berth-devices"},
		{"mode", "0755"},
		{"nr_inodes", strconv.Itoa(len(m.plan.Nodes) + 1)},
		m.plan.NodesContext,
	}
	for _, o := range options {
		if o[0] == "" {
			continue
		}
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return fail("fsconfig "+o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fail("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return fail("fsmount", err)
	}
	m.closeLater(os.NewFile(uintptr(fd), "devices"))
	m.inputs[plan.InputNodes] = fd
	return nil
}

// createNodes creates plan.Nodes, once it is known how the container's user namespace maps ids. If
// this process may not create a device, as in a container with rules for them, the child shows the
// host's.
func (m *mountInputs) createNodes() error {
	for i, n := range m.plan.Nodes {
		dir, name := m.inputs[plan.InputNodes], strconv.Itoa(i)
		err := unix.Mknodat(dir, name, n.Mode, int(n.Device))
		if errors.Is(err, unix.EPERM) {
			m.r.warn(plan.HostDeviceWarning(n.Field.Index, n.Path))
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: mknodat: %w", n.Field, err)
		}
		if err := unix.Fchmodat(dir, name, n.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("%s: fchmodat: %w", n.Field, err)
		}
		uid, gid := m.hostOwner(n, "uid", n.UID, m.spec.Linux.UIDMappings), m.hostOwner(n, "gid", n.GID,
			m.spec.Linux.GIDMappings)
		if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%s: fchownat: %w", n.Field, err)
		}
	}
	return nil
}

// hostOwner returns the number of an owner's id on the host. If the container does not have the id
// the node stays root's on the host, whose id the container does not have either.
func (m *mountInputs) hostOwner(n plan.Node, field string, id uint32,
	mappings []specs.LinuxIDMapping,
) int {
	for _, i := range mappings {
		if id >= i.ContainerID && id-i.ContainerID < i.Size {
			return int(i.HostID + (id - i.ContainerID))
		}
	}
	m.r.warn(fmt.Sprintf(
		"linux.devices[%d].%s: found %d, which the container's user namespace does not map: it shows as %s's overflow id", n.Field.Index, field, id, field))
	return -1 // chown(2): as it is
}
