// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// mount mounts a small tmpfs on a directory of the agent.
func (h *host) mount(name, options string) {
	h.t.Helper()
	if err := os.Mkdir(h.path(name), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := unix.Mount("berth-test", h.path(name), "tmpfs", 0, options); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = unix.Unmount(h.path(name), unix.MNT_DETACH) })
}

// full reports whether a file of a page can not be written to the directory.
func (h *host) full(name string) bool {
	err := os.WriteFile(h.path(name)+"/.probe", make([]byte, 1), 0o600)
	_ = os.Remove(h.path(name) + "/.probe")
	return errors.Is(err, unix.ENOSPC)
}

func running(c *v1alpha1.Container) string {
	if c == nil {
		return ""
	}
	if cond := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionRunning); cond != nil {
		return string(cond.Status) + " " + cond.Reason + ": " + cond.Message
	}
	return ""
}

const quiet = "  archive: {path: IMAGE}\n  command: [/bin/sh, -c, 'while :; do echo tick; sleep 0.1; done']\n"

// A container that has filled the state directory is stopped with its grace period and removed, by
// an agent that was started on the full disk; the others go on, and what could not be started for
// lack of room starts then.
func TestStandaloneFullDisk(t *testing.T) {
	for name, tc := range map[string]struct{ options, filler string }{
		"bytes":    {"size=16m", "cat /dev/zero >> /fill"},
		"inodes":   {"nr_inodes=500", "while true > /fill$i; do i=$((i+1)); done"},
		"emptyDir": {"size=16m", "cat /dev/zero >> /data/fill"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.mount("s", tc.options)
			h.start()
			image := func(spec string) string {
				return strings.ReplaceAll(spec, "IMAGE", programs+"/busybox.tar")
			}
			h.write("quiet.yaml", image(quiet))
			pid := h.untilRunning("quiet").Status.PID
			h.write("filler.yaml",
				image("  archive: {path: IMAGE}\n  command: [/bin/sh, -c, \"trap 'exit 0' TERM; i=0; while :; do "+tc.filler+
					" 2>/dev/null; echo full; sleep 0.1; done\"]\n  volumes: [{name: d, emptyDir: {}}]\n  volumeMounts: [{name: d, mountPath: /data}]\n"+
					"  terminationGracePeriodSeconds: 300\n"))
			h.until("the disk is full", func() bool {
				return strings.Contains(h.logs("filler"), "full\n") && h.full("s")
			})

			h.write("late.yaml", image(quiet))
			h.until("the status says that the disk is full", func() bool {
				return strings.HasPrefix(running(h.get("late")), "False StorageFailed: ") &&
					strings.Contains(running(h.get("late")), "no space left on device")
			})
			h.signal(unix.SIGKILL)
			h.start()
			h.remove("filler.yaml")
			h.until("the disk has room", func() bool { return !h.full("s") })
			h.until("filler is forgotten", func() bool { return h.get("filler") == nil })
			h.untilRunning("late")
			if c := h.untilRunning("quiet"); c.Status.PID != pid || c.Status.RestartCount != 0 {
				t.Errorf("quiet: found pid %d and %d restarts; want %d and 0", c.Status.PID,
					c.Status.RestartCount, pid)
			}
			agentLog, _ := os.ReadFile(h.path("agent.log"))
			if n := strings.Count(string(agentLog), "msg=Stop "); n != 1 ||
				strings.Contains(string(agentLog), "msg=Kill ") {
				t.Errorf("found %d stop signals, or a SIGKILL; want one signal, within the grace period", n)
			}
			for _, name := range []string{"quiet", "late"} {
				h.remove(name + ".yaml")
				h.until(name+" is gone", func() bool { return h.get(name) == nil })
			}
			if h.files() != 0 {
				t.Errorf("found %d files left", h.files())
			}
			h.unmount("s")
		})
	}
}

// Lines that do not fit on the disk of the logs are lost; the container goes on, its status says
// so, and it can be removed.
func TestStandaloneFullLogDir(t *testing.T) {
	h := newHost(t)
	h.mount("l", "size=1m")
	h.start()
	h.write("loud.yaml",
		strings.ReplaceAll("  archive: {path: IMAGE}\n  command: [/bin/sh, -c, 'yes']\n", "IMAGE",
			programs+"/busybox.tar"))
	h.until("the status says that lines are lost", func() bool {
		got := running(h.get("loud"))
		return strings.HasPrefix(got, "True ") && strings.Contains(got, "its output is not logged") &&
			strings.Contains(got, "no space left on device")
	})
	h.remove("loud.yaml")
	h.until("it is gone", func() bool { return h.get("loud") == nil })
	if h.files() != 0 {
		t.Errorf("found %d files left", h.files())
	}
	h.unmount("l")
}

// unmount ends the agent and takes off what mount has mounted, before the test counts mounts.
func (h *host) unmount(name string) {
	h.t.Helper()
	h.signal(unix.SIGTERM)
	if err := unix.Unmount(h.path(name), 0); err != nil {
		h.t.Error(err)
	}
}
