// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// host is the environment in which engines work.
type host struct {
	dir    string
	bridge bool // whether containers are connected to a bridge
}

// environment is the environment of all engines, without any variable of a user.
var environment = []string{
	"HOME=/nonexistent", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOGC=",
	"GOMAXPROCS=",
}

const image = "localhost/busybox:1"

// commands is an engine that is asked by a command for each container.
type commands struct {
	start    func(id string) []string
	parallel int
	cgroup   cgroup
	count    int
	end      func() error
}

func (c *commands) run(n int) (time.Duration, error) {
	if err := c.cgroup.enter(); err != nil {
		return 0, err
	}
	began := time.Now()
	ids := make(chan string)
	errs := make([]error, c.parallel)
	var wg sync.WaitGroup
	for i := range c.parallel {
		wg.Go(func() {
			for id := range ids {
				if errs[i] == nil {
					errs[i] = command(c.start(id)...)
				}
			}
		})
	}
	for range n {
		c.count++
		ids <- fmt.Sprintf("c%d", c.count)
	}
	close(ids)
	wg.Wait()
	return time.Since(began), errors.Join(append(errs, leave())...)
}

func (c *commands) close() error { return c.end() }

// command runs a command to its end. Its output goes to a file, since a container may keep it open.
func command(args ...string) error {
	out, err := os.CreateTemp("", "berth-bench-output-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), environment...), out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, text)
	}
	return nil
}

// remove removes a directory in which processes that are about to end may still write, and mount
// (podman does, on overlay).
func remove(dir string) (err error) {
	for range 50 {
		_ = unix.Unmount(filepath.Join(dir, "overlay"), unix.MNT_DETACH)
		if err = os.RemoveAll(dir); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// containerd is `ctr run -d`: no log.
func (h host) containerd(parallel int) func(cgroup) (engine, error) {
	return func(g cgroup) (engine, error) {
		root, state := filepath.Join(h.dir, "containerd"), "/run/containerd"
		socket := state + "/containerd.sock"
		config := filepath.Join(h.dir, "containerd.toml")
		if err := os.WriteFile(config,
			[]byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o600); err != nil {
			return nil, err
		}
		daemon := exec.Command("containerd", "--config", config, "--root", root, "--state", state,
			"--address", socket, "--log-level", "error")
		daemon.Env = append(os.Environ(), environment...)
		if err := errors.Join(g.enter(), daemon.Start(), leave()); err != nil {
			return nil, err
		}
		ctr := func(args ...string) []string {
			return append([]string{"ctr", "--address", socket}, args...)
		}
		c := &commands{parallel: parallel, cgroup: g}
		c.start = func(id string) []string {
			args := ctr("run", "-d", "--null-io", "--snapshotter", "overlayfs", "--runtime",
				"io.containerd.runc.v2", "--cgroup", filepath.Join(g.name, id))
			if h.bridge {
				args = append(args, "--cni")
			}
			return append(args, image, id, "sleep", "100000")
		}
		c.end = func() error {
			var errs []error
			for i := range c.count {
				id := fmt.Sprintf("c%d", i+1)
				errs = append(errs, command(ctr("task", "rm", "-f", id)...),
					command(ctr("container", "rm", id)...))
			}
			errs = append(errs, daemon.Process.Signal(unix.SIGTERM))
			_ = daemon.Wait() // it says how it was ended
			return errors.Join(append(errs, remove(root), remove(state))...)
		}
		for began := time.Now(); command(ctr("version")...) != nil &&
			time.Since(began) < timeout; time.Sleep(20 * time.Millisecond) {
		}
		err := command(ctr("images", "import", "--snapshotter", "overlayfs",
			filepath.Join(h.dir, "image.tar"))...)
		if err == nil {
			_, err = c.run(1)
		}
		if err != nil {
			return nil, errors.Join(err, c.end())
		}
		return c, nil
	}
}

// podman is `podman run -d`, with conmon's log.
func (h host) podman(parallel int) func(cgroup) (engine, error) {
	return func(g cgroup) (engine, error) {
		root, state := filepath.Join(h.dir, "podman"), "/run/podman"
		podman := func(args ...string) []string {
			return append([]string{
				"podman", "--root", root, "--runroot", state, "--tmpdir", state + "/tmp", "--storage-driver",
				"overlay", "--runtime", "/usr/bin/crun",
				"--cgroup-manager", "cgroupfs", "--events-backend", "none",
			}, args...)
		}
		c := &commands{parallel: parallel, cgroup: g}
		network := "none"
		if h.bridge {
			network = "podman"
		}
		c.start = func(id string) []string {
			return podman("run", "-d", "--pull", "never", "--network", network, "--log-driver", "k8s-file",
				"--cgroup-parent", g.name, "--name", id, image, "sleep", "100000")
		}
		c.end = func() error {
			err := command(podman("rm", "--all", "--force", "--time", "0")...)
			return errors.Join(err, remove(root), remove(state))
		}
		err := command(podman("load", "-i", filepath.Join(h.dir, "image.tar"))...)
		if err == nil {
			_, err = c.run(1)
		}
		if err != nil {
			return nil, errors.Join(err, c.end())
		}
		return c, nil
	}
}
