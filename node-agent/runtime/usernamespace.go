// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/launch"
)

// causeInUserNamespace is the likely cause of a failure in a user namespace, where the kernel's one word EPERM has many; empty where
// launch.Cause knows no less.
func (m *maker) causeInUserNamespace(step *launch.StepError) string {
	if !InUserNamespace() && !slices.ContainsFunc(m.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) {
		return ""
	}
	mount := specs.Mount{}
	if i := step.Field.Index; step.Field.Path == "mounts" && i >= 0 && i < len(m.spec.Mounts) {
		mount = m.spec.Mounts[i]
	}
	switch step.Errno {
	case unix.EPERM:
		switch step.Name {
		case "setgroups":
			return fmt.Sprintf("process.user.additionalGids: found %v; setgroups(2) is denied in a user namespace whose group ids a plain user has mapped: map more than one, which newgidmap does, or name no groups", m.spec.Process.User.AdditionalGids)
		case "mount_setattr":
			return "flags that a mount of the host has (ro, nosuid, nodev, noexec, those of the access time) cannot be taken away in a user namespace: ask for the same (mount_namespaces(7), Restrictions on mount namespaces)"
		case "fsmount":
			return "in a user namespace a " + mount.Type + " can be mounted only where nothing covers a part of the host's own, as other containers' masked paths do (\"mount too revealing\"): bind mount the host's"
		case "fsopen", "fsconfig":
			owner := map[string]specs.LinuxNamespaceType{"proc": specs.PIDNamespace, "mqueue": specs.IPCNamespace, "sysfs": specs.NetworkNamespace}[mount.Type]
			if owner != "" {
				return "a user namespace can mount a " + mount.Type + " only with a " + string(owner) + " namespace of its own: add one to linux.namespaces, or bind mount the host's"
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
