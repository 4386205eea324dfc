// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source/folder"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// agent is an agent that works alone, with a supervisor. Its state is on the disk of host.dir.
type agent struct {
	dir    string // of host
	bridge bool   // of host
	level  string // of the log
	cgroup cgroup
	cmd    *exec.Cmd
	count  int // containers that were asked for
}

const runDir = "/run/berth"

const manifest = `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: c%d}
spec:
  archive: {path: %s}
  command: [/bin/sleep, "100000"]
  terminationGracePeriodSeconds: 0
`

// timeout is for whatever is waited for.
const timeout = 10 * time.Minute

// berth returns an engine with one container, by which the image is ready.
func (h host) berth(g cgroup) (engine, error) {
	return h.berthThatLogs("info", g)
}

func (h host) berthThatLogs(level string, g cgroup) (*agent, error) {
	a := &agent{dir: h.dir, bridge: h.bridge, level: level, cgroup: g}
	err := os.MkdirAll(a.path("manifests"), 0o700)
	if err == nil {
		err = a.start()
	}
	if err == nil {
		_, err = a.run(1)
	}
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func (a *agent) path(name string) string { return filepath.Join(a.dir, "agent", name) }

func (a *agent) client() *protocol.Client {
	return protocol.NewClient(filepath.Join(runDir, "supervisor.sock"))
}

// start starts the agent.
func (a *agent) start() error {
	log, err := os.OpenFile(a.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	a.cmd = exec.Command(filepath.Join(a.dir, "berth-agent"), "--manifests", a.path("manifests"),
		"--state-dir", a.path("state"),
		"--run-dir", runDir, "--log-dir", a.path("logs"), "--cgroup-parent", a.cgroup.name, "--node-name",
		"bench", "--log-format", "text", "--log-level", a.level)
	if a.bridge {
		// The bridge of an agent whose node has no configuration of a network.
		a.cmd.Args = append(a.cmd.Args, "--cni-conf-dir", a.path("no-conf"))
	} else {
		a.cmd.Args = append(a.cmd.Args, "--cni-bin-dir=")
	}
	a.cmd.Stderr = log
	a.cmd.Env = append(os.Environ(), environment...)
	if err := a.cgroup.enter(); err != nil {
		return err
	}
	if err := a.cmd.Start(); err != nil {
		return err
	}
	if err := leave(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		if _, err := a.client().Ping(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// run writes n manifests, and waits until the supervisor runs all of them and the agent's status
// says so.
func (a *agent) run(n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	w, err := a.client().Watch(ctx)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	running := map[string]bool{}
	for _, st := range w.List {
		running[st.ID] = st.State == protocol.Running
	}
	began := time.Now()
	for range n {
		a.count++
		text := fmt.Sprintf(manifest, a.count, filepath.Join(a.dir, "image.tar"))
		if err := os.WriteFile(a.path(fmt.Sprintf("manifests/c%d.yaml", a.count)), []byte(text),
			0o600); err != nil {
			return 0, err
		}
	}
	for len(running) < a.count {
		e, err := w.Next()
		if err != nil {
			return 0, fmt.Errorf("%d of %d run: %w", len(running), a.count, err)
		}
		if e.Status.State == protocol.Running {
			running[e.Status.ID] = true
		}
	}
	return a.reported(ctx, began)
}

// reported waits until the agent's status says that all containers run, and returns the time since
// began.
func (a *agent) reported(ctx context.Context, began time.Time) (time.Duration, error) {
	for ; ; time.Sleep(10 * time.Millisecond) {
		all, err := folder.Read(a.path("state"))
		if err != nil {
			return 0, err
		}
		running := 0
		for _, c := range all {
			if c.Status.Phase == v1alpha1.ContainerRunning {
				running++
			}
		}
		if running == a.count {
			return time.Since(began), nil
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("%d of %d run by their status: %w", running, a.count, ctx.Err())
		}
	}
}

// restart ends the agent and starts another one.
func (a *agent) restart() error {
	if err := a.end(); err != nil {
		return err
	}
	return a.start()
}

func (a *agent) end() error {
	if err := a.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	return a.cmd.Wait()
}

// close ends the agent and the supervisor, and removes their files.
func (a *agent) close() error {
	err := a.end()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	all, lerr := a.client().List(ctx)
	err = errors.Join(err, lerr)
	for _, st := range all {
		err = errors.Join(err, a.client().Delete(ctx, st.ID, true))
	}
	pid, perr := a.client().Ping(ctx)
	if err = errors.Join(err, perr); perr == nil {
		err = errors.Join(err, unix.Kill(pid, unix.SIGTERM))
	}
	for ; perr == nil && unix.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
	}
	mounts, gerr := filepath.Glob(a.path("state/bundles/*/rootfs"))
	pins, perr := filepath.Glob(runDir + "/netns/*")
	err = errors.Join(err, gerr, perr)
	mounts = append(mounts, pins...)
	for _, m := range mounts {
		err = errors.Join(err, unix.Unmount(m, unix.MNT_DETACH))
	}
	return errors.Join(err, os.RemoveAll(runDir), os.RemoveAll(filepath.Join(a.dir, "agent")))
}
