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
	// folders are those of the cgroup.
	folders []string
	plan    *plan.Plan
	thread  *launch.Thread // nil once it has ended
	// network is what will be the namespace's descriptor: one of /dev/null until then.
	network int
	// hold and begin are the ends of a pipe: while nothing is written to it the thread makes no folder. Both are -1 without folders.
	hold, begin int
	// begun is whether it may make folders, and connected whether the network is there.
	begun, connected bool
	// made is how many of the folders are there.
	made int
	// deadline is that of launch.Thread.Await.
	deadline time.Duration
}

// newGroundwork begins with the network namespace that a document with these namespaces asks the parent for. It returns nil where there
// is none to make. The folders wait for makeFolders.
func newGroundwork(namespaces []specs.LinuxNamespace, folders []string, deadline time.Duration) (_ *groundwork, err error) {
	g := &groundwork{folders: folders, deadline: deadline, network: -1, hold: -1, begin: -1}
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
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return nil, os.NewSyscallError("pipe2", err)
		}
		g.hold, g.begin = pipe[0], pipe[1]
		inputs[plan.InputGo] = g.hold
	}
	g.thread, err = launch.StartThread(g.plan, inputs)
	return g, err
}

// makeFolders lets the thread make the folders of a cgroup, if they are the ones that it has been begun for.
func (g *groundwork) makeFolders(folders []string) {
	if g != nil && g.begin >= 0 && slices.Equal(g.folders, folders) {
		_, err := unix.Write(g.begin, []byte{0})
		g.begun = err == nil
	}
}

// wait waits until the network is there.
func (g *groundwork) wait() error {
	if g == nil || g.connected {
		return nil
	}
	g.connected = true
	return g.await(len(g.folders) == 0)
}

// waitFolders waits until the folders are there. It reports false where not all of them are, whether for an error or since the thread was not
// to make them.
func (g *groundwork) waitFolders() (bool, error) {
	if g == nil || !g.begun {
		return false, nil
	}
	if err := g.wait(); err != nil || g.thread == nil {
		return false, err
	}
	err := g.await(true)
	var failed *launch.StepError
	switch {
	case err == nil:
		g.made = len(g.folders)
	case errors.As(err, &failed):
		// The folders are its last steps before it reports.
		g.made = failed.Index - (len(g.plan.Steps) - 1 - len(g.folders))
		return false, nil // who makes them after it tells, if it is an error
	}
	return err == nil, err
}

// await waits for what the thread reports next.
func (g *groundwork) await(last bool) error {
	err := g.thread.Await(g.deadline)
	var failed *launch.StepError
	switch {
	case err == nil && last, errors.As(err, &failed):
		g.thread = nil
	case err != nil:
		g.stays()
	}
	return err
}

// stays leaves all to a thread that cannot be waited for: it will put its namespace there when it goes on.
func (g *groundwork) stays() { g.thread, g.network, g.hold = nil, -1, -1 }

// undo removes the folders that the thread has made.
func (g *groundwork) undo() error { return cgroup.Remove(g.folders[:g.made]) }

// close ends what is under way, and closes the descriptors: the namespace is the container's alone, or gone.
func (g *groundwork) close() {
	if g == nil {
		return
	}
	_, _ = g.waitFolders() // of a container that has failed already; undo takes them away
	if g.begin >= 0 {
		unix.Close(g.begin)
	}
	if g.thread != nil {
		if err := g.thread.Stop(g.deadline); err != nil {
			g.stays()
		}
		g.thread = nil
	}
	for _, fd := range []int{g.network, g.hold} {
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
