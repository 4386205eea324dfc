// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/node-agent/ociruntime/launch"
)

// causeInUserNamespace returns the likely cause of a failure in a user namespace, where EPERM has
// many; it is empty if plan.Cause knows as much.
func causeInUserNamespace(step *launch.StepError, spec *specs.Spec) string {
	if !InUserNamespace() && !slices.ContainsFunc(spec.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool {
			return n.Type == specs.UserNamespace
		}) {
		return ""
	}
	mount := specs.Mount{}
	if i := step.Field.Index; step.Field.Path == "mounts" && i >= 0 && i < len(spec.Mounts) {
		mount = spec.Mounts[i]
	}
	switch step.Errno {
	case unix.EPERM:
		switch step.Name {
		case "setgroups":
			return fmt.Sprintf(
				"process.user.additionalGids: found %v; setgroups(2) is denied in a user namespace whose group ids a plain user has mapped: map more than one, which newgidmap does, or name no groups", spec.Process.User.AdditionalGids)
		case "mount_setattr":
			return "flags that a mount of the host has (ro, nosuid, nodev, noexec, those of the access time) cannot be taken away in a user namespace: ask for the same (mount_namespaces(7), Restrictions on mount namespaces)"
		case "fsmount":
			return "in a user namespace a " + mount.Type +
				" can be mounted only where nothing covers a part of the host's own, as other containers' masked paths do (\"mount too revealing\"): bind mount the host's"
		case "fsopen", "fsconfig":
			owner := map[string]specs.LinuxNamespaceType{
				"proc":   specs.PIDNamespace,
				"mqueue": specs.IPCNamespace, "sysfs": specs.NetworkNamespace,
			}[mount.Type]
			if owner != "" {
				return "a user namespace can mount a " + mount.Type + " only with a " + string(owner) +
					" namespace of its own: add one to linux.namespaces, or bind mount the host's"
			}
		}
	case unix.EINVAL:
		if step.Name == "open_tree" {
			return "in a user namespace a bind mount takes along all that is mounted below its source: use rbind"
		}
	case unix.EACCES:
		if step.Name == "open_tree" {
			return "the user may not pass a folder on the way"
		}
	}
	return ""
}

// MapCaller maps the ids of the process's user to those of the caller where a document has a new
// user namespace and no mappings, as crun does. It returns a warning for each field that it has
// filled in.
func MapCaller(spec *specs.Spec) document.Faults {
	isNew := func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace && n.Path == "" }
	if spec.Linux == nil || spec.Process == nil || !slices.ContainsFunc(spec.Linux.Namespaces, isNew) {
		return nil
	}
	var filled document.Faults
	fill := func(field string, id uint32, own int) []specs.LinuxIDMapping {
		filled = append(filled, document.Fault{
			Path: field, Found: "nothing", Severity: document.Warning,
			Allowed: "the mappings of the new user namespace; the process's user is the caller",
		})
		return []specs.LinuxIDMapping{{ContainerID: id, HostID: uint32(own), Size: 1}}
	}
	user := spec.Process.User
	if len(spec.Linux.UIDMappings) == 0 {
		spec.Linux.UIDMappings = fill("linux.uidMappings", user.UID, os.Geteuid())
	}
	if len(spec.Linux.GIDMappings) == 0 {
		spec.Linux.GIDMappings = fill("linux.gidMappings", user.GID, os.Getegid())
	}
	return filled
}

// joinedUserNamespace returns the index in linux.namespaces of a user namespace to join, -1 without
// one.
func joinedUserNamespace(spec *specs.Spec) int {
	return slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.UserNamespace && n.Path != ""
	})
}

// learnUserNamespace does the work that needs the mappings of a user namespace that the child has
// joined. Those of the document, which engines may have copied from there, have to be the same.
func (c *creation) learnUserNamespace(pid int) error {
	said := [2][]specs.LinuxIDMapping{c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings}
	if err := readMappings(c.spec, pid); err != nil {
		return err
	}
	for i, real := range [2][]specs.LinuxIDMapping{
		c.spec.Linux.UIDMappings,
		c.spec.Linux.GIDMappings,
	} {
		if len(said[i]) > 0 && !sameMappings(said[i], real) {
			return fmt.Errorf(
				"%s: found %v; the user namespace of linux.namespaces[%d].path has %v: leave the mappings out, or say the same",
				[2]string{"linux.uidMappings", "linux.gidMappings"}[i], said[i],
				joinedUserNamespace(c.spec), real)
		}
	}
	raiseLimits(c.spec, pid)
	c.streams.giveTo(c.spec)
	return c.cgroup.group.Delegate(c.spec)
}

// readMappings sets the mappings of a document to those of a process's user namespace.
func readMappings(spec *specs.Spec, pid int) error {
	for _, f := range []struct {
		name string
		into *[]specs.LinuxIDMapping
	}{{"uid_map", &spec.Linux.UIDMappings}, {"gid_map", &spec.Linux.GIDMappings}} {
		file := "/proc/" + strconv.Itoa(pid) + "/" + f.name
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("linux.namespaces[%d].path: %w", joinedUserNamespace(spec), err)
		}
		*f.into = nil
		for line := range strings.Lines(string(data)) {
			var id specs.LinuxIDMapping
			if _, err := fmt.Sscan(line, &id.ContainerID, &id.HostID, &id.Size); err != nil {
				return fmt.Errorf("%s: found %q; want three numbers: %w", file, line, err)
			}
			*f.into = append(*f.into, id)
		}
	}
	return nil
}

// sameMappings reports whether two lists map the same ids, in whatever order.
func sameMappings(a, b []specs.LinuxIDMapping) bool {
	sorted := func(l []specs.LinuxIDMapping) []specs.LinuxIDMapping {
		return slices.SortedFunc(slices.Values(l), func(x, y specs.LinuxIDMapping) int {
			return int(int64(x.ContainerID) - int64(y.ContainerID))
		})
	}
	return slices.Equal(sorted(a), sorted(b))
}
