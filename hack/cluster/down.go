// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// down ends the cluster and removes its state directory. It is no error if there
// is none, or only a part of one.
func (c *cluster) down(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(c.dir, marker)); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(c.dir); err == nil {
			return fmt.Errorf("--dir %s: no cluster's state directory (no %s in it); leaving it alone",
				c.dir, marker)
		}
		say("nothing to stop")
		return nil
	} else if err != nil {
		return err
	}
	if err := c.deleteContainers(ctx); err != nil {
		// Not the end: what is left is ended by force below.
		say("%v", err)
	}
	if err := c.stop("berth-agent"); err != nil {
		return err
	}
	if err := c.endSupervisor(ctx, true); err != nil {
		return err
	}
	for i := len(names) - 1; i >= 0; i-- {
		if err := c.stop(names[i]); err != nil {
			return err
		}
	}
	if err := removeCgroup(c.cgroup()); err != nil {
		return err
	}
	for _, dir := range []string{c.runRoot(), c.dir} {
		if err := removeTree(dir); err != nil {
			return err
		}
	}
	say("removed %s", c.dir)
	return nil
}

// deleteContainers deletes all Containers as a user would, so that they end
// within their grace periods and leave nothing. It needs every part to run.
func (c *cluster) deleteContainers(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(c.assets, "kubectl")); err != nil {
		return err
	}
	for _, name := range names {
		if _, running, err := c.programs.find(name); err != nil || !running {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	timeout := fmt.Sprintf("--timeout=%ds", int(c.timeout.Seconds()))
	out, err := c.kubectl(ctx, "delete", "containers.berth.run", "--all", "--all-namespaces",
		"--ignore-not-found", timeout)
	if err != nil {
		return fmt.Errorf("delete all Containers: %w\n%s", err, out)
	}
	if out != "" && !strings.HasPrefix(out, "No resources found") {
		say("%s", strings.ReplaceAll(out, "\n", "\ncluster: "))
	}
	return nil
}

// stop ends one program and says so.
func (c *cluster) stop(name string) error {
	rec, running, err := c.programs.find(name)
	if err != nil {
		return err
	}
	if err := c.programs.stop(name); err != nil {
		return err
	}
	if running {
		say("stopped %s, pid %d", name, rec.PID)
	}
	return nil
}

// supervisorSocket returns the path of the supervisor's socket.
func (c *cluster) supervisorSocket() string { return filepath.Join(c.runRoot(), "supervisor.sock") }

// endSupervisor ends the supervisor, and deletes the containers that are left
// by force; without force it leaves one alone that has any. The agent starts it,
// and it outlives the agent on purpose; it is found by its socket.
func (c *cluster) endSupervisor(ctx context.Context, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	client := protocol.NewClient(c.supervisorSocket())
	if _, err := os.Stat(c.supervisorSocket()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	pid, err := client.Ping(ctx)
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil // a socket that nobody listens on any more
	}
	if err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	left, err := client.List(ctx)
	if err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	if len(left) > 0 && !force {
		return nil
	}
	for _, s := range left {
		if err := client.Delete(ctx, s.ID, true); err != nil {
			return fmt.Errorf("supervisor: delete container %s: %w", s.ID, err)
		}
		say("deleted container %s by force", s.ID)
	}
	st, err := procfs.ReadStat(pid)
	if err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	rec := record{PID: pid, StartTime: st.StartTime}
	if rec.BootID, err = procfs.BootID(); err != nil {
		return err
	}
	// It answers as that pid once more, so the start time read between is its.
	again, err := client.Ping(ctx)
	if err != nil {
		return fmt.Errorf("supervisor: it was pid %d: %w", pid, err)
	}
	if again != pid {
		return fmt.Errorf("supervisor: it was pid %d and is now pid %d", pid, again)
	}
	if err := rec.end(15 * time.Second); err != nil {
		return fmt.Errorf("stop supervisor (pid %d): %w", pid, err)
	}
	say("stopped the supervisor, pid %d", pid)
	return nil
}

// removeTree removes dir. Mounts below it, which a killed agent may have left, are detached first:
// removing must not reach into the mounted filesystems.
func removeTree(dir string) error {
	all, err := mounts()
	if err != nil {
		return err
	}
	// The last mounted first.
	for _, m := range slices.Backward(all) {
		if m.point != dir && !strings.HasPrefix(m.point, dir+"/") {
			continue
		}
		if err := unix.Unmount(m.point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.point, err)
		}
		say("unmounted %s", m.point)
	}
	return os.RemoveAll(dir)
}

// removeCgroup removes the cgroup path, and those below it, from every
// hierarchy. None of them has processes once the supervisor has ended.
func removeCgroup(path string) error {
	all, err := mounts()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.fstype != "cgroup" && m.fstype != "cgroup2" {
			continue
		}
		var dirs []string
		err := filepath.WalkDir(filepath.Join(m.point, path), func(dir string, entry os.DirEntry,
			err error,
		) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, dir)
			}
			return err
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, dir := range slices.Backward(dirs) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
	}
	return nil
}

// mount is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct{ point, fstype string }

// mounts returns the mount points, in mount order.
func mounts() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var all []mount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// 36 35 98:0 ROOT MOUNTPOINT OPTIONS OPTIONAL... - TYPE SOURCE SUPEROPTIONS
		before, after, _ := strings.Cut(lines.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if len(head) >= 5 && len(tail) >= 1 {
			all = append(all, mount{point: unescape.Replace(head[4]), fstype: tail[0]})
		}
	}
	return all, lines.Err()
}
