// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/userns"
)

// mapped returns the first id on the node of the user namespace of a process.
func mapped(t *testing.T, pid int64) (first uint32) {
	t.Helper()
	for _, name := range []string{"uid_map", "gid_map"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		var inside, size uint32
		if _, err := fmt.Sscan(string(text), &inside, &first, &size); err != nil {
			t.Fatal(err)
		}
		if inside != 0 || size != userns.Size || strings.Count(string(text), "\n") != 1 {
			t.Errorf("%s: found %q; want one range from 0", name, text)
		}
	}
	return first
}

// TestHostUsers: a container is root in a user namespace whose ids no other one has, and a plain
// user outside. Its files have the same owner inside and on the disk. It keeps its ids at restarts,
// also of a killed agent, and its removal frees them.
func TestHostUsers(t *testing.T) {
	h := newHost(t)
	h.flags = []string{"--user-namespace-ids", "1073741824-1073938431"} // three
	h.start()
	h.raw("sandbox.yaml", sample(t, "sandbox.yaml"))
	c := h.untilRunning("sandbox")
	h.until("the program reports", func() bool { return strings.Contains(h.logs("sandbox"), "done") })
	if got, want := h.logs("sandbox"), "0\n0 65536\n-rwxr-xr-x 0 0 /bin/busybox\n-rw-r--r-- 7 8 /data/file\n"+
		"date: can't set date: Operation not permitted\ndone\n"; got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	first := mapped(t, c.Status.PID)
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", c.Status.PID), &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != first || first < 1073741824 {
		t.Errorf("found a process of the user %d; want %d, root of its namespace", st.Uid, first)
	}
	files, err := filepath.Glob(h.path("s/bundles/*/volumes/data/file"))
	if err != nil || len(files) != 1 {
		t.Fatalf("found %v, %v; want a file", files, err)
	}
	if err := unix.Stat(files[0], &st); err != nil || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("found the owner %d:%d, %v; want 7:8 on the disk", st.Uid, st.Gid, err)
	}

	h.signal(syscall.SIGKILL)
	h.start()
	h.raw("other.yaml", strings.Replace(sample(t, "sandbox.yaml"), "name: sandbox", "name: other", 1))
	other := mapped(t, h.untilRunning("other").Status.PID)
	if other == first {
		t.Errorf("found two containers with the ids from %d", first)
	}
	h.does("restart", "sandbox")
	h.until("it has been restarted", func() bool {
		now := h.get("sandbox")
		return now != nil && now.Status.PID != 0 && now.Status.PID != c.Status.PID
	})
	if again := mapped(t, h.untilRunning("sandbox").Status.PID); again != first {
		t.Errorf("after a restart: found the ids from %d; want %d", again, first)
	}
	h.removeAll("sandbox.yaml", "other.yaml")
	if left, err := os.ReadDir(h.path("s/userns")); err != nil || len(left) > 0 {
		t.Errorf("found %v, %v; want no range left", left, err)
	}
}

// TestHostUsersDefault: an agent may give user namespaces by default. A container keeps what it has
// when the default changes, also at a restart of its process, until it is created from another spec.
func TestHostUsersDefault(t *testing.T) {
	h := newHost(t)
	node, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	own := func(pid int64) bool {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
		if err != nil {
			t.Fatal(err)
		}
		return string(text) != string(node)
	}
	write := func(name, more string) {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/sleep, \"100000\"]\n"+
			"  terminationGracePeriodSeconds: 0\n"+more)
	}
	restarted := func(name string, before int64) int64 {
		t.Helper()
		h.until(name+" has another process", func() bool {
			c := h.get(name)
			return c != nil && c.Status.PID != 0 && c.Status.PID != before
		})
		return h.untilRunning(name).Status.PID
	}
	h.start()
	write("old", "")
	old := h.untilRunning("old")
	h.signal(syscall.SIGKILL)

	h.flags = []string{"--host-users-default=false"}
	h.start()
	h.until("the agent has read the directory", func() bool { return claim.AgentRuns(h.path("s")) })
	write("new", "")
	write("said", "  hostUsers: true\n")
	write("shared", "  hostPID: true\n")
	write("great", "  securityContext: {runAsUser: 70000}\n")
	created := h.untilRunning("new")
	for name, want := range map[string]bool{"new": true, "said": false, "shared": false} {
		if got := own(h.untilRunning(name).Status.PID); got != want {
			t.Errorf("%s has a user namespace: %v; want %v", name, got, want)
		}
	}
	h.untilRefused("great", "spec.securityContext.runAsUser: found 70000")
	h.assertSameRun("old", old)
	h.does("restart", "old")
	again := restarted("old", old.Status.PID)
	if own(again) {
		t.Error("a restart has given a user namespace to a container that had none")
	}
	write("old", "  env: [{name: A, value: edited}]\n")
	if !own(restarted("old", again)) {
		t.Error("found no user namespace for a container that was created anew")
	}
	h.signal(syscall.SIGKILL)

	h.flags = nil
	h.start()
	h.until("the agent has read the directory", func() bool { return claim.AgentRuns(h.path("s")) })
	h.assertSameRun("new", created)
	h.does("restart", "new")
	if !own(restarted("new", created.Status.PID)) {
		t.Error("a restart has taken the user namespace away")
	}
	h.removeAll("old.yaml", "new.yaml", "said.yaml", "shared.yaml", "great.yaml")
}

// TestHostUsersOwnTheirFiles: a container in a user namespace with a network, a directory of the
// node and one of its own as root filesystem, volumes of files and in memory, and a device.
func TestHostUsersOwnTheirFiles(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	h.start()
	dir := newDevices(t, map[string]uint32{"fuse": unix.S_IFCHR | 0o666})
	if err := os.MkdirAll(h.path("shared"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.raw("all.yaml", `apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {key: value}
---
apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: all}
spec:
  archive: {path: `+programs+`/busybox.tar}
  command: [/bin/sh, -c]
  args:
  - exec 2>&1; cd /;
    ls -lnL config/key etc/hosts etc/resolv.conf | awk '{print $1, $3, $4, $NF}';
    touch memory/a shared/b sub/c; chown 9 shared/b; ls -ln memory shared sub | awk 'NF > 2 {print $3, $NF}';
    ip link set lo down && echo owns its network;
    ping -c1 -W9 10.89.0.1 > /dev/null && echo reaches the node;
    (exec 3<>/dev/fuse); cat config/key; ls -d /sys/class/net/lo; cat /proc/sys/kernel/hostname; echo; echo done; exec sleep 3600
  hostUsers: false
  securityContext: {capabilities: {add: [NET_ADMIN]}, procMount: Unmasked}
  devices: [{path: `+dir+`/fuse, containerPath: /dev/fuse}]
  volumes:
  - {name: config, configMap: {name: c}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: shared, hostPath: {path: `+h.path("shared")+`}}
  - {name: disk, emptyDir: {}}
  volumeMounts:
  - {name: config, mountPath: /config}
  - {name: memory, mountPath: /memory}
  - {name: shared, mountPath: /shared}
  - {name: disk, mountPath: /sub, subPath: sub}
  terminationGracePeriodSeconds: 1
`)
	c := h.untilRunning("all")
	h.until("the program reports", func() bool { return strings.Contains(h.logs("all"), "done") })
	want := `-rw-r--r-- 0 0 config/key
-rw-r--r-- 0 0 etc/hosts
-rw-r--r-- 0 0 etc/resolv.conf
0 a
9 b
0 c
owns its network
reaches the node
/bin/sh: can't create /dev/fuse: No such device or address
value/sys/class/net/lo
all

done
`
	if got := h.logs("all"); got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	var st unix.Stat_t
	if err := unix.Stat(h.path("shared/b"), &st); err != nil || st.Uid != 9 {
		t.Errorf("found the owner %d, %v; want 9 on the node", st.Uid, err)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.Status.PID))
	if err != nil || strings.Contains(string(mounts), " /proc/kcore ") {
		t.Errorf("found a masked path in %s, %v; want none", mounts, err)
	}
	h.removeAll("all.yaml")
}

// TestUserNamespaceIDs: a wrong range of ids has one error, with what was found and what is allowed.
func TestUserNamespaceIDs(t *testing.T) {
	const form, ids = `; allowed: FIRST-LAST, such as 65536-1048575`, `; allowed: at least 65536 ids,` +
		` from a multiple of 65536 on (not 0), up to 4294967294`
	for flag, want := range map[string]string{
		"65536-131071":     "",
		"65536":            `found "65536"` + form,
		"a-b":              `found "a-b"` + form,
		"65536-4294967296": `found "65536-4294967296"` + form,
		"65536-4294967295": "found the ids 65536 to 4294967295" + ids,
		"65536-131070":     "found the ids 65536 to 131070" + ids,
		"0-65535":          "found the ids 0 to 65535" + ids,
	} {
		o := &options{users: flag}
		err := o.checkUsers()
		if want == "" && err == nil && o.FirstUser == 65536 && o.LastUser == 131071 {
			continue
		}
		if err == nil || err.Error() != "--user-namespace-ids: "+want {
			t.Errorf("%s: found %v; want %s", flag, err, want)
		}
	}
}
