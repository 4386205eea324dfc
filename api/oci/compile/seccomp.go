// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"
	"strings"
	"syscall"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// oldestKernel is the oldest kernel that Berth supports on a node; a rule of the profile that
// needs a newer one is left out.
var oldestKernel = seccomp.KernelVersion{Kernel: 5, Major: 14}

// seccompProfile compiles linux.seccomp: the default profile of moby unless the user says
// Unconfined, or the container is privileged and the user says nothing. A file of the node is the
// agent's to read.
func seccompProfile(d *draft) {
	if sc := d.in.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		at := d.path.Child("securityContext", "seccompProfile")
		p := sc.SeccompProfile
		ok := oneOf(d, at.Child("type"), p.Type, corev1.SeccompProfileTypeRuntimeDefault,
			corev1.SeccompProfileTypeUnconfined, corev1.SeccompProfileTypeLocalhost)
		local := p.Type == corev1.SeccompProfileTypeLocalhost
		localhostSeccomp(d, at.Child("localhostProfile"), local, p.LocalhostProfile)
		if !ok || local || p.Type == corev1.SeccompProfileTypeUnconfined {
			return
		}
	} else if d.privileged() {
		return
	}
	d.spec.Linux.Seccomp = defaultSeccomp(d.arch, d.spec.Process.Capabilities.Bounding)
	if !d.in.AllowSocketcall {
		denySocketcall(d.spec.Linux.Seccomp)
	}
}

// localhostSeccomp passes the path of a seccomp profile to the agent.
func localhostSeccomp(d *draft, at *field.Path, local bool, file *string) {
	switch {
	case !local && file != nil:
		d.refuse(at, "is for the type Localhost: remove it, or set type")
	case !local:
	case file == nil || *file == "":
		d.faults = append(d.faults, field.Required(at,
			"name a file below the node's directory of seccomp profiles"))
	case strings.HasPrefix(*file, "/"):
		d.invalid(at, *file, "is relative to the node's directory of seccomp profiles: remove the leading /")
	case slices.Contains(strings.Split(*file, "/"), ".."):
		d.invalid(at, *file, `must not contain ".."`)
	case len(*file) > maxPath:
		d.faults = append(d.faults, field.TooLong(at, "", maxPath))
	default:
		noControl(d, at, *file)
		d.security().LocalhostSeccompProfile = *file
	}
	if local && d.in.AllowSocketcall {
		d.refuse(d.path.Child("allowSocketcall"), "changes the default seccomp profile: remove it,"+
			" and allow socketcall in the file of localhostProfile")
	}
}

// maxPath is the longest path of the kernel (PATH_MAX).
const maxPath = 4096

// denySocketcall makes socketcall(2) fail in a profile that allows it. i386, s390, ppc and 32-bit
// MIPS have that call beside socket(2): its address family is behind a pointer, which a filter
// cannot follow, so it would open the sockets that the profile's rules for socket(2) deny (AF_ALG,
// AF_VSOCK). Without a rule for it libseccomp lets it pass wherever some socket(2) may. The rule
// stands first, and its action is not the default one, because runc drops rules of the default
// action. ENOSYS is the errno on which C libraries fall back to socket(2).
func denySocketcall(profile *specs.LinuxSeccomp) {
	const name = "socketcall"
	rules := []specs.LinuxSyscall{{
		Names: []string{name}, Action: specs.ActErrno, ErrnoRet: new(uint(syscall.ENOSYS)),
	}}
	for _, rule := range profile.Syscalls {
		if slices.Contains(rule.Names, name) {
			names := slices.Clone(rule.Names) // the library's own list
			rule.Names = slices.DeleteFunc(names, func(n string) bool { return n == name })
		}
		if len(rule.Names) > 0 {
			rules = append(rules, rule)
		}
	}
	profile.Syscalls = rules
}

// defaultSeccomp resolves the conditions of moby's default profile for a
// machine and a set of capabilities. The library's own function for that reads
// the kernel version and architecture of the machine that it runs on, which is
// not the node.
func defaultSeccomp(goarch string, caps []string) *specs.LinuxSeccomp {
	profile := seccomp.DefaultProfile()
	out := profile.LinuxSeccomp
	for _, a := range profile.ArchMap {
		if a.Arch == seccompArch(goarch) {
			out.Architectures = append([]specs.Arch{a.Arch}, a.SubArches...)
		}
	}
	arch := profileArch(goarch)
	for _, call := range profile.Syscalls {
		if f := call.Includes; f != nil {
			if len(f.Arches) > 0 && !slices.Contains(f.Arches, arch) {
				continue
			}
			if slices.ContainsFunc(f.Caps, func(c string) bool { return !slices.Contains(caps, c) }) {
				continue
			}
			if f.MinKernel != nil && !kernelHas(*f.MinKernel) {
				continue
			}
		}
		if f := call.Excludes; f != nil {
			if slices.Contains(f.Arches, arch) {
				continue
			}
			if slices.ContainsFunc(f.Caps, func(c string) bool { return slices.Contains(caps, c) }) {
				continue
			}
			if f.MinKernel != nil && kernelHas(*f.MinKernel) {
				continue
			}
		}
		out.Syscalls = append(out.Syscalls, call.LinuxSyscall)
	}
	return &out
}

func kernelHas(need seccomp.KernelVersion) bool {
	if need.Kernel != oldestKernel.Kernel {
		return need.Kernel < oldestKernel.Kernel
	}
	return need.Major <= oldestKernel.Major
}

// profileArch returns the profile's name of a GOARCH in its conditions.
func profileArch(goarch string) string {
	switch goarch {
	case "386":
		return "x86"
	case "loong64":
		return "loongarch64"
	case "mips64le":
		return "mipsel64"
	}
	return goarch
}

// seccompArch returns the runtime-spec's name of a GOARCH. Those that are absent have
// no entry in the profile's table; a runtime then filters its own architecture.
func seccompArch(goarch string) specs.Arch {
	switch goarch {
	case "amd64":
		return specs.ArchX86_64
	case "arm64":
		return specs.ArchAARCH64
	case "riscv64":
		return specs.ArchRISCV64
	case "loong64":
		return specs.ArchLOONGARCH64
	case "s390x":
		return specs.ArchS390X
	case "mips64":
		return specs.ArchMIPS64
	case "mips64le":
		return specs.ArchMIPSEL64
	}
	return ""
}
