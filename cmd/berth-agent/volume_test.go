// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// fails asserts that a command fails with a text.
func (h *host) fails(want string, args ...string) {
	h.t.Helper()
	out, errs, code := h.run("", args...)
	if code == 0 || !strings.Contains(errs, want) {
		h.t.Errorf("%s: found %q, %q, exit code %d; want %q", strings.Join(args, " "), out, errs, code, want)
	}
}

// volumes returns what "volume ls" shows, a line for each volume.
func (h *host) volumes() string {
	h.t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Namespace, Name, CreationTimestamp string }
			Status   struct {
				Path    string
				Claimed bool
				UsedBy  []string
			}
		}
	}
	if err := json.Unmarshal([]byte(h.does("volume", "ls", "-o", "json")), &list); err != nil {
		h.t.Fatal(err)
	}
	var lines []string
	for _, v := range list.Items {
		if v.Status.Path != h.path("s/volumes/"+v.Metadata.Namespace+"/"+v.Metadata.Name) {
			h.t.Errorf("found the path %s", v.Status.Path)
		}
		lines = append(lines, fmt.Sprintf("%s/%s %t %v", v.Metadata.Namespace, v.Metadata.Name,
			v.Status.Claimed, v.Status.UsedBy))
	}
	return strings.Join(lines, "|")
}

// TestVolumeSample applies the sample as its comment says: what a container has written outlives it,
// its Container and the claim, and the agent, until an administrator removes it.
func TestVolumeSample(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("other.yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/sleep, '3600']\n")
	h.untilRunning("other")
	if out := h.does("volume", "ls"); out != "no volumes\n" {
		t.Errorf("found %q; want no volumes", out)
	}
	text := sample(t, "standalone/volume.yaml")
	claim, container, _ := strings.Cut(text, "---\n")
	counted := func(want string) *v1alpha1.Container {
		t.Helper()
		var c *v1alpha1.Container
		h.until(want, func() bool {
			c = h.get("counter")
			return c != nil && c.Status.PID != 0 && h.logs("counter") == want+"\n"
		})
		return c
	}
	h.raw("volume.yaml", text)
	c := counted("start 1")
	if err := unix.Kill(int(c.Status.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	counted("start 2")
	if out := h.does("volume", "ls"); !strings.Contains(out, "NAMESPACE   NAME      CLAIMED   USED BY   AGE\n"+
		"default     counter   yes       counter   ") {
		t.Errorf("found the table %q", out)
	}
	const refusal = "found the volume counter in use by counter; allowed: a volume that no Container names"
	h.fails(refusal, "volume", "rm", "counter")
	if out := h.does("volume", "prune", "--force"); out != "" {
		t.Errorf("prune of what is used: found %q", out)
	}

	h.raw("volume.yaml", claim)
	h.until("the Container is gone", func() bool {
		bundles, _ := filepath.Glob(h.path("s/bundles/default_counter_*"))
		return h.get("counter") == nil && len(bundles) == 0
	})
	if got, want := h.volumes(), "default/counter true []"; got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	if out := h.does("volume", "prune", "--force"); out != "" {
		t.Errorf("prune of what is claimed: found %q", out)
	}
	h.raw("volume.yaml", text)
	counted("start 3")

	h.signal(unix.SIGKILL)
	h.fails(refusal, "volume", "rm", "counter")
	h.fails("found no running agent", "volume", "prune", "--force")
	h.start()
	h.remove("volume.yaml")
	h.until("the Container is gone", func() bool { return h.files() == 3 }) // those of the other one
	if got, want := h.volumes(), "default/counter false []"; got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	h.raw("broken.yaml", "{")
	h.until("it is refused", func() bool { _, errs, _ := h.run("", "status"); return errs != "" })
	h.fails("found a manifest that is refused or missing", "volume", "prune", "--force")
	h.remove("broken.yaml")
	h.until("it is forgotten", func() bool { _, errs, _ := h.run("", "status"); return errs == "" })
	h.fails("found no confirmation", "volume", "prune")
	h.raw("volume.yaml", claim+"---\n"+container)
	counted("start 4")
	h.remove("volume.yaml")
	h.until("the Container is gone", func() bool { return h.files() == 3 })
	out, errs, code := h.run("y\n", "volume", "prune")
	if out != "counter\n" || code != 0 || !strings.Contains(errs, h.path("s/volumes/default/counter")) {
		t.Errorf("prune: found %q, %q, exit code %d", out, errs, code)
	}
	if got := h.volumes(); got != "" {
		t.Errorf("found %q after prune", got)
	}
	h.raw("volume.yaml", text)
	counted("start 1")
	h.removeAll("volume.yaml", "other.yaml")
	h.does("volume", "rm", "counter")
	h.fails("found no volume default/counter; there are: none", "volume", "rm", "counter")
}

// pvc returns the document of a claim.
func pvc(name, modes string) string {
	return "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: " + name +
		"}\nspec: {accessModes: [" + modes + "], resources: {requests: {storage: 1Gi}}}\n"
}

// TestVolumeClaims: a container waits for its claim, has the access that claim and reference give
// it, and shares the volume unless the claim says otherwise.
func TestVolumeClaims(t *testing.T) {
	h := newHost(t)
	h.start()
	const program = "  command: [/bin/sh, -c, 'for d in /a /b /c; do touch $d/$0 && echo $d is writable; done; exec sleep 3600', NAME]\n" +
		"  volumes:\n" +
		"  - {name: a, persistentVolumeClaim: {claimName: many}}\n" +
		"  - {name: b, persistentVolumeClaim: {claimName: many, readOnly: true}}\n" +
		"  - {name: c, persistentVolumeClaim: {claimName: fixed}}\n" +
		"  volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}, {name: c, mountPath: /c}]\n"
	write := func(name string) {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
			strings.ReplaceAll(program, "NAME", name))
	}
	write("one")
	h.untilWaits("one", "spec.volumes[0].persistentVolumeClaim.claimName: found no PersistentVolumeClaim many")
	h.signal(unix.SIGKILL)
	h.start()
	h.raw("many.yaml", pvc("many", "ReadWriteOnce, ReadWriteMany"))
	h.untilWaits("one", "spec.volumes[2].persistentVolumeClaim.claimName: found no PersistentVolumeClaim fixed")
	h.raw("fixed.yaml", pvc("fixed", "ReadOnlyMany"))
	c := h.untilRunning("one")
	h.until("what it may write", func() bool { return strings.Contains(h.logs("one"), "/a is writable\n") })
	write("two")
	h.untilRunning("two")
	h.until("the file of the other", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", c.Status.PID, "/b/two"))
		return err == nil
	})
	for _, name := range []string{"one", "two"} {
		if log := h.logs(name); strings.Contains(log, "/b is") || strings.Contains(log, "/c is") {
			t.Errorf("found the log %q", log)
		}
	}

	// A container goes on without its claim, and its volume cannot be removed.
	h.remove("many.yaml")
	if again := h.untilRunning("one"); again.Status.PID != c.Status.PID {
		t.Errorf("found pid %d; want %d", again.Status.PID, c.Status.PID)
	}
	h.fails("found the volume many in use by one, two", "volume", "rm", "many")

	// One Container at a time.
	h.raw("single.yaml", pvc("single", "ReadWriteOncePod"))
	single := func(name string) {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/sleep, '3600']\n"+
			"  volumes: [{name: v, persistentVolumeClaim: {claimName: single}}]\n")
	}
	single("first")
	h.untilRunning("first")
	single("second")
	h.until("the second waits", func() bool {
		c := h.get("second")
		if c == nil {
			return false
		}
		running := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionRunning)
		return running != nil && running.Reason == v1alpha1.ReasonVolumeInUse && strings.Contains(
			running.Message, "spec.volumes[0].persistentVolumeClaim.claimName: found the PersistentVolumeClaim single, which the Container first has")
	})
	h.remove("first.yaml")
	h.untilRunning("second")
	h.removeAll("one.yaml", "two.yaml", "second.yaml", "single.yaml", "fixed.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
	if got, want := h.volumes(), "default/fixed false []|default/many false []|default/single false []"; got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	if _, err := os.Stat(h.path("s/volumes/default/many/two")); err != nil {
		t.Errorf("the data: %v", err)
	}
}

// TestEveryVolumeRemovalStepKilled kills "volume rm" at each of its steps. The volume is there whole
// or not at all, and the next agent removes the data of one that is not there.
func TestEveryVolumeRemovalStepKilled(t *testing.T) {
	h := newHost(t)
	h.start()
	h.ready()
	const files = 3
	steps := 0
	for through := false; !through; steps++ {
		dir := h.path("s/volumes/default/v")
		for i := range files {
			file := filepath.Join(dir, fmt.Sprint("d", i), "file")
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		through = h.killedAt(steps+1, "volume", "rm", "v", "--state-dir", h.path("s")) == ""
		found, _ := filepath.Glob(dir + "/*/file")
		if _, err := os.Stat(dir); err == nil && len(found) != files {
			t.Fatalf("found %d files of %d in a volume that is there, at step %d", len(found), files, steps+1)
		} else if err == nil && through {
			t.Error("it is there after rm")
		}
		trash := func() []string {
			left, _ := filepath.Glob(h.path("s/volumes/*/.trash/*"))
			return left
		}
		if len(trash()) > 0 {
			h.signal(unix.SIGKILL)
			h.start()
			h.until("no data is left", func() bool { return len(trash()) == 0 })
			h.ready()
		}
	}
	if steps < 3 {
		t.Errorf("found %d steps; want more", steps)
	}
	t.Logf("killed at each of %d steps", steps-1)
}
