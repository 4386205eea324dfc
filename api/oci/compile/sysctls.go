// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/oci/validate"
)

// safeSysctls returns the sysctls that the kubelet allows without being configured to: they cannot
// harm other containers of the node.
func safeSysctls() []string {
	return []string{
		"kernel.shm_rmid_forced",
		"net.ipv4.ip_local_port_range",
		"net.ipv4.ip_local_reserved_ports",
		"net.ipv4.ip_unprivileged_port_start",
		"net.ipv4.ping_group_range",
		"net.ipv4.tcp_fin_timeout",
		"net.ipv4.tcp_keepalive_intvl",
		"net.ipv4.tcp_keepalive_probes",
		"net.ipv4.tcp_keepalive_time",
		"net.ipv4.tcp_rmem",
		"net.ipv4.tcp_syncookies",
		"net.ipv4.tcp_wmem",
	}
}

// sysctls compiles linux.sysctl from the parameters of the network and IPC namespaces that are the
// container's own.
func sysctls(d *draft) {
	sc := d.in.SecurityContext
	if sc == nil {
		return
	}
	seen := map[string]bool{}
	for i, s := range sc.Sysctls {
		at := d.path.Child("securityContext", "sysctls").Index(i)
		if !sysctlName(d, at.Child("name"), s.Name) {
			continue
		}
		if file, _ := validate.SysctlFile(s.Name); seen[file] {
			d.faults = append(d.faults, field.Duplicate(at.Child("name"), s.Name))
		} else {
			seen[file] = true
		}
		if strings.ContainsRune(s.Value, 0) {
			d.invalid(at.Child("value"), s.Value, "must not contain a NUL")
		}
		if d.spec.Linux.Sysctl == nil {
			d.spec.Linux.Sysctl = map[string]string{}
		}
		d.spec.Linux.Sysctl[s.Name] = s.Value
	}
}

// sysctlName reports whether a container may set a sysctl.
func sysctlName(d *draft, at *field.Path, name string) bool {
	var host bool
	switch validate.SysctlNamespace(name) {
	case specs.NetworkNamespace:
		host = d.in.HostNetwork
	case specs.IPCNamespace:
		host = d.in.HostIPC
	default:
		d.invalid(at, name, "must be a sysctl of a container's namespaces: net.*, kernel.shm*, "+
			"kernel.msg*, kernel.sem or fs.mqueue.*")
		return false
	}
	if !host && d.in.Network != nil && d.in.Network.Container != "" &&
		validate.SysctlNamespace(name) == specs.NetworkNamespace {
		d.invalid(at, name, fmt.Sprintf(
			"is one of the network of %s: write it there, or remove network.container",
			d.in.Network.Container))
		return false
	}
	if host {
		d.invalid(at, name,
			"is the node's in the node's namespace: remove it, or hostNetwork or hostIPC")
		return false
	}
	if !d.unsafeSysctls && !slices.Contains(safeSysctls(), name) {
		d.invalid(at, name, "is not allowed in a cluster; allowed: kernel.shm_rmid_forced, and of "+
			"net.ipv4 "+strings.Join(safeOfIPv4(), ", "))
		return false
	}
	return true
}

// safeOfIPv4 returns the safe sysctls of net.ipv4 without that prefix.
func safeOfIPv4() []string {
	var names []string
	for _, s := range safeSysctls() {
		if strings.HasPrefix(s, "net.ipv4.") {
			names = append(names, strings.TrimPrefix(path.Ext(s), "."))
		}
	}
	return names
}
