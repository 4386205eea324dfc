// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	systemddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// Manager is who makes cgroups.
type Manager string

// The managers, with the words of crun's --cgroup-manager.
const (
	// Cgroupfs makes folders itself.
	Cgroupfs Manager = "cgroupfs"
	// Systemd has systemd make a transient scope, over D-Bus.
	Systemd Manager = "systemd"
	// Disabled makes none: the container stays in its maker's.
	Disabled Manager = "disabled"
)

// Unit is the transient unit of systemd that a cgroup is.
type Unit struct {
	// Slice that it lies in; empty is systemd's choice, system.slice or the user's user.slice.
	Slice string `json:"slice,omitempty"`
	// Its name is Prefix-Name.scope, or Name where that ends in .slice.
	Prefix string `json:"prefix,omitempty"`
	Name   string `json:"name"`
	// User is whether it is of the user's own systemd.
	User bool `json:"user,omitempty"`
}

// NewUnit prepares a scope of systemd, which CreateUnit makes. linux.cgroupsPath is slice:prefix:name, or empty for a scope named by
// the id; annotations org.systemd.property.NAME are properties of it, in the syntax of GVariant, as in runc.
func NewUnit(spec *specs.Spec, id string, layout plan.CgroupLayout, rootless bool) (*Group, error) {
	if !systemd.IsRunningSystemd() {
		return nil, errors.New("--systemd-cgroup: systemd cgroup flag passed, but systemd support for managing cgroups is not available")
	}
	u := &Unit{Prefix: "berth", Name: id, User: rootless && os.Geteuid() != 0}
	if path := spec.Linux.CgroupsPath; path != "" {
		parts := strings.Split(path, ":")
		if len(parts) != 3 || strings.Contains(path, "/") {
			return nil, fmt.Errorf("linux.cgroupsPath: found %q; expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups", path)
		}
		u.Slice, u.Prefix, u.Name = parts[0], parts[1], parts[2]
	}
	g := &Group{unit: u, resources: spec.Linux.Resources, owner: delegate(spec), rootless: rootless}
	var err error
	if g.properties, err = properties(spec.Annotations); err != nil {
		return nil, err
	}
	m, err := g.systemd(layout.Unified)
	if err != nil {
		return nil, fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	g.paths = m.GetPaths()
	return g, nil
}

// OpenUnit takes up the cgroup of a container that systemd has made.
func OpenUnit(paths map[string]string, unit Unit) (*Group, error) {
	return &Group{paths: paths, owner: -1, unit: &unit}, nil
}

// None is for a container that stays in its maker's cgroup, which cannot be limited.
func None(spec *specs.Spec) (*Group, error) {
	if fields := knobs(spec.Linux.Resources); len(fields) > 0 {
		return nil, fmt.Errorf("%s: found %s; without a cgroup (--cgroup-manager disabled) there can be no limit", fields[0].field, fields[0].value)
	}
	return &Group{owner: -1}, nil
}

// Unit is what OpenUnit needs, nil where systemd has not made the cgroup.
func (g *Group) Unit() *Unit { return g.unit }

// systemd is the library's manager that asks systemd.
func (g *Group) systemd(unified bool) (cgroups.Manager, error) {
	config := &cgroups.Cgroup{
		Parent: g.unit.Slice, ScopePrefix: g.unit.Prefix, Name: g.unit.Name, Systemd: true, SystemdProps: g.properties,
		Rootless: g.unit.User, Resources: &cgroups.Resources{SkipDevices: true},
	}
	if unified {
		return systemd.NewUnifiedManager(config, g.paths[""])
	}
	return systemd.NewLegacyManager(config, g.paths)
}

// CreateUnit makes the scope with a process in it, since systemd makes none without, and sets its limits. The scope lasts as long as a
// process is in it. On an error nothing is left but the process.
func (g *Group) CreateUnit(pid int) (err error) {
	m, err := g.systemd(g.unified())
	if err != nil {
		return fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	for _, dir := range g.paths {
		if populated(dir) {
			return errTaken(dir)
		}
	}
	defer func() {
		if err != nil {
			_ = g.Destroy()
		}
	}()
	if err := m.Apply(pid); err != nil {
		return fmt.Errorf("linux.cgroupsPath: have systemd make the scope: %w", err)
	}
	for _, dir := range g.paths { // a hybrid host's version 2 hierarchy, which the library leaves out
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("linux.cgroupsPath: %w", err)
		}
	}
	if err := g.set(g.resources, true); err != nil {
		return err
	}
	return g.giveAway()
}

const propertyPrefix = "org.systemd.property."

// properties are those that annotations ask for. A time in seconds (a name in Sec) is one in microseconds to systemd.
func properties(annotations map[string]string) (out []systemddbus.Property, err error) {
	for key, text := range annotations {
		name, ok := strings.CutPrefix(key, propertyPrefix)
		if !ok {
			continue
		}
		letter := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }
		if len(name) < 3 || strings.ContainsFunc(name, func(r rune) bool { return !letter(r) }) {
			return nil, fmt.Errorf("annotations[%q]: found the property %q; allowed are names of three and more letters", key, name)
		}
		value, err := dbus.ParseVariant(text, dbus.Signature{})
		if err != nil {
			return nil, fmt.Errorf("annotations[%q]: found %q: %w", key, text, err)
		}
		if base, ok := strings.CutSuffix(name, "Sec"); ok && base != "" && base[len(base)-1] >= 'a' && base[len(base)-1] <= 'z' {
			name = base + "USec"
			if value, err = microseconds(value); err != nil {
				return nil, fmt.Errorf("annotations[%q]: found %q: %w", key, text, err)
			}
		}
		out = append(out, systemddbus.Property{Name: name, Value: value})
	}
	slices.SortFunc(out, func(a, b systemddbus.Property) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func microseconds(v dbus.Variant) (dbus.Variant, error) {
	const second = 1_000_000
	var n uint64
	switch s := v.Value().(type) {
	case byte:
		n = uint64(s) * second
	case int16:
		n = uint64(s) * second
	case uint16:
		n = uint64(s) * second
	case int32:
		n = uint64(s) * second
	case uint32:
		n = uint64(s) * second
	case int64:
		n = uint64(s) * second
	case uint64:
		n = s * second
	case float64:
		n = uint64(s * second)
	default:
		return v, errors.New("allowed is a number of seconds")
	}
	return dbus.MakeVariant(n), nil
}
