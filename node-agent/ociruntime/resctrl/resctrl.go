// SPDX-License-Identifier: Apache-2.0

// Package resctrl puts containers into groups of the kernel's resctrl filesystem
// (Documentation/filesystems/resctrl.rst), which share out caches and memory bandwidth and count
// their use: linux.intelRdt of the runtime-spec.
//
//	fs, err := resctrl.Find()
//	group := fs.Group(spec.Linux.IntelRdt, id) // to be recorded: Remove works on it from any process
//	err = fs.Create(group, spec.Linux.IntelRdt)
//	err = fs.Join(group, pid)
package resctrl

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// FS is a mounted resctrl filesystem.
type FS struct {
	root string
	fake bool
}

// Find looks for the resctrl filesystem among the mounts of the calling process.
func Find() (*FS, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("linux.intelRdt: %w", err)
	}
	defer f.Close()
	root, err := mountPoint(bufio.NewScanner(f))
	if err != nil {
		return nil, err
	}
	return &FS{root: root}, nil
}

// mountPoint reads mountinfo (proc_pid_mountinfo(5)).
func mountPoint(lines *bufio.Scanner) (string, error) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for lines.Scan() {
		left, right, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(left)
		if kind, _, _ := strings.Cut(right, " "); kind == "resctrl" && len(fields) > 4 &&
			fields[3] == "/" {
			return unescape.Replace(fields[4]), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("linux.intelRdt: /proc/self/mountinfo: %w", err)
	}
	return "", errors.New(
		"linux.intelRdt: found no resctrl filesystem; one has to be mounted (mount -t resctrl resctrl /sys/fs/resctrl), " +
			"which takes a processor with Intel RDT or AMD QoS and CONFIG_X86_CPU_RESCTRL")
}

// Fake returns a directory that stands for resctrl in tests, on machines whose processors have
// none. Files of a group come into being as they are written, and a group is removed with what lies
// in it.
func Fake(root string) *FS { return &FS{root: root, fake: true} }

// Group is the resctrl group that counts and limits a container's processes.
type Group struct {
	// Dir is the group's directory.
	Dir string `json:"dir"`
	// Own reports whether the group was created for the container and is removed with it.
	Own bool `json:"own,omitempty"`
	// Monitor is the directory of the container's monitoring group; empty without one. It is the
	// container's own.
	Monitor string `json:"monitor,omitempty"`
}

// Group returns the groups that a container gets, without creating them. An existing directory of
// the container's name is taken, not owned.
func (f *FS) Group(rdt *specs.LinuxIntelRdt, id string) *Group {
	g := &Group{Dir: filepath.Join(f.root, id)}
	if rdt.ClosID != "" {
		g.Dir = filepath.Join(f.root, rdt.ClosID)
	} else if _, err := os.Lstat(g.Dir); errors.Is(err, fs.ErrNotExist) {
		g.Own = true
	}
	if rdt.EnableMonitoring {
		g.Monitor = filepath.Join(g.Dir, "mon_groups", id)
	}
	return g
}

// Create creates the groups and writes the schemata, by the rules of config-linux.md, IntelRdt.
// After an error, Remove removes them, except for a group that a closID names.
func (f *FS) Create(g *Group, rdt *specs.LinuxIntelRdt) error {
	limits := rdt.L3CacheSchema != "" || rdt.MemBwSchema != "" || len(rdt.Schemata) > 0
	_, err := os.Lstat(g.Dir)
	exists := err == nil
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("linux.intelRdt.closID: %w", err)
	case rdt.ClosID != "" && !exists && !limits:
		return fmt.Errorf(
			"linux.intelRdt.closID: found %q, which is no group of %s; one without schemata has to be there",
			rdt.ClosID, f.root)
	case !exists:
		if err := os.Mkdir(g.Dir, 0o755); err != nil { //nolint:gosec // as resctrl makes them
			g.Own = false
			return f.explain("linux.intelRdt.closID", err)
		}
	case rdt.ClosID != "":
		if err := f.compare(g, rdt); err != nil {
			return err
		}
	}
	if _, err := f.Update(g, rdt.L3CacheSchema, rdt.MemBwSchema); err != nil {
		return err
	}
	for i, line := range rdt.Schemata {
		if err := f.write(g.Dir, "schemata", line+"\n"); err != nil {
			return f.explain(fmt.Sprintf("linux.intelRdt.schemata[%d]: found %q", i, line), err)
		}
	}
	if g.Monitor == "" {
		return nil
	}
	if f.fake {
		_ = os.MkdirAll(filepath.Dir(g.Monitor), 0o755) //nolint:gosec // a test's
	}
	if err := os.Mkdir(g.Monitor, 0o755); err != nil { //nolint:gosec // as resctrl makes them
		monitor := g.Monitor
		g.Monitor = "" // it is not the container's
		return f.explain("linux.intelRdt.enableMonitoring: "+monitor, err)
	}
	return nil
}

// Update writes schemas of the group; empty ones stay as they are. undo writes the old ones back;
// after an error that is done already.
func (f *FS) Update(g *Group, l3CacheSchema, memBwSchema string) (undo func() error, err error) {
	data, err := os.ReadFile(filepath.Join(g.Dir, "schemata"))
	if err != nil && (!f.fake || !errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("linux.intelRdt: %w", err)
	}
	undo = func() error { return f.setBack(g, string(data), l3CacheSchema+"\n"+memBwSchema) }
	for _, s := range []struct{ field, line string }{
		{"l3CacheSchema", l3CacheSchema},
		{"memBwSchema", memBwSchema},
	} {
		if s.line == "" {
			continue
		}
		if err := f.write(g.Dir, "schemata", s.line+"\n"); err != nil {
			return nil, errors.Join(f.explain(fmt.Sprintf("linux.intelRdt.%s: found %q", s.field, s.line),
				err), undo())
		}
	}
	return undo, nil
}

// setBack restores the lines of an earlier schemata for the resources that changed names.
func (f *FS) setBack(g *Group, former, changed string) (all error) {
	kinds := map[string]bool{}
	for line := range strings.Lines(changed) {
		kind, _ := parseSchema(line)
		kinds[kind] = true
	}
	for line := range strings.Lines(former) {
		line = strings.TrimSpace(line)
		if kind, _ := parseSchema(line); line == "" || !kinds[kind] {
			continue
		}
		if err := f.write(g.Dir, "schemata", line+"\n"); err != nil {
			all = errors.Join(all, fmt.Errorf("set it back: %w", f.explain("linux.intelRdt", err)))
		}
	}
	return all
}

// Join moves a task, and so what it will fork, into the groups: first the one that limits, since a
// monitoring group takes only tasks of the group that it lies in.
func (f *FS) Join(g *Group, tid int) error {
	for _, dir := range []string{g.Dir, g.Monitor} {
		if dir == "" {
			continue
		}
		if err := f.write(dir, "tasks", strconv.Itoa(tid)+"\n"); err != nil {
			return f.explain("linux.intelRdt", err)
		}
	}
	return nil
}

// Remove removes the container's own groups. It is no error if they are gone already.
func (f *FS) Remove(g *Group) error {
	remove := os.Remove // rmdir(2) removes a group with its files
	if f.fake {
		remove = os.RemoveAll
	}
	var all error
	if g.Monitor != "" {
		all = ignoreMissing(remove(g.Monitor))
	}
	if g.Own {
		all = errors.Join(all, ignoreMissing(remove(g.Dir)))
	}
	if all != nil {
		return fmt.Errorf("linux.intelRdt: %w", all)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// compare holds the schemas asked for against those of a group that is there already:
// config-linux.md wants an error where they differ. Schemas that the document does not name are not
// compared.
func (f *FS) compare(g *Group, rdt *specs.LinuxIntelRdt) error {
	for _, s := range []struct{ field, line string }{
		{"l3CacheSchema", rdt.L3CacheSchema},
		{"memBwSchema", rdt.MemBwSchema},
	} {
		if s.line == "" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(g.Dir, "schemata"))
		if err != nil {
			return fmt.Errorf("linux.intelRdt.closID: %w", err)
		}
		kind, wanted := parseSchema(s.line)
		for line := range strings.Lines(string(data)) {
			k, there := parseSchema(line)
			if k != kind {
				continue
			}
			for domain, value := range wanted {
				if there[domain] != value {
					return fmt.Errorf(
						"linux.intelRdt.%s: found %q, but the group %s that linux.intelRdt.closID names has %q",
						s.field, s.line, rdt.ClosID, strings.TrimSpace(line))
				}
			}
			wanted = nil
		}
		if len(wanted) > 0 {
			return fmt.Errorf(
				"linux.intelRdt.%s: found %q, but the group %s that linux.intelRdt.closID names has no %s",
				s.field, s.line, rdt.ClosID, kind)
		}
	}
	return nil
}

// parseSchema reads a line such as "L3:0=00ff;1=f". Masks are hexadecimal and bandwidths decimal;
// leading zeros mean nothing in either.
func parseSchema(line string) (kind string, domains map[string]string) {
	kind, list, _ := strings.Cut(strings.TrimSpace(line), ":")
	domains = map[string]string{}
	for item := range strings.SplitSeq(list, ";") {
		if domain, value, ok := strings.Cut(item, "="); ok {
			value = strings.TrimLeft(strings.ToLower(strings.TrimSpace(value)), "0")
			domains[strings.TrimSpace(domain)] = value
		}
	}
	return strings.TrimSpace(kind), domains
}

// write appends to a file of a group: the kernel handles each write(2) by itself.
func (f *FS) write(dir, name, line string) error {
	flags := os.O_WRONLY
	if f.fake {
		flags |= os.O_CREATE | os.O_APPEND
	}
	file, err := os.OpenFile(filepath.Join(dir, name), flags, 0o644) //nolint:gosec // a test's, or there already
	if err != nil {
		return err
	}
	_, err = file.WriteString(line)
	return errors.Join(err, file.Close())
}

// explain adds the kernel's message about the last failure, in info/last_cmd_status.
func (f *FS) explain(what string, err error) error {
	if status := f.read(filepath.Join("info", "last_cmd_status")); status != "" && status != "ok" {
		return fmt.Errorf("%s: %w (resctrl says: %s)", what, err, status)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// read returns a file below the root, empty where it cannot be read.
func (f *FS) read(name string) string {
	data, err := os.ReadFile(filepath.Join(f.root, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
