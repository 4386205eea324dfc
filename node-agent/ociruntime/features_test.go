// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
	"github.com/berth-run/berth/node-agent/ociruntime/seccomp"
)

// TestFeatures holds what the features document claims against what a plan can be made of: a field
// that is claimed is honoured, and one that is honoured is claimed.
func TestFeatures(t *testing.T) {
	leaktest.Check(t)
	data, err := json.Marshal(Features())
	if err != nil {
		t.Fatal(err)
	}
	var f features.Features
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	build := func(change func(*specs.Spec)) error {
		spec := &specs.Spec{
			Version: specs.Version, Root: &specs.Root{Path: "rootfs"},
			Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/", NoNewPrivileges: true},
			Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}},
			Hooks:   &specs.Hooks{},
		}
		change(spec)
		o := plan.Options{
			ID: "id", Bundle: "/b", Rootfs: "/b/rootfs",
			CgroupPaths: map[string]string{"": "/sys/fs/cgroup/id"},
		}
		if spec.Linux.Seccomp != nil {
			var err error
			if o.Seccomp, _, err = seccomp.Compile(spec.Linux.Seccomp); err != nil {
				return err
			}
		}
		// What the document says has nothing to do with what this host has (features.md).
		host := plan.Host{
			LastCapability: 40, Permitted: 1<<41 - 1, AppArmor: true, SELinux: true,
			Cgroup: cgrouplayout.Layout{Unified: true},
		}
		_, err := plan.Build(spec, host, o)
		return err
	}
	claim := func(what string, claimed bool, change func(*specs.Spec)) {
		t.Helper()
		if err := build(change); (err == nil) != claimed {
			t.Errorf("%s: claimed: %v, but a plan says: %v", what, claimed, err)
		}
	}
	for _, ns := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace,
		specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace, "none",
	} {
		claim("linux.namespaces "+string(ns), slices.Contains(f.Linux.Namespaces, string(ns)),
			func(s *specs.Spec) {
				if ns != specs.MountNamespace {
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: ns})
				}
			})
	}
	for _, action := range []specs.LinuxSeccompAction{
		specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
		specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify, "SCMP_ACT_NONE",
	} {
		claim("linux.seccomp action "+string(action), slices.Contains(f.Linux.Seccomp.Actions,
			string(action)), func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, ListenerPath: "/run/agent",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"chroot"}, Action: action}},
			}
		})
	}
	for _, op := range []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual,
		specs.OpGreaterThan, specs.OpMaskedEqual, "SCMP_CMP_NONE",
	} {
		claim("linux.seccomp operator "+string(op), slices.Contains(f.Linux.Seccomp.Operators,
			string(op)), func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{
					Names: []string{"chroot"}, Action: specs.ActErrno,
					Args: []specs.LinuxSeccompArg{{Value: 1, Op: op}},
				}},
			}
		})
	}
	for _, flag := range []specs.LinuxSeccompFlag{
		specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow,
		specs.LinuxSeccompFlagWaitKillableRecv, "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_NONE",
	} {
		claim("linux.seccomp flag "+string(flag), slices.Contains(f.Linux.Seccomp.SupportedFlags,
			string(flag)), func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Flags:         []specs.LinuxSeccompFlag{flag},
			}
		})
	}
	// Recognized is what the document says of these: one of the other byte order is known, and its
	// filter cannot be loaded here. X32 goes only together with X86_64, which where it is not the
	// machine's own has to be named.
	for _, arch := range append(f.Linux.Seccomp.Archs, "SCMP_ARCH_NONE") {
		architectures := []specs.Arch{specs.Arch(arch)}
		if architectures[0] == specs.ArchX32 && goruntime.GOARCH != "amd64" {
			architectures = append(architectures, specs.ArchX86_64)
		}
		err := build(func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Architectures: architectures,
			}
		})
		recognized := err == nil || strings.Contains(err.Error(), "byte order")
		if recognized != (arch != "SCMP_ARCH_NONE") {
			t.Errorf("linux.seccomp architecture %s: %v", arch, err)
		}
	}
	for _, mode := range []specs.MemoryPolicyModeType{
		specs.MpolDefault, specs.MpolBind, specs.MpolInterleave, specs.MpolWeightedInterleave,
		specs.MpolPreferred, specs.MpolPreferredMany, specs.MpolLocal, "MPOL_NONE",
	} {
		claim("linux.memoryPolicy mode "+string(mode), slices.Contains(f.Linux.MemoryPolicy.Modes,
			string(mode)), func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: mode}
		})
	}
	for _, flag := range []specs.MemoryPolicyFlagType{
		specs.MpolFNumaBalancing,
		specs.MpolFRelativeNodes, specs.MpolFStaticNodes, "MPOL_F_NONE",
	} {
		claim("linux.memoryPolicy flag "+string(flag), slices.Contains(f.Linux.MemoryPolicy.Flags,
			string(flag)), func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{
				Mode: specs.MpolBind, Nodes: "0",
				Flags: []specs.MemoryPolicyFlagType{flag},
			}
		})
	}
	for name, list := range map[string]func(*specs.Hooks) *[]specs.Hook{
		"prestart":        func(h *specs.Hooks) *[]specs.Hook { return &h.Prestart }, //nolint:staticcheck // deprecated, not gone
		"createRuntime":   func(h *specs.Hooks) *[]specs.Hook { return &h.CreateRuntime },
		"createContainer": func(h *specs.Hooks) *[]specs.Hook { return &h.CreateContainer },
		"startContainer":  func(h *specs.Hooks) *[]specs.Hook { return &h.StartContainer },
		"poststart":       func(h *specs.Hooks) *[]specs.Hook { return &h.Poststart },
		"poststop":        func(h *specs.Hooks) *[]specs.Hook { return &h.Poststop },
	} {
		claim("hooks."+name, slices.Contains(f.Hooks, name), func(s *specs.Spec) {
			*list(s.Hooks) = []specs.Hook{{Path: "/bin/hook"}}
		})
	}
	claim("process.apparmorProfile", *f.Linux.Apparmor.Enabled, func(s *specs.Spec) {
		s.Process.ApparmorProfile = "unconfined"
	})
	claim("process.selinuxLabel", *f.Linux.Selinux.Enabled, func(s *specs.Spec) {
		s.Process.SelinuxLabel = "system_u:system_r:container_t:s0"
	})
	claim("linux.intelRdt", *f.Linux.IntelRdt.Enabled && *f.Linux.IntelRdt.Schemata &&
		*f.Linux.IntelRdt.Monitoring, func(s *specs.Spec) {
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"L3:0=f"}, EnableMonitoring: true}
	})
	claim("linux.netDevices", *f.Linux.NetDevices.Enabled, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces,
			specs.LinuxNamespace{Type: specs.NetworkNamespace})
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {}}
	})
	claim("idmapped mounts", *f.Linux.MountExtensions.IDMap.Enabled, func(s *specs.Spec) {
		ids := []specs.LinuxIDMapping{{HostID: 1000, Size: 1}}
		s.Mounts = []specs.Mount{{Destination: "/m", Type: "bind", Source: "/s", Options: []string{
			"bind",
			"idmap",
		}, UIDMappings: ids, GIDMappings: ids}}
	})
	for _, option := range f.MountOptions {
		claim("mount option "+option, true, func(s *specs.Spec) {
			m := specs.Mount{Destination: "/m", Type: "bind", Source: "/s", Options: []string{
				"bind",
				option,
			}}
			switch option {
			case "tmpcopyup":
				m.Type, m.Options = "tmpfs", m.Options[1:]
			case "idmap", "ridmap":
				m.UIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 1}}
				m.GIDMappings = m.UIDMappings
			}
			s.Mounts = []specs.Mount{m}
		})
	}
	if len(f.Linux.Capabilities) != 41 || f.Linux.Capabilities[21] != "CAP_SYS_ADMIN" {
		t.Errorf("linux.capabilities: %v", f.Linux.Capabilities)
	}
}
