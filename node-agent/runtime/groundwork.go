// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/cgroup"
	"github.com/berth-run/berth/node-agent/runtime/launch"
	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// groundwork is what takes longest to make of a container, its network namespace and the folders of its cgroups, under way. A thread does it
// while the rest is read, made and planned.
type groundwork struct {
	plan   *plan.Plan
	thread *launch.Thread // nil once it has been given up
	// network is what will be the namespace's descriptor: one of /dev/null until then.
	network int
	// connected is whether the network has been waited for, and failed the error with which that ended.
	connected bool
	failed    error
	// folders are those that the thread is to make, and made is how many of them are there.
	folders []string
	made    int
	// token is a pipe, -1 without folders. Who takes the byte that makeFolders puts in it makes the folders, and nobody else. offered is
	// whether it is there or has been taken by the thread.
	token   [2]int
	offered bool
	// deadline is that of launch.Thread.
	deadline time.Duration
}

// newGroundwork begins with the network namespace that a document with these namespaces asks the parent for. It returns nil where there
// is none to make. The folders wait for makeFolders.
func newGroundwork(namespaces []specs.LinuxNamespace, folders []string, deadline time.Duration) (_ *groundwork, err error) {
	g := &groundwork{folders: folders, deadline: deadline, network: -1, token: [2]int{-1, -1}}
	g.plan = plan.BuildGroundwork(&specs.Spec{Linux: &specs.Linux{Namespaces: namespaces}}, folders)
	if g.plan == nil {
		return nil, nil
	}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if g.network, err = unix.Open("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	inputs := map[plan.Input]int{plan.InputNetwork: g.network}
	if len(folders) > 0 {
		if err := unix.Pipe2(g.token[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return nil, os.NewSyscallError("pipe2", err)
		}
		inputs[plan.InputGo] = g.token[0]
	}
	if g.thread, err = launch.StartThread(g.plan, inputs); err != nil {
		return nil, err
	}
	return g, nil
}

// makeFolders lets the thread make the folders of a cgroup, if they are the ones that it has been begun for.
func (g *groundwork) makeFolders(folders []string) {
	if g != nil && g.token[1] >= 0 && slices.Equal(g.folders, folders) {
		_, err := unix.Write(g.token[1], []byte{0})
		g.offered = err == nil
	}
}

// takeFolders waits until the folders are there. It reports false where the thread has not made all of them, for an error or since it has not
// come so far yet; it makes none any more then.
func (g *groundwork) takeFolders() (bool, error) {
	if g == nil || !g.offered {
		return false, nil
	}
	g.offered = false
	if n, _ := unix.Read(g.token[0], make([]byte, 1)); n == 1 {
		return false, nil
	}
	if err := g.connect(); err != nil {
		return false, err
	}
	err := g.await()
	var failed *launch.StepError
	if errors.As(err, &failed) {
		// The folders are its last steps before it reports. Who makes them after it tells, if this is an error.
		g.made, err = failed.Index-(len(g.plan.Steps)-1-len(g.folders)), nil
	} else if err == nil {
		g.made = len(g.folders)
	}
	return g.made == len(g.folders), err
}

// connect waits until the network is there.
func (g *groundwork) connect() error {
	if g == nil {
		return nil
	}
	if !g.connected {
		g.connected, g.failed = true, g.await()
	}
	return g.failed
}

// await waits for what the thread reports next.
func (g *groundwork) await() error {
	err := g.thread.Await(g.deadline)
	var failed *launch.StepError
	if err != nil && !errors.As(err, &failed) {
		g.giveUp()
	}
	return err
}

// giveUp leaves the descriptors to a thread that cannot be waited for: it will put its namespace there when it goes on.
func (g *groundwork) giveUp() { g.thread, g.network, g.token[0] = nil, -1, -1 }

// undo removes the folders that the thread has made.
func (g *groundwork) undo() error { return cgroup.Remove(g.folders[:g.made]) }

// close waits for what is under way, and closes the descriptors: the namespace is the container's alone, or gone.
func (g *groundwork) close() {
	if g == nil {
		return
	}
	_, _ = g.takeFolders() // of a container that has failed already; undo takes them away
	if g.thread != nil && g.thread.End(g.deadline) != nil {
		g.giveUp()
	}
	for _, fd := range []int{g.network, g.token[0], g.token[1]} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// begin begins with the groundwork of a document that is not validated yet. It tells no error: makeGroundwork tries again.
func (m *maker) begin(id string, spec *specs.Spec) {
	if spec.Linux != nil {
		m.groundwork, _ = newGroundwork(spec.Linux.Namespaces, m.foldersOf(id, spec), m.r.deadline)
	}
}

// foldersOf are the folders of the cgroup that a document asks for, if they can be made meanwhile.
func (m *maker) foldersOf(id string, spec *specs.Spec) []string {
	host, err := m.r.Host()
	if err != nil || m.r.manager != cgroup.Cgroupfs || m.r.isRootless(host) || !plan.CgroupsLater(spec, host) {
		return nil
	}
	group, err := cgroup.New(spec, id, host.Cgroup, false)
	if err != nil {
		return nil
	}
	return group.Folders()
}

// makeGroundwork begins with the network namespace that the document asks for, if that has not been done.
func (m *maker) makeGroundwork() (err error) {
	if m.groundwork == nil {
		if m.groundwork, err = newGroundwork(m.spec.Linux.Namespaces, nil, m.r.deadline); err != nil {
			return err
		}
	}
	if m.groundwork != nil {
		m.inputs[plan.InputNetwork] = m.groundwork.network
	}
	return nil
}
