// SPDX-License-Identifier: Apache-2.0

package compile

import "github.com/opencontainers/runtime-spec/specs-go"

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
	if d.privileged() {
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
