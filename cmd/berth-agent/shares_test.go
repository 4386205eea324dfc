// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// untilVolumeNotReady returns once a container waits for a volume, with a message that has the text.
func (h *host) untilVolumeNotReady(name, text string) {
	h.t.Helper()
	h.until(name+" waits: "+text, func() bool {
		c := h.get(name)
		if c == nil || c.Status.PrintableStatus != v1alpha1.ReasonVolumeNotReady {
			return false
		}
		running := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionRunning)
		return running != nil && strings.Contains(running.Message, text)
	})
}

// shell returns the spec of a container that executes a script.
func shell(script string, more ...string) string {
	return fmt.Sprintf("  archive: {path: %s/busybox.tar}\n  command: [/bin/sh, -c, %q]\n", programs,
		script) + strings.Join(more, "")
}

// ofOwner are volumes of the Container owner.
const ofOwner = "  volumes:\n  - {name: d, container: {name: owner, volume: disk}}\n" +
	"  - {name: m, container: {name: owner, volume: memory}}\n"

// TestStandaloneSharedVolume: containers have the emptyDirs of another one, whatever user namespace
// they are in, before its program runs and while the agent is killed. It can only be removed once
// they have ended, and has new volumes when it is made again.
func TestStandaloneSharedVolume(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("first.yaml", shell("echo first >/d/first; mkdir /m/sub && echo first >/m/sub/first; chown 9 /m/sub/first",
		"  restartPolicy: Never\n  hostUsers: false\n", ofOwner,
		"  volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m}]\n"))
	h.untilVolumeNotReady("first", "no Container of that name in the namespace default")
	owner := shell("cat /disk/first /memory/sub/first; stat -c %u /disk/first /memory/sub/first; exec sleep 3600",
		"  dependsOn: [{name: first, condition: Completed}]\n"+
			"  volumes:\n  - {name: disk, emptyDir: {}}\n  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}\n"+
			"  volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]\n")
	h.write("owner.yaml", owner)
	h.until("the owner shows the files", func() bool {
		return h.get("owner") != nil && h.logs("owner") == "first\nfirst\n0\n9\n"
	})
	h.write("side.yaml", shell("touch /ro/x 2>/dev/null && echo written; cat /sub/first; stat -f -c %T /m; "+
		"stat -c '%g %a' /m/sub; echo side >/d/side; trap exit TERM; while true; do sleep 0.1; done",
		"  securityContext: {fsGroup: 77}\n", ofOwner,
		"  volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m},"+
			" {name: d, mountPath: /ro, readOnly: true}, {name: m, mountPath: /sub, subPath: sub}]\n"))
	h.until("the other one reports", func() bool { return strings.Contains(h.logs("side"), "77 2775\n") })
	if got, want := h.logs("side"), "first\ntmpfs\n77 2775\n"; got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	h.until("the owner has its file", func() bool {
		out, _, _ := h.run("", "exec", "owner", "--", "cat", "/disk/side")
		return out == "side\n"
	})

	// The owner may restart, also while no agent is there.
	side, ownerPID := h.untilRunning("side"), h.untilRunning("owner").Status.PID
	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(ownerPID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.until("the owner runs again", func() bool {
		st := h.get("owner").Status
		return st.State.Running != nil && st.PID != 0 && st.PID != ownerPID
	})
	h.assertSameRun("side", side)

	// It is removed, and the agent is killed while it waits for the other one.
	h.write("side.yaml", shell("trap 'touch /m/term' TERM; echo $(ls /d) >/m/seen; while [ ! -e /m/go ]; do sleep 0.1; done",
		"  terminationGracePeriodSeconds: 60\n", ofOwner,
		"  volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m}]\n"))
	memory := func(name string) string {
		found, _ := filepath.Glob(h.path("s/bundles/*_owner_*/volumes/memory/" + name))
		return strings.Join(found, " ")
	}
	h.until("side runs anew", func() bool { return memory("seen") != "" })
	h.remove("owner.yaml")
	h.until("side is told to stop", func() bool { return memory("term") != "" })
	h.signal(unix.SIGKILL)
	h.start()
	h.until("the next agent knows of both", func() bool { return h.takesSignals() && h.get("owner") != nil })
	h.until("the owner waits for side", func() bool {
		return strings.Contains(h.tail(), "others have it: default/side, which has to end first")
	})
	if !strings.Contains(h.tail(), "default/owner, whose volume disk it has, is removed") {
		t.Error("found no reason for the stop of side in the log")
	}
	if h.get("side").Status.State.Running == nil || memory("seen") == "" {
		t.Error("found the volume or side gone before the other")
	}
	if err := os.WriteFile(strings.Replace(memory("term"), "term", "go", 1), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.until("the owner is gone", func() bool {
		left, _ := filepath.Glob(h.path("s/bundles/*_owner_*"))
		return h.get("owner") == nil && len(left) == 0
	})
	h.untilVolumeNotReady("side", "no Container of that name")

	// Made again, it has empty volumes.
	h.write("owner.yaml", strings.Replace(owner, "  dependsOn: [{name: first, condition: Completed}]\n", "", 1))
	h.until("side has looked", func() bool { return memory("seen") != "" })
	if text, err := os.ReadFile(memory("seen")); string(text) != "\n" {
		t.Errorf("found %q, %v in the new volume; want nothing", text, err)
	}
	if err := os.WriteFile(strings.Replace(memory("seen"), "seen", "go", 1), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.removeAll("owner.yaml", "side.yaml", "first.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}

// tail returns the whole log of the agents.
func (h *host) tail() string {
	h.t.Helper()
	text, err := os.ReadFile(h.path("agent.log"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// TestSharedVolumeOverfull: what others write counts for the owner's sizeLimit. Once it is exceeded,
// the owner is ended, the others give the volume back, and all start again with an empty one.
func TestSharedVolumeOverfull(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("owner.yaml", shell("echo found $(ls /d); exec sleep 3600",
		"  volumes: [{name: disk, emptyDir: {sizeLimit: 2Mi}}]\n  volumeMounts: [{name: disk, mountPath: /d}]\n"))
	h.write("side.yaml", shell("echo found $(ls /d); [ -e /once/done ] || fallocate -l 3145728 /d/file; "+
		"touch /once/done; exec sleep 3600",
		"  volumes:\n  - {name: once, emptyDir: {}}\n  - {name: d, container: {name: owner, volume: disk}}\n"+
			"  volumeMounts: [{name: d, mountPath: /d}, {name: once, mountPath: /once}]\n"))
	for _, name := range []string{"owner", "side"} {
		h.until(name+" is started again", func() bool {
			c := h.get(name)
			return c != nil && c.Status.RestartCount > 0 && c.Status.State.Running != nil &&
				h.logs(name) == "found\n"
		})
	}
	if end := h.get("owner").Status.LastState.Terminated; end == nil ||
		end.Reason != v1alpha1.ReasonEvicted {
		t.Errorf("found the end %+v of the owner; want Evicted", end)
	}
	h.removeAll("owner.yaml", "side.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}

// TestStandaloneSampleShared: the web server of the sample shows what the other Container writes.
func TestStandaloneSampleShared(t *testing.T) {
	h := newHost(t)
	h.start()
	h.raw("sharedvolume.yaml", sample(t, "standalone/sharedvolume.yaml"))
	h.untilSucceeded("reader")
	if out := h.logs("reader"); out != "written by writer\n" {
		t.Errorf("found the log %q", out)
	}
	h.removeAll("sharedvolume.yaml")
	h.signal(unix.SIGTERM)
}

// The program of the sample gets the variables that the other Container has written.
func TestStandaloneSampleEnvFile(t *testing.T) {
	h := newHost(t)
	h.start()
	h.raw("envfile.yaml", sample(t, "standalone/envfile.yaml"))
	h.until("the program shows its variable", func() bool {
		return h.get("app") != nil && h.logs("app") == "token of setup\n"
	})
	h.removeAll("envfile.yaml")
	h.signal(unix.SIGTERM)
}

// volumeOfAnother is a job with a volume of another container, which goes on. Only the agent has it.
var volumeOfAnother = stepScenario{
	name: "volume of another container",
	before: func(r *stepRun) {
		if _, err := os.Stat(r.path("m/lender.yaml")); err != nil {
			r.write("lender.yaml", shell("exec sleep 3600", "  volumes: [{name: v, emptyDir: {}}]\n"))
		}
		r.untilRunning("lender")
	},
	act: func(r *stepRun) {
		r.write(r.name+".yaml", shell("echo start >>/v/"+r.name, "  restartPolicy: Never\n",
			"  volumes: [{name: v, container: {name: lender, volume: v}}]\n",
			"  volumeMounts: [{name: v, mountPath: /v}]\n"))
		r.rescan()
	},
	over: func(r *stepRun) bool {
		if r.removed {
			bundles, _ := filepath.Glob(r.path("s/bundles/*_" + r.name + "_*"))
			return r.get(r.name) == nil && len(bundles) == 0
		}
		if r.ended(v1alpha1.ContainerSucceeded) && r.takesSignals() {
			r.removed = true
			r.remove(r.name + ".yaml")
			r.rescan()
		}
		return false
	},
	check: func(r *stepRun) {
		files, _ := filepath.Glob(r.path("s/bundles/*_lender_*/volumes/v/" + r.name))
		if len(files) != 1 {
			r.t.Fatalf("found %v; want a file of the job", files)
		}
		if text, err := os.ReadFile(files[0]); string(text) != "start\n" {
			r.t.Errorf("found %q, %v; want one start", text, err)
		}
		if left, _ := filepath.Glob(r.path("s/bundles/*_lender_*/sharers/v/*")); len(left) > 0 {
			r.t.Errorf("found the volume held by %v", left)
		}
	},
}

// TestStandaloneVariableOfFile: a container has the variables that another one has written into a
// file of its emptyDir, waits for them, and gets those of the moment at each start. No value is
// shown.
func TestStandaloneVariableOfFile(t *testing.T) {
	h := newHost(t)
	h.start()
	variables := func(volume string) string {
		var out strings.Builder
		out.WriteString("  env:\n")
		for _, key := range []string{"ADDRESS", "TEXT", "ABSENT"} {
			fmt.Fprintf(&out, "  - {name: %s, valueFrom: {fileKeyRef: {volumeName: %s, path: dir/env, key: %s, optional: %t}}}\n",
				key, volume, key, key == "ABSENT")
		}
		return out.String()
	}
	const show = "echo \"$ADDRESS|$TEXT|${ABSENT-none}\"; exec sleep 3600"
	h.write("app.yaml", shell(show, "  volumes: [{name: config, emptyDir: {}}]\n", variables("config"),
		"  dependsOn: [{name: init, condition: Completed}]\n"))
	h.write("early.yaml", shell(show, "  volumes: [{name: c, container: {name: app, volume: config}}]\n", variables("c")))
	h.untilWaits("early", "spec.env[0].valueFrom.fileKeyRef: found no file dir/env in the volume c")
	init := func(text string) {
		h.write("init.yaml", shell("mkdir -p /c/dir; printf \""+text+"\" 2 >/c/dir/env", "  restartPolicy: Never\n",
			"  volumes: [{name: c, container: {name: app, volume: config}}]\n  volumeMounts: [{name: c, mountPath: /c}]\n"))
	}
	init(`ADDRESS=hunter%d\n`)
	h.untilWaits("app", "found the file dir/env in the volume config: line 1: found a value without single quotes")
	init(`# set up\nADDRESS='hunter%d'\nTEXT='a\n b'\n`)
	const want = "hunter2|a\n b|none\n"
	for _, name := range []string{"app", "early"} {
		h.until(name+" shows its variables", func() bool { return h.get(name) != nil && h.logs(name) == want })
	}
	for _, found := range h.shown("hunter2") {
		// The containers' own files and output have it.
		if !strings.Contains(found, "/volumes/config/") && !strings.HasPrefix(found, h.path("l/")) {
			t.Errorf("found a value in %s", found)
		}
	}

	// Another link is not followed out of the volume at the next start.
	link := func(target string) {
		dirs, _ := filepath.Glob(h.path("s/bundles/*_app_*/volumes/config/dir"))
		if len(dirs) != 1 {
			t.Fatalf("found %v; want one directory", dirs)
		}
		if err := os.Remove(dirs[0] + "/env"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, dirs[0]+"/env"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(h.path("outside"), []byte("ADDRESS='x'\nTEXT='y'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	link(h.path("outside"))
	h.does("restart", "--no-wait", "app")
	h.untilWaits("app", "found the file dir/env in the volume config: a symbolic link leads out of the volume")
	h.removeAll("app.yaml", "early.yaml", "init.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}

// lentVolume is a container that is removed together with one that has its volume. Only the agent
// has them.
var lentVolume = stepScenario{
	name: "volume for another container",
	before: func(r *stepRun) { // or all manifests would vanish at once
		if _, err := os.Stat(r.path("m/stays.yaml")); err != nil {
			r.write("stays.yaml", shell("exec sleep 3600"))
		}
		r.untilRunning("stays")
	},
	act: func(r *stepRun) {
		const program = "trap \"echo end >>$NOTES; exit\" TERM; echo start >>$NOTES; while true; do sleep 0.02; done"
		r.manifest("Always", program)
		r.write(r.name+"-side.yaml", "  terminationGracePeriodSeconds: 60\n"+
			shell("trap 'echo end >>/v/side; exit' TERM; while true; do sleep 0.02; done",
				"  volumes: [{name: v, container: {name: "+r.name+", volume: disk}}]\n",
				"  volumeMounts: [{name: v, mountPath: /v}]\n"))
		r.rescan()
	},
	over: func(r *stepRun) bool {
		own, side := r.get(r.name), r.get(r.name+"-side")
		if !r.removed {
			r.removed = own != nil && own.Status.State.Running != nil && side != nil &&
				side.Status.State.Running != nil && r.notes() == "start" && r.takesSignals()
			if r.removed {
				r.remove(r.name + ".yaml")
				r.remove(r.name + "-side.yaml")
				r.rescan()
			}
			return false
		}
		bundles, _ := filepath.Glob(r.path("s/bundles/*_" + r.name + "*"))
		return own == nil && side == nil && len(bundles) == 0
	},
	check: func(r *stepRun) { r.noted("start end") },
}
