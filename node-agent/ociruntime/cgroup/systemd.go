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

	"github.com/berth-run/berth/internal/cgrouplayout"
)

// Manager names the creator of cgroups.
type Manager string

// The managers, with the words of crun's --cgroup-manager.
const (
	// Cgroupfs creates directories itself.
	Cgroupfs Manager = "cgroupfs"
	// Systemd has systemd make a transient scope, over D-Bus.
	Systemd Manager = "systemd"
	// Disabled creates no cgroup: the container stays in its creator's.
	Disabled Manager = "disabled"
)

// Unit returns the unit for OpenUnit, nil if systemd has not created the cgroup.
type Unit struct {
	// Slice that it lies in; empty is systemd's choice, system.slice or the user's user.slice.
	Slice string `json:"slice,omitempty"`
	// Its name is Prefix-Name.scope, or Name where that ends in .slice.
	Prefix string `json:"prefix,omitempty"`
	Name   string `json:"name"`
	// User reports whether the scope belongs to the user's own systemd.
	User bool `json:"user,omitempty"`
}

// name returns the unit's whole name.
func (u *Unit) name() string {
	if strings.HasSuffix(u.Name, ".slice") {
		return u.Name
	}
	return u.Prefix + "-" + u.Name + ".scope"
}

// NewUnit prepares a scope of systemd, which CreateUnit makes. linux.cgroupsPath is
// slice:prefix:name, or empty for a scope named by the id; annotations org.systemd.property.NAME
// are properties of it, in the syntax of GVariant, as in runc.
func NewUnit(spec *specs.Spec, id string, layout cgrouplayout.Layout, rootless bool) (*Group,
	error,
) {
	if !systemd.IsRunningSystemd() {
		return nil, errors.New(
			"--systemd-cgroup: systemd cgroup flag passed, but systemd support for managing cgroups is not available")
	}
	u, err := parseUnit(spec.Linux.CgroupsPath, id)
	if err != nil {
		return nil, err
	}
	u.User = rootless && !ownsSystemd()
	g := &Group{unit: u, resources: spec.Linux.Resources, owner: delegate(spec), rootless: rootless}
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

// ownsSystemd reports whether the systemd that this process asks is the machine's, or the
// container's that it is in: not for a plain user, nor for root of a user namespace that he has
// made, as under rootless podman.
func ownsSystemd() bool {
	if os.Geteuid() != 0 {
		return false
	}
	uid, err := systemd.DetectUID()
	return err != nil || uid == 0
}

// parseUnit reads linux.cgroupsPath as slice:prefix:name. No part of it can lead to another
// directory.
func parseUnit(path, id string) (*Unit, error) {
	if path == "" {
		return &Unit{Prefix: "berth", Name: id}, nil
	}
	parts := strings.Split(path, ":")
	if len(parts) != 3 || strings.Contains(path, "/") {
		return nil, fmt.Errorf(
			"linux.cgroupsPath: found %q; expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups", path)
	}
	return &Unit{Slice: parts[0], Prefix: parts[1], Name: parts[2]}, nil
}

// OpenUnit returns the cgroup of a container that systemd has created.
func OpenUnit(paths map[string]string, unit Unit) (*Group, error) {
	return &Group{paths: paths, owner: -1, unit: &unit}, nil
}

// None returns the group of a container that stays in its creator's cgroup, which cannot be
// limited.
func None(spec *specs.Spec) (*Group, error) {
	if fields := knobs(spec.Linux.Resources); len(fields) > 0 {
		return nil, fmt.Errorf(
			"%s: found %s; without a cgroup (--cgroup-manager disabled) there can be no limit",
			fields[0].field, fields[0].value)
	}
	return &Group{owner: -1}, nil
}

// Unit returns the data that OpenUnit needs, or nil if systemd did not create the cgroup.
func (g *Group) Unit() *Unit { return g.unit }

// systemd returns the library's manager that asks systemd.
func (g *Group) systemd(unified bool) (cgroups.Manager, error) {
	config := &cgroups.Cgroup{
		Parent: g.unit.Slice, ScopePrefix: g.unit.Prefix, Name: g.unit.Name, Systemd: true,
		Rootless: g.unit.User, Resources: &cgroups.Resources{SkipDevices: true},
	}
	for _, p := range g.properties {
		config.SystemdProps = append(config.SystemdProps, p.Property)
	}
	if unified {
		return systemd.NewUnifiedManager(config, g.paths[""])
	}
	return systemd.NewLegacyManager(config, g.paths)
}

// CreateUnit creates the scope with a process in it, since systemd creates none without one, and
// sets its limits. The scope lasts as long as a process is in it. On an error nothing is left but
// the process.
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
		return g.blameProperty(err)
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

// blameProperty names the annotation whose property systemd refuses, or all where it does not say
// which.
func (g *Group) blameProperty(err error) error {
	var refused dbus.Error
	if errors.As(err, &refused) {
		words := strings.FieldsFunc(refused.Error(), func(r rune) bool { return !letter(r) })
		var named, all []string
		for _, p := range g.properties {
			found := fmt.Sprintf("annotations[%q]: found %s", p.annotation, p.Value)
			all = append(all, found)
			if slices.Contains(words, p.Name) {
				named = append(named, found)
			}
		}
		if named == nil && strings.Contains(refused.Error(), "set unit properties") {
			named = all // of the wrong type
		}
		if named != nil {
			return fmt.Errorf("%s; systemd refuses it: %w", strings.Join(named, "; "), refused)
		}
	}
	return fmt.Errorf("linux.cgroupsPath: have systemd make the scope: %w", err)
}

func letter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// ByManager reports whether only systemd can move a process into the cgroup: a plain user may move
// none from where he does not own both cgroups' common ancestor (cgroups(7), "Cgroup delegation"),
// as from his login session, and his systemd has the machine's do it.
func (g *Group) ByManager() bool { return g.unit != nil && g.unit.User }

// Attach makes systemd move a process into the cgroup: the unit's or one below it.
func (g *Group) Attach(pid int) error {
	dir := g.paths[""]
	_, below, ok := strings.Cut(dir+"/", "/"+g.unit.name()+"/")
	if !ok {
		return fmt.Errorf("linux.cgroupsPath: found %s, which is not below the unit %s", dir,
			g.unit.name())
	}
	m, err := g.systemd(true)
	if err == nil {
		err = m.AddPid(strings.TrimSuffix(below, "/"), pid)
	}
	if err != nil {
		return fmt.Errorf("linux.cgroupsPath: have systemd move process %d to %s: %w", pid, dir, err)
	}
	return nil
}

// Rounded returns a warning if systemd cannot set a limit of r exactly: the library rounds a quota
// up to whole percents of a processor, which is what systemd writes down and reads again (CPUQuota=
// in systemd.resource-control(5)). It is empty if all limits are exact.
func (g *Group) Rounded(r *specs.LinuxResources) string {
	const percent = 10_000 // microseconds of a second
	if g.unit == nil || r == nil || r.CPU == nil || r.CPU.Quota == nil || *r.CPU.Quota <= 0 {
		return ""
	}
	period := uint64(100_000) // the kernel's default
	if p := r.CPU.Period; positive(p) {
		period = *p
	}
	second := uint64(*r.CPU.Quota) * 1_000_000 / period
	if second%percent == 0 {
		return ""
	}
	return fmt.Sprintf(
		"linux.resources.cpu.quota: found %d of %d; systemd has whole percents of a processor: it is %d",
		*r.CPU.Quota, period, (second/percent+1)*percent*period/1_000_000)
}

// PropertyAnnotation begins the names of annotations that are properties of the unit.
const PropertyAnnotation = "org.systemd.property."

// property is one that an annotation asks for.
type property struct {
	systemddbus.Property
	annotation string
}

// properties returns those that annotations ask for. A time in seconds (a name in Sec) is one in
// microseconds to systemd.
func properties(annotations map[string]string) (out []property, err error) {
	for key, text := range annotations {
		name, ok := strings.CutPrefix(key, PropertyAnnotation)
		if !ok {
			continue
		}
		if len(name) < 3 || strings.ContainsFunc(name, func(r rune) bool { return !letter(r) }) {
			return nil, fmt.Errorf(
				"annotations[%q]: found the property %q; allowed are names of three and more letters",
				key, name)
		}
		value, err := dbus.ParseVariant(text, dbus.Signature{})
		if err != nil {
			return nil, fmt.Errorf("annotations[%q]: found %q: %w", key, text, err)
		}
		if base, ok := strings.CutSuffix(name, "Sec"); ok && base != "" && base[len(base)-1] >= 'a' &&
			base[len(base)-1] <= 'z' {
			name = base + "USec"
			if value, err = microseconds(value); err != nil {
				return nil, fmt.Errorf("annotations[%q]: found %q: %w", key, text, err)
			}
		}
		out = append(out, property{systemddbus.Property{Name: name, Value: value}, key})
	}
	slices.SortFunc(out, func(a, b property) int { return strings.Compare(a.Name, b.Name) })
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
