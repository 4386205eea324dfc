// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/launch"
	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// beginNetwork begins to make the container's network namespace, where that is for the parent to do.
func (m *maker) beginNetwork() (err error) {
	if p := plan.BuildNetwork(m.spec); p != nil {
		m.network, err = launch.StartThread(p)
	}
	return err
}

// awaitNetwork waits until it is there, for the child to inherit.
func (m *maker) awaitNetwork() error {
	if m.network == nil {
		return nil
	}
	fd, err := m.network.Wait()
	m.network = nil
	if err != nil {
		return err
	}
	m.networkFD = fd
	m.inputs[plan.InputNetwork] = fd
	return nil
}

// leaveNetwork closes the namespace's descriptor: it is the container's alone, or gone.
func (m *maker) leaveNetwork() {
	_ = m.awaitNetwork() // of a container that has failed already
	if m.networkFD > 0 {
		unix.Close(m.networkFD)
	}
}
