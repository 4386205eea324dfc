// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/internal/selinux"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// WithoutMissingLSM makes the runtime leave out a label of a security module that the kernel has
// not enabled, with a warning that names its field, in place of an error. It is for documents that
// were made for another host; crun does the same without a warning.
func WithoutMissingLSM() Option { return func(r *Runtime) { r.ignoreMissingLSM = true } }

// withSecurityModules completes the facts of the host with those of the security modules that a
// document needs; few need any. With ignore, a document that needs one that is missing becomes one
// without its labels.
func (r *Runtime) withSecurityModules(host plan.Host, spec *specs.Spec, ignore bool) (plan.Host,
	*specs.Spec,
) {
	p, l := spec.Process, spec.Linux
	host.AppArmor = p != nil && p.ApparmorProfile != "" && appArmorEnabled()
	host.SELinux = (p != nil && p.SelinuxLabel != "" || l != nil && l.MountLabel != "") &&
		selinux.Enabled()
	if !ignore {
		return host, spec
	}
	out := *spec
	leave := func(field string, label *string, module string, enabled bool) {
		if *label != "" && !enabled {
			r.warn(fmt.Sprintf("%s: found %q; the kernel has not enabled %s: it is left out", field, *label,
				module))
			*label = ""
		}
	}
	if p != nil {
		process := *p
		out.Process = &process
		leave("process.apparmorProfile", &process.ApparmorProfile, "AppArmor", host.AppArmor)
		leave("process.selinuxLabel", &process.SelinuxLabel, "SELinux", host.SELinux)
	}
	if l != nil {
		linux := *l
		out.Linux = &linux
		leave("linux.mountLabel", &linux.MountLabel, "SELinux", host.SELinux)
	}
	return host, &out
}

// appArmorEnabled reports whether AppArmor is among the kernel's active security modules
// (apparmor(7)).
func appArmorEnabled() bool {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(data), "Y")
}
