// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/launch"
	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// network is a network namespace under way. Nothing else of a container takes as long to make, and a thread does it while the rest is
// read, made and planned.
type network struct {
	// namespaces are those of the document that it is for.
	namespaces []specs.LinuxNamespace
	thread     *launch.Thread
	// fd is what will be its descriptor: one of /dev/null until then, so that its number is known to who plans.
	fd int
	// deadline is that of launch.Thread.Wait.
	deadline time.Duration
}

// newNetwork begins to make the network namespace that a document with these namespaces asks the parent for. It returns nil where there
// is none to make.
func newNetwork(namespaces []specs.LinuxNamespace, deadline time.Duration) (*network, error) {
	n := &network{namespaces: namespaces, deadline: deadline}
	p := plan.BuildNetwork(&specs.Spec{Linux: &specs.Linux{Namespaces: namespaces}})
	if p == nil {
		return nil, nil
	}
	var err error
	if n.fd, err = unix.Open("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	if n.thread, err = launch.StartThread(p, map[plan.Input]int{plan.InputNetwork: n.fd}); err != nil {
		unix.Close(n.fd)
		return nil, err
	}
	return n, nil
}

// wait waits until it is there.
func (n *network) wait() error {
	if n == nil || n.thread == nil {
		return nil
	}
	t := n.thread
	n.thread = nil
	err := t.Wait(n.deadline)
	var failed *launch.StepError
	if err != nil && !errors.As(err, &failed) {
		n.fd = -1 // which stays open: the thread will put its namespace there when it goes on
	}
	return err
}

// close closes the descriptor: the namespace is the container's alone, or gone.
func (n *network) close() {
	if n != nil {
		_ = n.wait() // of a container that has failed already
		if n.fd >= 0 {
			unix.Close(n.fd)
		}
	}
}

// guessNetwork begins to make the network namespace before the document is read, by what looks like its linux.namespaces. It is
// a guess and nothing more: makeNetwork sees whether it was right.
func (m *maker) guessNetwork(document []byte) {
	_, rest, _ := bytes.Cut(document, []byte(`"namespaces"`))
	rest = bytes.TrimLeft(rest, ": \t\r\n")
	var namespaces []specs.LinuxNamespace
	if end := bytes.IndexByte(rest, ']'); json.Unmarshal(rest[:end+1], &namespaces) == nil {
		m.network, _ = newNetwork(namespaces, m.r.deadline) // makeNetwork tries again, and tells
	}
}

// makeNetwork makes the network namespace that the document asks for, if it is not under way.
func (m *maker) makeNetwork() (err error) {
	if m.network == nil || !slices.Equal(m.network.namespaces, m.spec.Linux.Namespaces) {
		m.network.close()
		if m.network, err = newNetwork(m.spec.Linux.Namespaces, m.r.deadline); err != nil {
			return err
		}
	}
	if m.network != nil {
		m.inputs[plan.InputNetwork] = m.network.fd
	}
	return nil
}
