// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/validate"
)

// Update holds the limits to change.
type Update struct {
	// Resources are the limits to change; others stay as they are. Device rules that are not those
	// of the container already take the place of all. The same ones are not set again: engines send
	// them with every update, and others, such as hooks that give a container a GPU, may have added
	// to what the kernel has.
	Resources *specs.LinuxResources
	// L3CacheSchema and MemBwSchema are lines of the schemata of the container's resctrl group, ""
	// for no change. They are written before the limits.
	L3CacheSchema, MemBwSchema string
}

// Update changes limits of a container that has not stopped (ErrNotRunning). The limits that it
// then has are recorded: the next update starts from them. On an error they are as before.
func (r *Runtime) Update(_ context.Context, id string, u Update) error {
	rec, unlock, err := r.loadLocked(id)
	if err != nil {
		return err
	}
	defer unlock()
	switch r.status(rec) {
	case specs.StateStopped, specs.StateCreating:
		return ErrNotRunning
	}
	change := specs.LinuxResources{}
	if u.Resources != nil {
		change = *u.Resources
	}
	if len(change.Devices) > 0 {
		if rec.Devices == nil {
			spec, err := r.loadConfig(id)
			if err != nil {
				return err
			}
			if spec.Linux.Resources != nil {
				rec.Devices = spec.Linux.Resources.Devices
			}
		}
		if reflect.DeepEqual(change.Devices, rec.Devices) {
			change.Devices = nil
		}
	}
	old := &specs.LinuxResources{}
	if len(rec.Resources) > 0 {
		if err := json.Unmarshal(rec.Resources, old); err != nil {
			return fmt.Errorf("state of container %s: %w", id, err)
		}
	}
	merged, err := mergeResources(old, &change)
	if err != nil {
		return err
	}
	faults := validate.Resources(merged)
	for _, w := range faults.Warnings() {
		r.warn(w.Error())
	}
	if err := faults.Err(); err != nil {
		return err
	}
	g, err := rec.cgroup()
	if err != nil {
		return err
	}
	undo := func() error { return nil }
	if u.L3CacheSchema != "" || u.MemBwSchema != "" {
		if undo, err = r.updateIntelRdt(rec, u.L3CacheSchema, u.MemBwSchema); err != nil {
			return err
		}
	}
	write := together(&change, merged)
	if rec.Resources, err = encodeLimits(merged); err != nil {
		return errors.Join(err, undo())
	}
	if len(change.Devices) > 0 {
		rec.Devices = change.Devices
	}
	setBack, err := g.Update(write)
	if err != nil {
		return errors.Join(fmt.Errorf("update container %s: %w", id, err), undo())
	}
	if err := r.save(rec); err != nil {
		return errors.Join(err, setBack(), undo())
	}
	if w := g.Rounded(write); w != "" {
		r.warn(w)
	}
	return nil
}

// encodeLimits returns limits in the form in which they are recorded: without the device rules, and
// nil if there are no others.
func encodeLimits(r *specs.LinuxResources) (json.RawMessage, error) {
	if r == nil {
		return nil, nil
	}
	limits := *r
	limits.Devices = nil
	data, err := json.Marshal(limits)
	if err != nil {
		return nil, fmt.Errorf("linux.resources: %w", err)
	}
	if string(data) == "{}" {
		return nil, nil
	}
	return data, nil
}

// mergeResources returns old with the values of change. In a list, elements of the same device,
// page size or interface are replaced, and others added.
func mergeResources(old, change *specs.LinuxResources) (*specs.LinuxResources, error) {
	merged := &specs.LinuxResources{}
	for _, r := range []*specs.LinuxResources{old, change} {
		// Decoding into what is there keeps what the text does not name.
		data, err := json.Marshal(r)
		if err == nil {
			err = json.Unmarshal(data, merged)
		}
		if err != nil {
			return nil, fmt.Errorf("linux.resources: %w", err)
		}
	}
	merged.HugepageLimits = upsert(old.HugepageLimits, change.HugepageLimits,
		func(h specs.LinuxHugepageLimit) string {
			return h.Pagesize
		})
	if merged.Network != nil {
		var from, to specs.LinuxNetwork
		fill(&from, old.Network)
		fill(&to, change.Network)
		merged.Network.Priorities = upsert(from.Priorities, to.Priorities,
			func(p specs.LinuxInterfacePriority) string {
				return p.Name
			})
	}
	if merged.BlockIO != nil {
		mergeBlockIO(merged.BlockIO, old.BlockIO, change.BlockIO)
	}
	limitAndSwap(merged, change)
	return merged, nil
}

func fill[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

type device struct{ major, minor int64 }

func mergeBlockIO(merged, old, change *specs.LinuxBlockIO) {
	var from, to specs.LinuxBlockIO
	fill(&from, old)
	fill(&to, change)
	merged.WeightDevice = nil
	for _, d := range append(slices.Clone(from.WeightDevice), to.WeightDevice...) {
		i := slices.IndexFunc(merged.WeightDevice, func(m specs.LinuxWeightDevice) bool {
			return m.Major == d.Major && m.Minor == d.Minor
		})
		if i < 0 {
			merged.WeightDevice = append(merged.WeightDevice, d)
			continue
		}
		merged.WeightDevice[i].Weight = cmp.Or(d.Weight, merged.WeightDevice[i].Weight)
		merged.WeightDevice[i].LeafWeight = cmp.Or(d.LeafWeight, merged.WeightDevice[i].LeafWeight)
	}
	number := func(d specs.LinuxThrottleDevice) device { return device{d.Major, d.Minor} }
	merged.ThrottleReadBpsDevice = upsert(from.ThrottleReadBpsDevice, to.ThrottleReadBpsDevice, number)
	merged.ThrottleWriteBpsDevice = upsert(from.ThrottleWriteBpsDevice, to.ThrottleWriteBpsDevice,
		number)
	merged.ThrottleReadIOPSDevice = upsert(from.ThrottleReadIOPSDevice, to.ThrottleReadIOPSDevice,
		number)
	merged.ThrottleWriteIOPSDevice = upsert(from.ThrottleWriteIOPSDevice, to.ThrottleWriteIOPSDevice,
		number)
}

// upsert returns a list without two elements of one key: the later one wins.
func upsert[T any, K comparable](from, with []T, key func(T) K) (out []T) {
	for _, v := range append(slices.Clone(from), with...) {
		if i := slices.IndexFunc(out, func(o T) bool { return key(o) == key(v) }); i >= 0 {
			out[i] = v
		} else {
			out = append(out, v)
		}
	}
	return out
}

// limitAndSwap: memory without a limit leaves a limit of memory and swap together no meaning,
// unless the same update gives one.
func limitAndSwap(merged, change *specs.LinuxResources) {
	if c := change.Memory; c != nil && c.Limit != nil && *c.Limit == -1 && c.Swap == nil &&
		merged.Memory.Swap != nil && *merged.Memory.Swap > 0 {
		merged.Memory.Swap = c.Limit
	}
}

// together returns the values to write for a change: with those that have to be written at the same
// time, from the limits that the container has.
func together(change, merged *specs.LinuxResources) *specs.LinuxResources {
	write := *change
	if c := change.CPU; c != nil {
		cpu := *c
		if cpu.Quota != nil || cpu.Period != nil {
			cpu.Quota, cpu.Period = merged.CPU.Quota, merged.CPU.Period // one file on cgroup v2
		}
		if cpu.RealtimeRuntime != nil || cpu.RealtimePeriod != nil {
			cpu.RealtimeRuntime, cpu.RealtimePeriod = merged.CPU.RealtimeRuntime, merged.CPU.RealtimePeriod
		}
		// An idle cgroup has no share of its own, and one that is no longer idle the default one.
		switch {
		case merged.CPU.Idle != nil && *merged.CPU.Idle == 1:
			cpu.Shares = nil
		case cpu.Idle != nil:
			cpu.Shares = merged.CPU.Shares
		}
		write.CPU = &cpu
	}
	if m := change.Memory; m != nil {
		memory := *m
		if memory.Limit != nil || memory.Swap != nil {
			// on v2 swap is counted apart
			memory.Limit, memory.Swap = merged.Memory.Limit, merged.Memory.Swap
		}
		memory.CheckBeforeUpdate = merged.Memory.CheckBeforeUpdate
		write.Memory = &memory
	}
	return &write
}
