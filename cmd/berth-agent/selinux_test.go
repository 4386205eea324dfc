// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/selinuxtest"
)

// TestSELinux: processes and files of a container have labels that no other container has, in every
// kind of volume but hostPath, and keep them when agent and process are killed.
func TestSELinux(t *testing.T) {
	selinuxtest.Load(t)
	h := newHost(t)
	h.start()
	if err := os.Mkdir(h.path("shared"), 0o777); err != nil {
		t.Fatal(err)
	}
	shared := selinuxtest.OfFile(t, h.path("shared"))
	objects := func(value string) {
		h.raw("objects.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {key: "+value+"}\n"+
			"---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: kept}\n"+
			"spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Mi}}}\n")
	}
	objects("v")
	container := func(name, options string, claim bool) {
		spec := "  archive: {path: " + programs + "/busybox.tar}\n" +
			"  command: [/bin/sh, -c, 'echo x > /disk/file; echo x > /memory/file; exec sleep 3600']\n" +
			"  securityContext: {seLinuxOptions: {" + options + "}}\n" +
			"  volumeMounts:\n" +
			"  - {name: disk, mountPath: /disk}\n  - {name: memory, mountPath: /memory}\n" +
			"  - {name: files, mountPath: /files}\n  - {name: host, mountPath: /host}\n"
		volumes := "  volumes:\n  - {name: disk, emptyDir: {}}\n" +
			"  - {name: memory, emptyDir: {medium: Memory}}\n" +
			"  - {name: files, configMap: {name: settings}}\n" +
			"  - {name: host, hostPath: {path: " + h.path("shared") + "}}\n"
		if claim {
			spec += "  - {name: claim, mountPath: /claim}\n"
			volumes += "  - {name: claim, persistentVolumeClaim: {claimName: kept}}\n"
		}
		h.write(name+".yaml", spec+volumes)
	}
	// level checks the labels of a container that runs, and returns its level.
	level := func(name, kind string, more ...string) string {
		t.Helper()
		pid := int(h.untilRunning(name).Status.PID)
		root := "/proc/" + strconv.Itoa(pid) + "/root"
		h.until("the files of "+name, func() bool {
			_, err := os.Stat(root + "/memory/file")
			return err == nil
		})
		label := selinuxtest.OfProcess(t, pid)
		level, ok := strings.CutPrefix(label, "system_u:system_r:"+kind+":")
		if !ok {
			t.Fatalf("the process of %s is %s", name, label)
		}
		for _, path := range append(more, "/", "/bin/sh", "/dev/shm", "/dev/null", "/disk", "/memory",
			"/files", "/files/key", "/files/..data/key", "/etc/hosts", "/etc/resolv.conf") {
			if got, want := selinuxtest.OfFile(t, root+path),
				"system_u:object_r:container_file_t:"+level; got != want {
				t.Errorf("%s of %s is %s; want %s", path, name, got, want)
			}
		}
		if got := selinuxtest.OfFile(t, root+"/host"); got != shared {
			t.Errorf("the hostPath volume of %s is %s; want %s, as it was", name, got, shared)
		}
		return level
	}
	container("one", "", true)
	container("two", "type: container_init_t", false)
	one, two := level("one", "container_t", "/claim"), level("two", "container_init_t")
	if one == two || !strings.HasPrefix(one, "s0:c") {
		t.Errorf("found the levels %q and %q; want two", one, two)
	}

	h.signal(unix.SIGKILL)
	h.start()
	if err := unix.Kill(int(h.untilRunning("one").Status.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.until("one is started again", func() bool {
		c := h.get("one")
		return c != nil && c.Status.RestartCount == 1 && c.Status.State.Running != nil
	})
	if again := level("one", "container_t", "/claim"); again != one {
		t.Errorf("found the level %s after a restart; want %s", again, one)
	}
	// What a former level has made belongs to the new one, too.
	container("one", "level: 's0:c5,c7'", true)
	h.until("one is replaced", func() bool {
		c := h.get("one")
		if c == nil || c.Status.State.Running == nil {
			return false
		}
		label, _ := os.ReadFile("/proc/" + strconv.FormatInt(c.Status.PID, 10) + "/attr/current")
		return strings.Contains(string(label), ":s0:c5,c7")
	})
	level("one", "container_t", "/claim", "/disk/file", "/memory/file")

	// A change of the ConfigMap has the label as well.
	objects("w")
	pid := int(h.untilRunning("one").Status.PID)
	file := "/proc/" + strconv.Itoa(pid) + "/root/files/key"
	h.until("the new file", func() bool {
		data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/root/files/..data/key")
		return string(data) == "w"
	})
	if got := selinuxtest.OfFile(t, file); !strings.HasSuffix(got, ":container_file_t:s0:c5,c7") {
		t.Errorf("the changed file is %s", got)
	}

	h.removeAll("one.yaml", "two.yaml", "objects.yaml")
	if left, err := os.ReadDir(h.path("s/selinux")); err != nil || len(left) > 0 {
		t.Errorf("found the levels %v, %v; want none", left, err)
	}
}
