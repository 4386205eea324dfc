// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes limits of the cgroup, and leaves those that r does not name as they are. Device
// rules, where r has any, take the place of all that there are but those of the devices that every
// container may use. Where one cannot be set, all are as they were before. undo sets the limits,
// without the device rules, back to what they were.
func (g *Group) Update(r *specs.LinuxResources) (undo func() error, err error) {
	before, err := g.snapshot(r)
	if err != nil {
		return nil, err
	}
	var unit propertyValues
	if g.unit != nil {
		if unit, err = g.unit.limits(); err != nil {
			return nil, err
		}
	}
	undo = func() error {
		var err error
		if g.unit != nil {
			// First, since systemd writes to the files too.
			if e := g.unit.setBack(unit); e != nil {
				err = fmt.Errorf("set it back: %w", e)
			}
		}
		return errors.Join(err, before.restore())
	}
	err = g.set(r, false)
	if err == nil && len(r.Devices) > 0 {
		if err = g.updateDevices(r); err != nil {
			err = fmt.Errorf("linux.resources.devices: %w", err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// updateDevices gives the cgroup of a running container other device rules. What both the old and
// the new ones allow stays allowed throughout: the library writes no more to the files of version 1
// than differs, and swaps the program of version 2.
func (g *Group) updateDevices(r *specs.LinuxResources) error {
	resources, err := Resources(&specs.LinuxResources{Devices: r.Devices}, g.unified())
	if err != nil {
		return err
	}
	dir, ok := g.paths["devices"]
	switch {
	case len(g.paths) == 0:
		return errors.New("the container has no cgroup")
	case g.rootless:
		return errors.New("rules for devices do not hold in the cgroup of a plain user")
	case g.unified() || g.unit != nil:
		m, err := g.setter()
		if err != nil {
			return err
		}
		return m.Set(&cgroups.Resources{Devices: resources.Devices})
	case !ok:
		return errors.New(
			"the host has no cgroup hierarchy of the controller devices: the rules would not hold")
	}
	before, err := os.ReadFile(filepath.Join(dir, "devices.list"))
	if err != nil {
		return err
	}
	if err := cgroups.DevicesSetV1(dir, &cgroups.Resources{Devices: resources.Devices}); err != nil {
		lines := strings.Split(strings.TrimSpace(string(before)), "\n")
		if strings.HasPrefix(lines[0], "a ") {
			// All but exceptions that the file does not name: rather too little is allowed than
			// those.
			return fmt.Errorf("%w; what it was is not known, and only what has been set is allowed now", err)
		}
		e := errors.Join(writeFile(dir, "devices.deny", "a"), writeFile(dir, "devices.allow", lines...))
		if e != nil {
			return errors.Join(err, fmt.Errorf("set it back: %w", e))
		}
		return err
	}
	return nil
}

// saved is the earlier content of a cgroup file.
type saved struct {
	dir, file string
	lines     []string
	// unset are lines that take a device's limit away, where a file has one line a device.
	unset []string
}

type snapshot []saved

// snapshot reads the files that an update of r is going to write.
func (g *Group) snapshot(r *specs.LinuxResources) (snapshot, error) {
	var out snapshot
	if dir := g.oomControl(r); dir != "" {
		now, err := readFile(dir, oomControl)
		if err != nil {
			return nil, fmt.Errorf("linux.resources.memory.disableOOMKiller: %w", err)
		}
		disabled, _, _ := strings.Cut(strings.TrimPrefix(now, "oom_kill_disable "), "\n")
		out = append(out, saved{dir: dir, file: oomControl, lines: []string{disabled}})
	}
	for _, k := range knobs(r) {
		dir, file, err := g.place(k)
		if err != nil {
			if k.off {
				continue
			}
			return nil, err
		}
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.field, err)
		}
		s := saved{dir: dir, file: file, lines: strings.Split(strings.TrimSpace(string(data)), "\n")}
		device, _, isDevice := strings.Cut(k.value, " ")
		switch {
		case file == "cpu.shares" || file == "cpu.weight":
			if idle, err := readFile(dir, "cpu.idle"); err == nil && idle == "1" {
				continue // an idle cgroup has a weight that nobody can write
			}
		case strings.HasPrefix(file, "cpuset.") && s.lines[0] == "":
			// All that the parent has. It cannot be emptied again while there are processes
			// (validate_change in kernel/cgroup/cpuset.c).
			effective, err := readFile(dir, file+".effective")
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.field, err)
			}
			s.lines = []string{effective}
		case file == oomControl:
			s.lines = []string{strings.TrimPrefix(s.lines[0], "oom_kill_disable ")}
		case file == "io.max":
			s.unset = []string{device + " rbps=max wbps=max riops=max wiops=max"}
		case isDevice && strings.Contains(file, "throttle"):
			s.unset = []string{device + " 0"}
		}
		out = append(out, s)
	}
	return out, nil
}

// restore writes all values back. Some values have to fit others, such as memory with swap to
// memory alone: what cannot be written the first time can be once the others are.
func (s snapshot) restore() (err error) {
	for range 2 {
		err = nil
		for _, f := range s {
			// A device that there is not, which may be what has failed, has no limit to take away.
			_ = writeFile(f.dir, f.file, f.unset...)
			lines := slices.DeleteFunc(slices.Clone(f.lines), func(line string) bool { return line == "" })
			if len(lines) == 0 {
				continue
			}
			if e := writeFile(f.dir, f.file, lines...); e != nil {
				err = errors.Join(err, fmt.Errorf("set it back: %w", e))
			}
		}
		if err == nil {
			return nil
		}
	}
	return err
}
