// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// prepareUserNamespace does the work for a child in a new user namespace that needs rights outside
// of it.
func prepareUserNamespace(spec *specs.Spec, pid int) error {
	if err := writeIDMaps(spec, pid); err != nil {
		return err
	}
	raiseLimits(spec, pid)
	adj := spec.Process.OOMScoreAdj
	if adj == nil {
		return nil
	}
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(*adj)), 0)
	var errno unix.Errno
	if errors.As(err, &errno) {
		if cause := plan.Cause("process.oomScoreAdj", "write", errno); cause != "" {
			err = fmt.Errorf("%w; likely cause: %s", err, cause)
		}
	}
	if err != nil {
		return fmt.Errorf("process.oomScoreAdj: found %d: %w", *adj, err)
	}
	return nil
}

// raiseLimits raises hard limits that the child is to have above its own: in the user namespace
// nobody may (prlimit(2) asks for CAP_SYS_RESOURCE in the first one). To set them is the child's,
// late in its plan, and so is the error where this was not allowed either.
func raiseLimits(spec *specs.Spec, pid int) {
	for _, l := range spec.Process.Rlimits {
		resource, ok := plan.RlimitNumber(l.Type)
		var now unix.Rlimit
		if !ok || unix.Prlimit(pid, resource, nil, &now) != nil || l.Hard <= now.Max {
			continue
		}
		_ = unix.Prlimit(pid, resource, &unix.Rlimit{Cur: now.Cur, Max: l.Hard}, nil)
	}
}

// idMap is one of the two files that map the ids of a user namespace.
type idMap struct {
	field, file, helper, database string
	own                           int // this process's id
	mappings                      []specs.LinuxIDMapping
}

// writeIDMaps writes the child's gid_map and uid_map (user_namespaces(7)). Who may not map others'
// ids can map his own, and those that subuid(5) and subgid(5) give him through the setuid programs
// newuidmap(1) and newgidmap(1).
func writeIDMaps(spec *specs.Spec, pid int) error {
	for _, m := range []idMap{
		{
			"linux.gidMappings", "gid_map", "newgidmap", "/etc/subgid", os.Getegid(),
			spec.Linux.GIDMappings,
		},
		{
			"linux.uidMappings", "uid_map", "newuidmap", "/etc/subuid", os.Geteuid(),
			spec.Linux.UIDMappings,
		},
	} {
		if err := m.write(pid); err != nil {
			return err
		}
	}
	return nil
}

func (m idMap) write(pid int) error {
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	own := len(m.mappings) == 1 && m.mappings[0].Size == 1 && m.mappings[0].HostID == uint32(m.own)
	if own && m.file == "gid_map" && os.Geteuid() != 0 {
		// Who could drop a group could get at what the group is kept from: the kernel wants it
		// ruled out.
		if err := os.WriteFile(proc+"setgroups", []byte("deny"), 0); err != nil {
			return fmt.Errorf("%s: deny setgroups(2): %w", m.field, err)
		}
	}
	var b strings.Builder
	for _, id := range m.mappings {
		fmt.Fprintf(&b, "%d %d %d\n", id.ContainerID, id.HostID, id.Size)
	}
	err := os.WriteFile(proc+m.file, []byte(b.String()), 0)
	switch {
	case err == nil:
		return nil
	case own || !errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w", m.field, err)
	}
	helper, err := exec.LookPath(m.helper)
	if err != nil {
		return fmt.Errorf(
			"%s: found more than one's own id, which takes %s (Debian's package uidmap): %w", m.field,
			m.helper, err)
	}
	args := []string{strconv.Itoa(pid)}
	for _, id := range m.mappings {
		for _, n := range []uint32{id.ContainerID, id.HostID, id.Size} {
			args = append(args, strconv.FormatUint(uint64(n), 10))
		}
	}
	out, err := exec.Command(helper, args...).CombinedOutput() //nolint:gosec // the arguments are numbers
	if err != nil {
		return fmt.Errorf("%s: %s %s: %w: %s (%s says which ids a user may map)", m.field, m.helper,
			strings.Join(args, " "), err, strings.TrimSpace(string(out)), m.database)
	}
	return nil
}
