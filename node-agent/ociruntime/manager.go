// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// WithCgroupManager sets the manager that creates the cgroups of new containers; Cgroupfs by
// default. Existing containers have it in their records.
func WithCgroupManager(m cgroup.Manager) Option { return func(r *Runtime) { r.manager = m } }

func (r *Runtime) newCgroup(spec *specs.Spec, id string, host plan.Host) (*cgroup.Group, error) {
	if r.manager == cgroup.Systemd {
		return cgroup.NewUnit(spec, id, host.Cgroup, r.isRootless(host))
	}
	for key := range spec.Annotations {
		if strings.HasPrefix(key, cgroup.PropertyAnnotation) {
			r.warn(fmt.Sprintf("annotations[%q]: only a scope of systemd has properties (--systemd-cgroup)",
				key))
		}
	}
	if r.manager == cgroup.Disabled {
		if spec.Linux.Resources != nil && len(spec.Linux.Resources.Devices) > 0 {
			r.warn("linux.resources.devices: without a cgroup (--cgroup-manager disabled) the device rules do not hold")
		}
		return cgroup.None(spec)
	}
	return cgroup.New(spec, id, host.Cgroup, r.isRootless(host))
}
