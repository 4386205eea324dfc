// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// withSecurityModules completes the facts of the host with those of the security modules that a document needs; few need any.
func withSecurityModules(host plan.Host, spec *specs.Spec) plan.Host {
	p, l := spec.Process, spec.Linux
	host.AppArmor = p != nil && p.ApparmorProfile != "" && appArmorEnabled()
	host.SELinux = (p != nil && p.SelinuxLabel != "" || l != nil && l.MountLabel != "") && selinuxEnabled()
	return host
}

// appArmorEnabled is whether AppArmor is among the kernel's active security modules (apparmor(7)).
func appArmorEnabled() bool {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(data), "Y")
}

// selinuxEnabled is whether SELinux is active and has a policy, as libselinux finds it: its filesystem can be written to, and processes
// have other contexts than that of a kernel without a policy.
func selinuxEnabled() bool {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/selinux", &st); err != nil || st.Type != unix.SELINUX_MAGIC || st.Flags&unix.ST_RDONLY != 0 {
		return false
	}
	data, err := os.ReadFile("/proc/self/attr/current")
	return err == nil && strings.TrimRight(string(data), "\x00\n") != "kernel"
}
