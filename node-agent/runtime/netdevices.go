// SPDX-License-Identifier: Apache-2.0

package runtime

import "github.com/berth-run/berth/node-agent/runtime/netdev"

// moveNetDevices moves linux.netDevices. If the container then fails to come into being, they are moved back: its network namespace
// would take virtual devices with it.
func (m *maker) moveNetDevices(pid int) (err error) {
	if m.devices, err = netdev.Move(m.spec.Linux.NetDevices, pid); err != nil {
		return err
	}
	m.undo = append(m.undo, func() {
		if err := m.devices.Back(); err != nil {
			m.r.warn(err.Error())
		}
	})
	return nil
}
