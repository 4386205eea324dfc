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
	devices "github.com/opencontainers/cgroups/devices/config"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
)

// makeV1 creates the directory in every hierarchy that does not have it yet. On an error it removes
// those that it has created.
func (g *Group) makeV1() error {
	if !g.begun {
		if err := g.refuseFrozenV1(); err != nil {
			return err
		}
	}
	return g.makeFolders(g.toCreate())
}

// toCreate returns the controllers whose directories Create creates.
func (g *Group) toCreate() []string {
	return slices.DeleteFunc(g.folders(), func(name string) bool { return name == "" && g.begun })
}

func (g *Group) refuseFrozenV1() error {
	dir, ok := g.paths["freezer"]
	if !ok {
		return nil
	}
	return refuseFrozen(dir, func(dir string) (bool, error) {
		state, err := readFile(dir, "freezer.state") // which counts those above it in
		return state != "THAWED", err
	})
}

// makeFolders creates directories, by controller. On an error it removes those that it has created.
func (g *Group) makeFolders(names []string) (err error) {
	var made []string
	defer func() {
		if err != nil {
			_ = g.removeAll(made)
		}
	}()
	for _, name := range names {
		dir := g.paths[name]
		err := unix.Mkdir(dir, 0o755)
		if errors.Is(err, unix.ENOENT) {
			if err = makeDirs(filepath.Dir(dir), name == "cpuset"); err == nil {
				err = unix.Mkdir(dir, 0o755)
			}
		}
		fresh := err == nil
		switch {
		case fresh:
			made = append(made, name)
		case !errors.Is(err, unix.EEXIST):
			return fmt.Errorf("linux.cgroupsPath: unable to apply cgroup configuration: create %s: %w",
				dir, err)
		case populated(dir): // else it may be an engine's, made in advance
			return errTaken(dir)
		}
		if name == "cpuset" {
			if err := g.setCpuset(dir, fresh); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeDirs creates a directory and those above it. A cpuset gets CPUs and memory nodes.
func makeDirs(dir string, cpuset bool) error {
	if !cpuset {
		return os.MkdirAll(dir, 0o755)
	}
	err := unix.Mkdir(dir, 0o755)
	if errors.Is(err, unix.ENOENT) {
		if err = makeDirs(filepath.Dir(dir), true); err == nil {
			err = unix.Mkdir(dir, 0o755)
		}
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return inheritCpuset(dir)
}

// setCpuset gives a cpuset its CPUs and memory nodes, those of its parent where none are asked for.
func (g *Group) setCpuset(dir string, fresh bool) error {
	var cpu specs.LinuxCPU
	if g.resources != nil && g.resources.CPU != nil {
		cpu = *g.resources.CPU
	}
	for _, f := range []struct{ field, file, value string }{
		{"linux.resources.cpu.cpus", "cpuset.cpus", cpu.Cpus}, {
			"linux.resources.cpu.mems", "cpuset.mems",
			cpu.Mems,
		},
	} {
		if f.value == "" {
			if err := inherit(dir, f.file, fresh); err != nil {
				return fmt.Errorf("linux.cgroupsPath: %w", err)
			}
			continue
		}
		if err := writeFile(dir, f.file, f.value); err != nil {
			return fmt.Errorf("%s: %w", f.field, err)
		}
	}
	return nil
}

// inheritCpuset gives a cpuset the CPUs and memory nodes of its parent, unless it has its own.
func inheritCpuset(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if err := inherit(dir, file, false); err != nil {
			return err
		}
	}
	return nil
}

// inherit copies a file of a cpuset from its parent, unless it has a value: a fresh one has none,
// or that of its parent (cgroup.clone_children), and takes no process until it has both
// (cpuset(7)).
func inherit(dir, file string, fresh bool) error {
	if !fresh {
		if own, err := readFile(dir, file); err != nil || own != "" {
			return err
		}
	}
	above := filepath.Dir(dir)
	value, err := readFile(above, file)
	if err != nil {
		return err
	}
	// Who has made the directory above may have left it without.
	if value == "" && filepath.Dir(above) != cgrouplayout.Root {
		if err := inherit(above, file, false); err != nil {
			return err
		}
		if value, err = readFile(above, file); err != nil {
			return err
		}
	}
	return writeFile(dir, file, value)
}

// writeFile writes a file of a cgroup, each value with a system call of its own. It must not create
// the file, as os.WriteFile would.
func writeFile(dir, file string, values ...string) error {
	path := filepath.Join(dir, file)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for _, v := range values {
		for {
			if _, err = unix.Write(fd, []byte(v)); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("%w (value %q)", &os.PathError{Op: "write", Path: path, Err: err}, v)
		}
	}
	return nil
}

// readFile reads a short file of a cgroup.
func readFile(dir, file string) (string, error) {
	path := filepath.Join(dir, file)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var buf [4096]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return "", &os.PathError{Op: "read", Path: path, Err: err}
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

// setDevicesV1 sets the device rules of a new cgroup. Rules that deny all and then allow some are
// written as they are; what the kernel makes of others, such as denied exceptions of what is
// allowed, the library finds out.
func setDevicesV1(dir string, rules []*devices.Rule) error {
	if len(rules) > 0 && isAll(rules[0]) && !rules[0].Allow {
		var allow []string
		plain := true
		for _, r := range rules[1:] {
			plain = plain && r.Allow && r.Type != devices.WildcardDevice
			allow = append(allow, r.CgroupString())
		}
		if plain {
			if err := writeFile(dir, "devices.deny", "a"); err != nil {
				return err
			}
			return writeFile(dir, "devices.allow", allow...)
		}
	}
	return cgroups.DevicesSetV1(dir, &cgroups.Resources{Devices: rules})
}

// isAll reports whether a rule is of every device and every access.
func isAll(r *devices.Rule) bool {
	return r.Type == devices.WildcardDevice && r.Major == devices.Wildcard &&
		r.Minor == devices.Wildcard &&
		strings.Contains(string(r.Permissions), "r") && strings.Contains(string(r.Permissions), "w") &&
		strings.Contains(string(r.Permissions), "m")
}

// enableHybrid lets a cgroup of the version 2 hierarchy beside those of version 1 use a controller
// that only that one has: each directory above it hands it down (cgroups(7),
// cgroup.subtree_control).
func enableHybrid(dir, controller string) error {
	rest, ok := strings.CutPrefix(dir, cgrouplayout.Root+"/")
	if !ok {
		return fmt.Errorf("%s is not below %s", dir, cgrouplayout.Root)
	}
	parts := strings.Split(rest, "/")
	for i := 1; i < len(parts); i++ {
		above := filepath.Join(cgrouplayout.Root, filepath.Join(parts[:i]...))
		have, err := readFile(above, "cgroup.subtree_control")
		if err != nil {
			return err
		}
		if slices.Contains(strings.Fields(have), controller) {
			continue
		}
		if err := writeFile(above, "cgroup.subtree_control", "+"+controller); err != nil {
			return err
		}
	}
	return nil
}
