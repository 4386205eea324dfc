// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// netns returns the number of a process's network namespace, or 0 if there is no process.
func netns(pid int64) uint64 {
	var st unix.Stat_t
	if pid == 0 || unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil {
		return 0
	}
	return st.Ino
}

// A container keeps its network namespace when its process ends and when the agent is killed, and
// loses it with its Container.
func TestStandaloneNetworkNamespace(t *testing.T) {
	h := newHost(t)
	h.start()
	spec := "  archive: {path: " + programs + "/busybox.tar}\n" +
		"  command: [/bin/sh, -c, 'ip -o link; trap exit TERM; while true; do sleep 0.1; done']\n"
	h.write("own.yaml", spec)
	h.write("none.yaml", spec+"  network: {none: true}\n")
	h.write("host.yaml", spec+"  hostNetwork: true\n")
	pids := map[string]int64{}
	running := func(name string) {
		h.until(name+" runs", func() bool {
			c := h.get(name)
			if c == nil || c.Status.PID == 0 || c.Status.PID == pids[name] || netns(c.Status.PID) == 0 {
				return false
			}
			pids[name] = c.Status.PID
			return true
		})
	}
	for _, name := range []string{"own", "none", "host"} {
		running(name)
	}
	own, none := netns(pids["own"]), netns(pids["none"])
	if node := netns(int64(os.Getpid())); netns(pids["host"]) != node || own == node || none == node || own == none {
		t.Errorf("found the namespaces own %d, none %d, host %d, node %d; want the node's for host alone",
			own, none, netns(pids["host"]), node)
	}
	if pinned, _ := filepath.Glob(h.path("r/netns/*")); len(pinned) != 2 {
		t.Errorf("found the pinned namespaces %v; want those of own and none", pinned)
	}

	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(pids["own"]), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Somebody else's container, whose bundle is gone.
	orphan := h.path("r/netns/default_gone_0")
	if err := os.WriteFile(orphan, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	running("own")
	if now := netns(pids["own"]); now != own {
		t.Errorf("after a restart of the process: found the namespace %d; want %d as before", now, own)
	}
	h.until("the namespace of a container without a bundle is gone", func() bool {
		_, err := os.Stat(orphan)
		return os.IsNotExist(err)
	})

	// Into the node's network and back: another container, and so another namespace.
	h.write("own.yaml", spec+"  hostNetwork: true\n")
	running("own")
	if pinned, _ := filepath.Glob(h.path("r/netns/*_own_*")); netns(pids["own"]) != netns(int64(os.Getpid())) || len(pinned) > 0 {
		t.Errorf("in the node's network: found the namespace %d, pinned %v", netns(pids["own"]), pinned)
	}
	h.write("own.yaml", spec)
	running("own")
	if now := netns(pids["own"]); now == netns(int64(os.Getpid())) {
		t.Error("out of the node's network again: found the node's namespace")
	}

	h.removeAll("own.yaml", "none.yaml", "host.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
	h.signal(unix.SIGTERM)
}
