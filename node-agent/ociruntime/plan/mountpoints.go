// SPDX-License-Identifier: Apache-2.0

package plan

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// BuildMountpoints builds the plan of a process that creates mount points and devices in the root
// filesystem, as a container's creation does, reports SyncReady and ends. Its mounts go with it. A
// restored container needs no more of its creation: criu(8) mounts again what was mounted, where
// there is a place for it.
func BuildMountpoints(spec *specs.Spec, host Host, o Options) (*Plan, error) {
	if spec.Linux == nil {
		return nil, ErrNoLinux
	}
	own := *spec
	linux := *spec.Linux
	own.Linux = &linux
	// Those that the filesystems of a container depend on; nothing else is to be set up or joined.
	linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		{Type: specs.PIDNamespace},
		{Type: specs.NetworkNamespace},
		{Type: specs.IPCNamespace},
	}
	linux.UIDMappings, linux.GIDMappings = nil, nil
	own.Mounts = nil
	for i, m := range spec.Mounts {
		if target, ok := o.Dangling[i]; ok {
			m.Destination = target
		}
		// Those of cgroups lie on a filesystem that is made anew, and show cgroups that this
		// process is not in.
		if m.Type != "cgroup" && m.Type != "cgroup2" {
			own.Mounts = append(own.Mounts, m)
		}
	}
	o.Dangling = nil // the indices are the document's
	c := &container{builder: newBuilder(640), spec: &own, host: host, opts: o, placesOnly: true}
	for _, stage := range []func() error{
		c.refuse, c.undumpable, c.namespaces, c.root, c.mounts,
		c.makeWorkingDirectory, c.devices,
	} {
		if err := stage(); err != nil {
			return nil, err
		}
	}
	c.at("root")
	c.report(SyncReady)
	c.call(unix.SYS_EXIT_GROUP, num(0))
	return &c.plan, nil
}
