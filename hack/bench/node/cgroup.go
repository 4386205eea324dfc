// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// cgroup counts the processor time of an engine and all that it runs.
type cgroup struct {
	name string // from the root of each hierarchy, with a leading slash
	dir  string // in the hierarchy that counts processor time
}

// cpuTime is processor time, as the kernel divides it.
type cpuTime struct{ user, system time.Duration }

// hierarchy returns the cgroup hierarchy that counts processor time: version 2, or cpuacct of
// version 1.
func hierarchy() string {
	if unified() {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/cpuacct"
}

func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

func newCgroup(name string) (cgroup, error) {
	g := cgroup{name, filepath.Join(hierarchy(), name)}
	return g, os.MkdirAll(g.dir, 0o755)
}

// enter puts this process into the cgroup "engine" below it, where those that it starts are too. A
// group of version 2 that has other groups can have no process of its own.
func (g cgroup) enter() error {
	dir := filepath.Join(g.dir, "engine")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// leave puts this process back into the root.
func leave() error {
	return os.WriteFile(filepath.Join(hierarchy(), "cgroup.procs"), []byte("0"), 0)
}

// cpu returns the processor time that was used in the cgroup and those below.
func (g cgroup) cpu() (t cpuTime, err error) {
	// USER_HZ is 100 for all programs
	file, names, unit := "cpuacct.stat", [2]string{"user", "system"}, time.Second/100
	if unified() {
		file, names, unit = "cpu.stat", [2]string{"user_usec", "system_usec"}, time.Microsecond
	}
	f, err := os.Open(filepath.Join(g.dir, file))
	if err != nil {
		return t, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), " ")
		var n int64
		if _, err := fmt.Sscan(value, &n); err != nil {
			return t, fmt.Errorf("%s: %w", f.Name(), err)
		}
		switch name {
		case names[0]:
			t.user = time.Duration(n) * unit
		case names[1]:
			t.system = time.Duration(n) * unit
		}
	}
	return t, nil
}
