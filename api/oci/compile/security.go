// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/oci/capability"
	"github.com/berth-run/berth/api/v1alpha1"
)

// user compiles the user and the groups of the process. Names in an image's config and the groups
// of /etc/group are the node's to resolve.
func user(d *draft) {
	sc := d.in.SecurityContext
	if sc == nil {
		return
	}
	at := d.path.Child("securityContext")
	if id(d, at.Child("runAsUser"), sc.RunAsUser) {
		d.spec.Process.User.UID = uint32(*sc.RunAsUser)
		d.out.Process.RunAsUser = new(*sc.RunAsUser)
	}
	if id(d, at.Child("runAsGroup"), sc.RunAsGroup) {
		d.spec.Process.User.GID = uint32(*sc.RunAsGroup)
		d.out.Process.RunAsGroup = new(*sc.RunAsGroup)
	}
	for i, g := range sc.SupplementalGroups {
		if id(d, at.Child("supplementalGroups").Index(i), &g) {
			d.spec.Process.User.AdditionalGids = append(d.spec.Process.User.AdditionalGids, uint32(g))
		}
	}
	fsGroup(d, at, sc)
	if sc.RunAsNonRoot != nil && *sc.RunAsNonRoot {
		d.out.Process.RunAsNonRoot = true
		if sc.RunAsUser != nil && *sc.RunAsUser == 0 {
			d.invalid(at.Child("runAsUser"), 0, "runAsNonRoot forbids user 0: set another runAsUser")
		}
		if sc.RunAsUser == nil && d.in.RootFS != nil {
			d.faults = append(d.faults, field.Required(at.Child("runAsUser"),
				"a container with rootfs runs as user 0 where nothing is said, which runAsNonRoot forbids"))
		}
	}
}

// fsGroup compiles the group of volumes, which is one of the process, too.
func fsGroup(d *draft, at *field.Path, sc *v1alpha1.SecurityContext) {
	policy := at.Child("fsGroupChangePolicy")
	if p := sc.FSGroupChangePolicy; p != "" {
		oneOf(d, policy, p, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
		if sc.FSGroup == nil {
			d.refuse(policy, "is for fsGroup: set both, or neither")
		}
	}
	if !id(d, at.Child("fsGroup"), sc.FSGroup) {
		return
	}
	if g := uint32(*sc.FSGroup); !slices.Contains(d.spec.Process.User.AdditionalGids, g) {
		d.spec.Process.User.AdditionalGids = append(d.spec.Process.User.AdditionalGids, g)
	}
	d.security().FSGroup, d.security().FSGroupChangePolicy = new(*sc.FSGroup), sc.FSGroupChangePolicy
}

// id reports whether a user or group id is given and in the range that Kubernetes
// allows: half of the kernel's, so that it fits an int32 everywhere.
func id(d *draft, at *field.Path, v *int64) bool {
	if v == nil {
		return false
	}
	if *v < 0 || *v > math.MaxInt32 {
		d.invalid(at, *v, "must be between 0 and 2147483647, inclusive")
		return false
	}
	if d.ownUsers() && *v > maxOwnUser {
		d.invalid(at, *v, "must be at most 65535 with hostUsers: false")
		return false
	}
	return true
}

// privileges compiles NO_NEW_PRIVS and refuses unsupported fields of securityContext. NO_NEW_PRIVS
// is set unless allowPrivilegeEscalation is true: Berth takes the safe side where a Pod that says
// nothing would be without.
func privileges(d *draft) {
	d.spec.Process.NoNewPrivileges = true
	sc := d.in.SecurityContext
	if sc == nil {
		return
	}
	at := d.path.Child("securityContext")
	if d.privileged() {
		d.spec.Process.NoNewPrivileges = false
		if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
			d.refuse(at.Child("allowPrivilegeEscalation"),
				"a privileged container may gain privileges: remove it or privileged")
		}
	} else if sc.AllowPrivilegeEscalation != nil {
		d.spec.Process.NoNewPrivileges = !*sc.AllowPrivilegeEscalation
	}
	if sc.SELinuxOptions != nil {
		seLinux(d, at.Child("seLinuxOptions"), sc.SELinuxOptions)
	}
	if sc.WindowsOptions != nil {
		d.refuse(at.Child("windowsOptions"), "is for Windows: remove it")
	}
	if sc.AppArmorProfile != nil {
		appArmor(d, at.Child("appArmorProfile"), sc.AppArmorProfile)
	}
	if sc.ProcMount != nil {
		if oneOf(d, at.Child("procMount"), *sc.ProcMount, corev1.DefaultProcMount,
			corev1.UnmaskedProcMount) && d.unmasked() && !d.ownUsers() {
			d.refuse(at.Child("procMount"), "Unmasked shows all of /proc, which takes a user namespace:"+
				" set hostUsers: false")
		}
	}
}

// security returns the settings that the agent finds on its node, for a part to add to them.
func (d *draft) security() *v1alpha1.BundleSecurity {
	if d.out.Security == nil {
		d.out.Security = &v1alpha1.BundleSecurity{}
	}
	return d.out.Security
}

// appArmor passes the AppArmor profile to the agent, which knows whether the node has it.
func appArmor(d *draft, at *field.Path, p *corev1.AppArmorProfile) {
	oneOf(d, at.Child("type"), p.Type, corev1.AppArmorProfileTypeRuntimeDefault,
		corev1.AppArmorProfileTypeUnconfined, corev1.AppArmorProfileTypeLocalhost)
	local, name := p.Type == corev1.AppArmorProfileTypeLocalhost, at.Child("localhostProfile")
	switch {
	case !local && p.LocalhostProfile != nil:
		d.refuse(name, "is for the type Localhost: remove it, or set type")
	case !local:
	case p.LocalhostProfile == nil || *p.LocalhostProfile == "":
		d.faults = append(d.faults, field.Required(name, "name a profile that the node has loaded"))
	case *p.LocalhostProfile == "unconfined":
		d.invalid(name, *p.LocalhostProfile, "is no profile: set type: Unconfined")
	case len(*p.LocalhostProfile) >= maxPath:
		d.faults = append(d.faults, field.TooLong(name, "", maxPath-1))
	case strings.TrimSpace(*p.LocalhostProfile) != *p.LocalhostProfile:
		d.invalid(name, *p.LocalhostProfile, "must not begin or end with white space")
	default:
		noControl(d, name, *p.LocalhostProfile)
	}
	if d.privileged() && p.Type != corev1.AppArmorProfileTypeUnconfined {
		d.refuse(at, "no AppArmor profile confines a privileged container: remove it or privileged")
	}
	d.security().AppArmorProfile = p.DeepCopy()
}

// privileged reports whether the container has the power of the node's root over it. Its program
// has all capabilities, and no seccomp profile unless the user names one; nothing of /proc and /sys
// is hidden or read-only, and all devices of the node are there.
func (d *draft) privileged() bool {
	sc := d.in.SecurityContext
	return sc != nil && sc.Privileged != nil && *sc.Privileged
}

// defaultCapabilities returns the capabilities of a container under Docker, and containerd before
// 2.2: the 14 of the runtime-spec's common practice.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN",
		"CAP_DAC_OVERRIDE",
		"CAP_FSETID",
		"CAP_FOWNER",
		"CAP_MKNOD",
		"CAP_NET_RAW",
		"CAP_SETGID",
		"CAP_SETUID",
		"CAP_SETFCAP",
		"CAP_SETPCAP",
		"CAP_NET_BIND_SERVICE",
		"CAP_SYS_CHROOT",
		"CAP_KILL",
		"CAP_AUDIT_WRITE",
	}
}

// everyCapability is the word for all of them in add and drop.
const everyCapability = "ALL"

// capabilities compiles the sets of process.capabilities. As with containerd the inheritable and
// ambient sets stay empty, so a process of another user than root has none after execve(2). ALL is
// taken first, single names after it, and drop after add.
func capabilities(d *draft) {
	set := defaultCapabilities()
	at := d.path.Child("securityContext", "capabilities")
	sc := d.in.SecurityContext
	switch {
	case d.privileged():
		set = capability.Names()
		if sc.Capabilities != nil {
			d.refuse(at, "a privileged container has all capabilities: remove it or privileged")
		}
	case sc != nil && sc.Capabilities != nil:
		add := capabilityNames(d, at.Child("add"), sc.Capabilities.Add)
		drop := capabilityNames(d, at.Child("drop"), sc.Capabilities.Drop)
		if slices.Contains(add, everyCapability) {
			set = capability.Names()
		}
		if slices.Contains(drop, everyCapability) {
			set = nil
		}
		for _, c := range add {
			if c != everyCapability && !slices.Contains(set, c) {
				set = append(set, c)
			}
		}
		set = slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drop, c) })
	}
	d.spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding:  set,
		Effective: slices.Clone(set),
		Permitted: slices.Clone(set),
	}
}

// capabilityNames returns the kernel's names of the user's capabilities. It accepts them without
// CAP_, as in Kubernetes, and with it, as in capabilities(7), in upper and lower case.
func capabilityNames(d *draft, at *field.Path, in []corev1.Capability) []string {
	var out []string
	for i, c := range in {
		n := strings.ToUpper(string(c))
		if n != everyCapability {
			n = "CAP_" + strings.TrimPrefix(n, "CAP_")
			if _, known := capability.Number(n); !known {
				d.invalid(at.Index(i), string(c),
					"must be ALL or the name of a capability of capabilities(7), such as NET_ADMIN")
				continue
			}
		}
		out = append(out, n)
	}
	return out
}
