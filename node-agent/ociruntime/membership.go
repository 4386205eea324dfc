// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"maps"

	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// membership is the way in which the children of an operation enter the container's cgroup.
type membership struct {
	group *cgroup.Group
	// hierarchies are the hierarchies of version 1 that a child joins by itself, in order. tasks
	// has the descriptor of the tasks file of each.
	hierarchies []string
	tasks       map[plan.Input]int
	// byManager reports whether a child waits at plan.SyncCgroup until attach has had it moved.
	byManager bool
	// unified is the descriptor of the directory of version 2 that a child is created in; 0 for
	// none.
	unified int
}

// open opens the descriptors that a child needs to enter the cgroup, and makes them inputs of the
// operation's own child.
func (m *membership) open(s *session) error {
	if m.byManager = m.group.ByManager(); m.byManager {
		return nil
	}
	if err := m.openUnified(s); err != nil {
		return err
	}
	fds, err := m.group.Tasks()
	if err != nil {
		return err
	}
	m.hierarchies, m.tasks = m.group.Hierarchies(), make(map[plan.Input]int, len(fds))
	for i, name := range m.hierarchies {
		s.closeLater(descriptor(fds[i]))
		m.tasks[plan.InputCgroup(name)] = fds[i]
	}
	m.addTo(s.inputs)
	return nil
}

// openUnified opens the directory of version 2, if there is one and it is not open yet.
func (m *membership) openUnified(s *session) error {
	if m.unified != 0 {
		return nil
	}
	dir, err := m.group.Unified()
	if err != nil || dir == nil {
		return err
	}
	s.closeLater(dir)
	m.unified = int(dir.Fd())
	return nil
}

// addTo adds the tasks files to the inputs of a child.
func (m *membership) addTo(inputs map[plan.Input]int) { maps.Copy(inputs, m.tasks) }

// attach answers a child whose only synchronization point is plan.SyncCgroup.
func (m *membership) attach(s plan.Sync, pid int) error {
	if s != plan.SyncCgroup {
		return errNoAnswer(s)
	}
	return m.group.Attach(pid)
}
