// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// namespaces returns linux.namespaces: those that containerd creates for a container of a Pod,
// without those that the user shares with the host.
func namespaces(d *draft) {
	add := func(t specs.LinuxNamespaceType) {
		d.spec.Linux.Namespaces = append(d.spec.Linux.Namespaces, specs.LinuxNamespace{Type: t})
	}
	if !d.in.HostPID {
		add(specs.PIDNamespace)
	}
	if !d.in.HostNetwork {
		add(specs.NetworkNamespace)
	}
	if !d.in.HostIPC {
		add(specs.IPCNamespace)
	}
	// The host's name goes with the host's network, as in a Pod.
	if !d.in.HostNetwork {
		add(specs.UTSNamespace)
	}
	add(specs.MountNamespace)
	add(specs.CgroupNamespace)
}

// maxOwnUser is the last id in a user namespace.
const maxOwnUser = 65535

// ownUsers reports whether the container has a user namespace.
func (d *draft) ownUsers() bool { return d.in.HostUsers != nil && !*d.in.HostUsers }

// users passes the wish for a user namespace to the agent, which has the ids.
func users(d *draft) {
	d.out.HostUsers = d.in.HostUsers != nil && *d.in.HostUsers
	if !d.ownUsers() {
		return
	}
	d.out.UserNamespace = true
	at := d.path.Child("hostUsers")
	if d.in.HostNetwork || d.in.HostPID || d.in.HostIPC {
		d.refuse(at, "a user namespace does not own the node's namespaces: remove hostUsers, or"+
			" hostNetwork, hostPID and hostIPC")
	}
	if d.privileged() {
		d.refuse(at, "a privileged container has the power of the node's root: remove hostUsers or privileged")
	}
}

// unmasked reports whether all of /proc is to be seen.
func (d *draft) unmasked() bool {
	sc := d.in.SecurityContext
	return sc != nil && sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount
}

// maskedPaths returns the masked paths of containerd 2 and, with /proc/interrupts, of the kubelet:
// they show the host, or other containers on it.
func maskedPaths() []string {
	return []string{
		"/proc/acpi",
		"/proc/asound",
		"/proc/interrupts",
		"/proc/kcore",
		"/proc/keys",
		"/proc/latency_stats",
		"/proc/timer_list",
		"/proc/timer_stats",
		"/proc/sched_debug",
		"/proc/scsi",
		"/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
}

// hiddenPaths compiles linux.maskedPaths and linux.readonlyPaths.
func hiddenPaths(d *draft) {
	if d.privileged() || d.unmasked() {
		return
	}
	d.spec.Linux.MaskedPaths = maskedPaths()
	d.spec.Linux.ReadonlyPaths = []string{
		"/proc/bus",
		"/proc/fs",
		"/proc/irq",
		"/proc/sys",
		"/proc/sysrq-trigger",
	}
}
