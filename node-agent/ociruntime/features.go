// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/berth-run/berth/api/oci/capability"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
	"github.com/berth-run/berth/node-agent/ociruntime/seccomp"
)

// Features returns the features that this runtime honours (runtime-spec, features.md), without
// those that it refuses.
func Features() *features.Features {
	yes := true
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks: []string{
			"prestart", "createRuntime", "createContainer", "startContainer",
			"poststart", "poststop",
		},
		MountOptions: plan.MountOptions(),
		Linux: &features.Linux{
			Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
			Capabilities: capability.Names(),
			Cgroup: &features.Cgroup{
				V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes,
				Rdma: &yes,
			},
			Seccomp:  &features.Seccomp{Enabled: &yes},
			Apparmor: &features.Apparmor{Enabled: &yes},
			Selinux:  &features.Selinux{Enabled: &yes},
			IntelRdt: &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy: &features.MemoryPolicy{
				Modes: plan.MemoryPolicyModes(),
				Flags: plan.MemoryPolicyFlags(),
			},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		// What clients of runc look for before they call its checkpoint.
		Annotations: map[string]string{"org.opencontainers.runc.checkpoint.enabled": "true"},
		// They name a file of options for criu, which runs as root, and, as prefixes, what systemd
		// is to do with a scope, and those of crun: files that hooks write to, a socket that gets a
		// pidfd, and groups of who makes the container.
		PotentiallyUnsafeConfigAnnotations: []string{criuNote, cgroup.PropertyAnnotation, "run.oci."},
	}
	for _, a := range seccomp.SupportedActions() {
		f.Linux.Seccomp.Actions = append(f.Linux.Seccomp.Actions, string(a))
	}
	for _, o := range seccomp.SupportedOperators() {
		f.Linux.Seccomp.Operators = append(f.Linux.Seccomp.Operators, string(o))
	}
	for _, a := range seccomp.SupportedArchitectures() {
		f.Linux.Seccomp.Archs = append(f.Linux.Seccomp.Archs, string(a))
	}
	for _, fl := range seccomp.SupportedFlags() {
		f.Linux.Seccomp.KnownFlags = append(f.Linux.Seccomp.KnownFlags, string(fl))
		if kernelTakes(fl) {
			f.Linux.Seccomp.SupportedFlags = append(f.Linux.Seccomp.SupportedFlags, string(fl))
		}
	}
	return f
}

// Plan returns the plan of a validated document in a bundle, without making or changing anything.
func (r *Runtime) Plan(spec *specs.Spec, bundle string) (*plan.Plan, error) {
	host, err := r.Host()
	if err != nil {
		return nil, err
	}
	rootfs := spec.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(bundle, rootfs)
	}
	o := plan.Options{
		ID: "ID", Bundle: bundle, Rootfs: filepath.Clean(rootfs), Home: "/",
		Result: true,
	}
	if !host.Cgroup.Unified {
		for _, h := range host.Cgroup.V1 {
			o.Cgroups = append(o.Cgroups, h.Dir)
		}
		o.DeferCgroups = plan.CanDeferCgroups(spec, host)
	}
	if o.Seccomp, err = compileSeccomp(spec, seccomp.Compile, r.warn); err != nil {
		return nil, err
	}
	host, spec = r.withSecurityModules(host, spec, r.ignoreMissingLSM)
	return plan.Build(spec, host, o)
}
