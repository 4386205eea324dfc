// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// untilWaits returns once a container waits for an object, with a message that has the text.
func (h *host) untilWaits(name, text string) {
	h.t.Helper()
	h.until(name+" waits: "+text, func() bool {
		c := h.get(name)
		if c == nil {
			return false
		}
		running := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionRunning)
		return running != nil && running.Reason == v1alpha1.ReasonConfigMissing &&
			strings.Contains(running.Message, text) &&
			c.Status.PrintableStatus == v1alpha1.ReasonConfigMissing
	})
}

// shown returns the files of the host that hold a text, but for the manifests, and why it may not be
// there.
func (h *host) shown(text string) (out []string) {
	err := filepath.WalkDir(h.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err != nil || !e.Type().IsRegular() || filepath.Dir(path) == h.path("m") {
			return nil //nolint:nilerr // it is gone since
		}
		data, _ := os.ReadFile(path)
		if !bytes.Contains(data, []byte(text)) {
			return nil
		}
		info, err := e.Info()
		var disk unix.Statfs_t
		if err == nil {
			err = unix.Statfs(path, &disk)
		}
		switch run, _ := filepath.Rel(h.path("r"), path); {
		case err != nil:
			out = append(out, path+": "+err.Error())
		case info.Mode().Perm()&0o077 != 0:
			out = append(out, path+": mode "+info.Mode().String())
		// the run directory is in memory on a host
		case disk.Type != unix.TMPFS_MAGIC && strings.HasPrefix(run, ".."):
			out = append(out, path+": on a disk")
		}
		return nil
	})
	if err != nil {
		h.t.Error(err)
	}
	return out
}

// TestConfiguration: a container waits for what it refers to, starts once that is there, and nobody
// but root can read the value of a Secret, on no disk.
func TestConfiguration(t *testing.T) {
	h := newHost(t)
	h.start()
	const password = "correct horse battery"
	h.write("app.yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
		"  command: [/bin/sh, -c, 'echo \"$0 $MODE $OTHER$(echo -n \"$PASSWORD\" | sha256sum)\"; exec sleep 3600', $(MODE)]\n"+
		"  envFrom: [{prefix: '', configMapRef: {name: settings}}, {secretRef: {name: none, optional: true}}]\n"+
		"  env:\n"+
		"  - {name: OTHER, valueFrom: {configMapKeyRef: {name: settings, key: other, optional: true}}}\n"+
		"  - {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}\n")
	h.untilWaits("app", "spec.envFrom[0].configMapRef: found no ConfigMap settings")
	h.signal(unix.SIGKILL)
	h.start()
	settings := func(mode string) {
		h.raw("settings.yaml",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {MODE: "+mode+"}\n")
	}
	settings("fast")
	h.untilWaits("app", "spec.env[1].valueFrom.secretKeyRef: found no Secret login")

	// A Secret that others can read is refused, and nothing of it is shown.
	secret := func(key string) string {
		return "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {" + key + ": " +
			password + "}\n"
	}
	if err := os.WriteFile(h.path("m/login.yaml"), []byte(secret("other")), 0o644); err != nil {
		t.Fatal(err)
	}
	h.until("the mode is refused", func() bool {
		out, errs, _ := h.run("", "status")
		return strings.Contains(out+errs, "found mode 0644")
	})
	if err := os.Chmod(h.path("m/login.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.untilWaits("app", `found no key "password" in the Secret login`)
	h.raw("login.yaml", secret("password"))

	c := h.untilRunning("app")
	sum := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(password)))
	h.until("the values", func() bool { return h.logs("app") == "fast fast "+sum })
	if found := h.shown(password); len(found) > 0 {
		t.Errorf("the Secret is shown:\n%s", strings.Join(found, "\n"))
	}

	// A change restarts nothing. The next run has it, whichever agent starts that.
	settings("slow")
	h.signal(unix.SIGKILL)
	h.start()
	if again := h.untilRunning("app"); again.Status.PID != c.Status.PID {
		t.Errorf("found pid %d; want %d", again.Status.PID, c.Status.PID)
	}
	if err := unix.Kill(int(c.Status.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.until("the new value", func() bool { return h.logs("app") == "slow slow "+sum })
	h.removeAll("app.yaml", "login.yaml", "settings.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}

// TestConfigurationSample applies the sample as its comment says.
func TestConfigurationSample(t *testing.T) {
	h := newHost(t)
	h.start()
	text := sample(t, "configuration.yaml")
	h.raw("configuration.yaml", text)
	h.untilRunning("configuration")
	h.until("the line of the sample", func() bool {
		return h.logs("configuration") == "Hello, world; the password has 13 characters\n"
	})
	h.raw("configuration.yaml", strings.Replace(text, "GREETING: Hello", "GREETING: Good night", 1))
	h.until("the line of the next run", func() bool {
		return h.logs("configuration") == "Good night, world; the password has 13 characters\n"
	})
	h.removeAll("configuration.yaml")
}

// TestOnConfigChange: a change of an object restarts the containers that ask for it, once for each
// change, whichever agent sees it. What runs goes on while an object is missing, and what has
// finished stays so.
func TestOnConfigChange(t *testing.T) {
	h := newHost(t)
	h.start()
	settings := func(mode string) {
		h.raw("settings.yaml",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {MODE: "+mode+"}\n")
	}
	const from = "  env: [{name: MODE, valueFrom: {configMapKeyRef: {name: settings, key: MODE}}}]\n"
	write := func(name, command, more string) {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
			"  command: [/bin/sh, -c, 'echo $MODE; "+command+"']\n"+from+more)
	}
	settings("one")
	const restart = "  onConfigChange: Restart\n"
	write("env", "exec sleep 3600", restart)
	write("once", "exec sleep 3600", restart+"  restartPolicy: Never\n")
	write("done", "exit 0", restart+"  restartPolicy: OnFailure\n")
	write("ignore", "exec sleep 3600", "  onConfigChange: Ignore\n")
	h.write("files.yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
		"  command: [/bin/sh, -c, 'cat /c/MODE; echo; exec sleep 3600']\n"+
		"  volumes: [{name: c, configMap: {name: settings}}]\n"+
		"  volumeMounts: [{name: c, mountPath: /c}]\n"+restart)
	restarted := []string{"env", "once", "files"}
	runs := func(word string, count int32) {
		t.Helper()
		for _, name := range restarted {
			h.until(fmt.Sprintf("%s runs with %s", name, word), func() bool {
				return h.untilRunning(name).Status.RestartCount == count && h.logs(name) == word+"\n"
			})
		}
	}
	runs("one", 0)
	ignores := h.untilRunning("ignore")
	h.until("the job has finished", func() bool {
		return h.get("done").Status.Phase == v1alpha1.ContainerSucceeded
	})
	settings("two")
	runs("two", 1)
	h.signal(unix.SIGKILL)
	settings("three")
	h.start()
	runs("three", 2)

	// Neither its absence nor its return changes anything. While a manifest is refused that may have
	// it, the status says that.
	says := func(name, what string) {
		t.Helper()
		h.until(name+" says: "+what, func() bool {
			running := meta.FindStatusCondition(h.get(name).Status.Conditions, v1alpha1.ConditionRunning)
			return running.Status == "True" && strings.Contains(running.Message, what)
		})
	}
	h.raw("broken.yaml", "{")
	h.remove("settings.yaml")
	says("env", "changes of its ConfigMaps and Secrets do not restart it: a manifest is refused that may")
	says("files", "do not restart it: a manifest is refused that may have an object of theirs; "+
		"the files of its volumes stay as they are: a manifest is refused that may have an object of theirs")
	h.remove("broken.yaml")
	says("files", "the files of its volumes stay as they are: spec.volumes[0].configMap: found no ConfigMap settings")
	settings("three")
	h.until("the ConfigMap is back", func() bool {
		running := meta.FindStatusCondition(h.get("files").Status.Conditions, v1alpha1.ConditionRunning)
		return !strings.Contains(running.Message, "found no ConfigMap")
	})
	runs("three", 2)
	if again := h.untilRunning("ignore"); again.Status.PID != ignores.Status.PID {
		t.Errorf("ignore: found pid %d; want %d", again.Status.PID, ignores.Status.PID)
	}
	if c := h.get("done"); c.Status.RestartCount != 0 || c.Status.Phase != v1alpha1.ContainerSucceeded {
		t.Errorf("done: found %+v", c.Status)
	}

	// An edit of the field alone restarts a container whose ConfigMap has changed since its start.
	write("ignore", "exec sleep 3600", restart)
	h.until("ignore runs with three", func() bool { return h.logs("ignore") == "three\n" })
	h.removeAll("env.yaml", "once.yaml", "done.yaml", "ignore.yaml", "files.yaml", "settings.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}

// TestConfigChangeSignal: a program gets the signal once for each change, when it already finds the
// new file, also of a change while no agent ran. A change that is taken back before an agent runs
// again sends none, and neither does a start.
func TestConfigChangeSignal(t *testing.T) {
	h := newHost(t)
	h.start()
	settings := func(mode string) {
		h.raw("settings.yaml",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {MODE: "+mode+"}\n")
	}
	write := func(name, signal, more string) {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
			"  command: [/bin/sh, -c, 'trap \"echo again \\$(cat /c/MODE)\" "+signal+"; echo first $(cat /c/MODE); while :; do sleep 0.1; done']\n"+
			"  volumes: [{name: c, configMap: {name: settings}}]\n"+
			"  volumeMounts: [{name: c, mountPath: /c}]\n  onConfigChange: Signal\n"+more)
	}
	settings("one")
	write("default", "HUP", "")
	write("named", "USR1", "  configChangeSignal: SIGUSR1\n")
	const begun = "a signal is being sent"
	digests := h.path("s/bundles/*/private/objects")
	kept := func() (out []string) {
		files, err := filepath.Glob(digests)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			digest, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(digest))
		}
		return out
	}
	says := func(want string) {
		t.Helper()
		for _, name := range []string{"default", "named"} {
			h.until(name+" says "+want, func() bool { return h.get(name) != nil && h.logs(name) == want })
		}
		// The program has the signal before the agent writes that down. Killed in between, the agent
		// sends it again.
		h.until("the agent has noted the signals", func() bool { return !slices.Contains(kept(), begun) })
	}
	says("first one\n")
	pid := h.untilRunning("default").Status.PID
	settings("two")
	says("first one\nagain two\n")
	h.signal(unix.SIGKILL)
	settings("none")
	settings("two")
	h.start()
	settings("three")
	says("first one\nagain two\nagain three\n")
	h.signal(unix.SIGKILL)
	settings("four")
	h.start()
	says("first one\nagain two\nagain three\nagain four\n")
	// An agent that is killed after it has begun to send the signal leaves this.
	h.signal(unix.SIGKILL)
	files, err := filepath.Glob(digests)
	if err != nil || len(files) != 2 {
		t.Fatalf("found the digests %v, %v", files, err)
	}
	for _, file := range files {
		if err := os.WriteFile(file, []byte(begun), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	says("first one\nagain two\nagain three\nagain four\nagain four\n")
	if c := h.untilRunning("default"); c.Status.PID != pid || c.Status.RestartCount != 0 {
		t.Errorf("found pid %d after %d restarts; want pid %d", c.Status.PID, c.Status.RestartCount, pid)
	}
	reload := sample(t, "standalone/reload.yaml")
	h.raw("reload.yaml", reload)
	logs := func(want string) func() bool {
		return func() bool { return h.get("reload") != nil && h.logs("reload") == want }
	}
	h.until("the greeting", logs("first hello\n"))
	h.raw("reload.yaml", strings.Replace(reload, "greeting: hello", "greeting: good morning", 1))
	h.until("the new greeting", logs("first hello\nagain good morning\n"))
	h.removeAll("default.yaml", "named.yaml", "settings.yaml", "reload.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}
