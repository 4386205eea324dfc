// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// inContainer returns a file as the process of a container sees it.
func inContainer(c *v1alpha1.Container, file string) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", c.Status.PID, file))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

const filesPassword = "correct horse battery"

const filesManifest = `
  command: [/bin/sleep, '3600']
  resources: {limits: {memory: 64Mi}}
  volumes:
  - {name: c, configMap: {name: settings, items: [{key: mode, path: d/mode}, {key: raw, path: raw, mode: 0600}]}}
  - {name: s, secret: {secretName: login, defaultMode: 0400}}
  - {name: o, secret: {secretName: none, optional: true}}
  - name: p
    projected:
      defaultMode: 0444
      sources:
      - configMap: {name: settings}
      - secret: {name: login, items: [{key: password, path: login/password, mode: 0400}]}
      - downwardAPI:
          items:
          - {path: name, fieldRef: {fieldPath: metadata.name}}
          - {path: uid, fieldRef: {fieldPath: metadata.uid}}
          - {path: memory, resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}
  volumeMounts:
  - {name: c, mountPath: /c}
  - {name: s, mountPath: /s}
  - {name: o, mountPath: /o}
  - {name: p, mountPath: /p}
`

// filesHost is a host with a container that has volumes of files.
type filesHost struct{ *host }

func (h filesHost) settings(mode string) {
	h.raw("settings.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {mode: "+
		mode+"}\nbinaryData: {raw: AAE=}\n")
}

func (h filesHost) login(key, password string) {
	h.raw("login.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {"+key+": "+
		password+"}\n")
}

func (h filesHost) manifest(more string) {
	h.write("app.yaml", "  archive: {path: "+programs+"/busybox.tar}"+filesManifest+more)
}

// untilFile returns once the process of the container sees a content.
func (h filesHost) untilFile(c *v1alpha1.Container, file, want string) {
	h.t.Helper()
	h.until(file+": "+want, func() bool { return inContainer(c, file) == want })
}

// sameProcess asserts that the container runs in the same process as before.
func (h filesHost) sameProcess(c *v1alpha1.Container) {
	h.t.Helper()
	if again := h.untilRunning("app"); again.Status.PID != c.Status.PID {
		h.t.Errorf("found pid %d; want %d", again.Status.PID, c.Status.PID)
	}
}

// TestVolumesOfFiles: a container waits for what its volumes are made of, finds the files with their
// modes, and sees changes without a restart, whichever agent makes them.
func TestVolumesOfFiles(t *testing.T) {
	h := filesHost{newHost(t)}
	h.start()
	h.manifest("")
	h.untilWaits("app", "spec.volumes[0].configMap: found no ConfigMap settings")
	h.signal(unix.SIGKILL)
	h.start()
	h.settings("fast")
	h.untilWaits("app", "spec.volumes[1].secret: found no Secret login")
	h.login("other", filesPassword)
	h.untilWaits("app", `spec.volumes[3].projected.sources[1].secret.items[0]: found no key "password" in the Secret login`)
	h.login("password", filesPassword)
	c := h.untilRunning("app")
	for file, want := range map[string]string{
		"/c/d/mode": "fast", "/c/raw": "\x00\x01", "/s/password": filesPassword,
		"/p/mode": "fast", "/p/login/password": filesPassword, "/p/name": "app", "/p/memory": "64",
		"/p/uid": string(h.get("app").UID),
	} {
		if got := inContainer(c, file); got != want {
			t.Errorf("%s: found %q; want %q", file, got, want)
		}
	}
	if got, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/o", c.Status.PID)); err != nil ||
		len(got) != 2 {
		t.Errorf("found %v, %v in an optional volume; want ..data and its version alone", got, err)
	}
	for file, want := range map[string]os.FileMode{
		"/c/d/mode": 0o644, "/c/raw": 0o600, "/s/password": 0o400, "/p/mode": 0o444,
	} {
		var st unix.Stat_t
		err := unix.Stat(fmt.Sprintf("/proc/%d/root%s", c.Status.PID, file), &st)
		if err != nil || st.Mode&0o7777 != uint32(want) || st.Uid+st.Gid != 0 {
			t.Errorf("%s: found mode %o of %d:%d, %v; want %o of root", file, st.Mode, st.Uid, st.Gid, err,
				want)
		}
	}
	for _, dir := range []string{"c", "s", "o", "p"} {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/root/%s/x", c.Status.PID, dir), nil, 0o600)
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("a write into /%s: found %v; want EROFS", dir, err)
		}
	}
	if found := h.shown(filesPassword); len(found) > 0 {
		t.Errorf("the Secret is shown:\n%s", strings.Join(found, "\n"))
	}

	h.checkFilesFollow(c)

	// The next run has the files as well, and an edit of the spec removes those that it does not name.
	if err := unix.Kill(int(c.Status.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.until("another run", func() bool { return h.get("app").Status.RestartCount == 1 })
	h.untilFile(h.untilRunning("app"), "/p/login/password", "two")
	h.removeAll("app.yaml", "login.yaml", "settings.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}

// checkFilesFollow changes what the files of the running container are made of.
func (h filesHost) checkFilesFollow(c *v1alpha1.Container) {
	h.settings("slow")
	h.untilFile(c, "/c/d/mode", "slow")
	h.untilFile(c, "/p/mode", "slow")
	h.signal(unix.SIGKILL)
	h.login("password", "two")
	h.start()
	h.untilFile(c, "/s/password", "two")
	h.untilFile(c, "/p/login/password", "two")
	h.sameProcess(c)

	// What is not there any more changes nothing, and the status says so.
	h.remove("settings.yaml")
	said := func() bool {
		running := meta.FindStatusCondition(h.get("app").Status.Conditions, v1alpha1.ConditionRunning)
		return running.Status == "True" && strings.Contains(running.Message,
			"the files of its volumes stay as they are: spec.volumes[0].configMap: found no ConfigMap settings")
	}
	h.until("the status says so", said)
	if got := inContainer(c, "/c/d/mode"); got != "slow" {
		h.t.Errorf("found %q without the ConfigMap", got)
	}
	h.settings("fast")
	h.untilFile(c, "/c/d/mode", "fast")
	h.until("the status does not say so any more", func() bool { return !said() })

	// A limit that changes for the running container changes its file.
	h.write("app.yaml", "  archive: {path: "+programs+"/busybox.tar}"+
		strings.Replace(filesManifest, "64Mi", "65Mi", 1))
	h.untilFile(c, "/p/memory", "65")
	h.raw("none.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: none}\nstringData: {a: now}\n")
	h.untilFile(c, "/o/a", "now")
	// A file that the next agent refuses may still have it.
	h.signal(unix.SIGKILL)
	h.raw("none.yaml", "{")
	h.start()
	h.until("the file is refused", func() bool {
		out, errs, _ := h.run("", "status")
		return strings.Contains(out+errs, "none.yaml:1")
	})
	h.write("app.yaml", "  archive: {path: "+programs+"/busybox.tar}"+
		strings.Replace(filesManifest, "64Mi", "66Mi", 1))
	h.untilSeen("app", 3)
	h.until("the status says so", func() bool {
		running := meta.FindStatusCondition(h.get("app").Status.Conditions, v1alpha1.ConditionRunning)
		return running.Status == "True" && strings.Contains(running.Message,
			"the files of its volumes stay as they are: a manifest is refused that may have an object of theirs")
	})
	if got := inContainer(c, "/o/a"); got != "now" {
		h.t.Errorf("found %q while the file of the object is refused", got)
	}
	h.remove("none.yaml")
	h.untilFile(c, "/p/memory", "66")
	h.until("the optional file is gone", func() bool {
		_, err := os.Lstat(fmt.Sprintf("/proc/%d/root/o/a", c.Status.PID))
		return os.IsNotExist(err)
	})
	h.sameProcess(c)
}

// TestVolumesOfFilesSample applies the sample as its comment says.
func TestVolumesOfFilesSample(t *testing.T) {
	h := filesHost{newHost(t)}
	h.start()
	text := sample(t, "configfiles.yaml")
	h.raw("configfiles.yaml", text)
	c := h.untilRunning("configfiles")
	h.untilFile(c, "/etc/shop/shop.conf", "currency = EUR\n")
	h.until("the first line", func() bool {
		return strings.HasPrefix(h.logs("configfiles"), "currency = EUR, the password has 13 characters, team shop\n")
	})
	h.raw("configfiles.yaml", strings.Replace(text, "currency = EUR", "currency = CHF", 1))
	h.until("the next line", func() bool {
		return strings.Contains(h.logs("configfiles"), "\ncurrency = CHF, the password has 13 characters, team shop\n")
	})
	if files, err := filepath.Glob(h.path("s/bundles/*/files/*/..data/*")); err != nil || len(files) != 3 {
		t.Errorf("found %v, %v", files, err)
	}
	h.removeAll("configfiles.yaml")
}
