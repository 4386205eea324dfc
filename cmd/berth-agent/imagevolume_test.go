// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/registrytest"
)

// TestImageVolume runs a container with the images of a private registry in its volumes: one of two
// layers twice, one of a single layer with a whiteout, and that of the container itself. Status and
// "image ls" show them, and while the container exists, nobody removes them. A tag that moves gives
// the next start another image.
func TestImageVolume(t *testing.T) {
	t.Parallel()
	reg := registrytest.Start(t, registrytest.Options{Private: true})
	h := newHost(t)
	first := imageOf(t, map[string]string{"name": "old", "gone": "x", "d/file": "in d", "d/up": "-> ../../etc"},
		map[string]string{"name": "first", ".wh.gone": ""})
	model := reg.Push(t, "team/model:1", first)
	one := reg.Push(t, "team/one:1", imageOf(t, map[string]string{
		"tool": "#!/bin/sh\necho tool runs\n", ".wh.none": "",
	}))
	main := reg.Push(t, "team/app:1", registrytest.ReadArchive(t, programs+"/busybox.tar"))
	h.start()
	h.raw("login.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\ntype: kubernetes.io/dockerconfigjson\n"+
		"stringData:\n  .dockerconfigjson: '"+string(registrytest.Config(registrytest.Password, reg.Host))+"'\n")
	spec := fmt.Sprintf(`  image: %s
  imagePullSecrets: [{name: login}]
  command:
  - /bin/sh
  - -c
  - |
    exec 2>&1
    cat /model/name; echo; cat /again/d/file; echo; ls /model /one; /one/tool; /self/bin/true && echo self
    cat /dir/file; echo; cat /file; echo; echo x >/model/new; echo x >/file
    stat -c '%%u:%%g' /model/name /one/tool /file
    echo done; exec sleep 3600
  volumes:
  - {name: model, image: {reference: %s, pullPolicy: Always}}
  - {name: again, image: {reference: %s, pullPolicy: Always}}
  - {name: one, image: {reference: %s}}
  - {name: self, image: {reference: %s}}
  volumeMounts:
  - {name: model, mountPath: /model}
  - {name: again, mountPath: /again}
  - {name: one, mountPath: /one}
  - {name: self, mountPath: /self}
  - {name: model, mountPath: /dir, subPath: d}
  - {name: again, mountPath: /file, subPathExpr: d/$(NAME)}
  env: [{name: NAME, value: file}]
`, main, model, model, one, main)
	h.write("app.yaml", spec)
	want := func(name string) string {
		return name + "\nin d\n/model:\nd\nname\n\n/one:\ntool\ntool runs\nself\nin d\nin d\n" +
			"/bin/sh: can't create /model/new: Read-only file system\n" +
			"/bin/sh: can't create /file: Read-only file system\n7:8\n7:8\n7:8\ndone\n"
	}
	c := h.untilRunning("app")
	h.until("the program reports", func() bool { return strings.Contains(h.logs("app"), "done") })
	if got := h.logs("app"); got != want("first") {
		t.Errorf("found %q; want %q", got, want("first"))
	}
	images := c.Status.VolumeImages
	if len(images) != 4 || images[0] != (v1alpha1.VolumeImage{
		Name: "model", ImageID: model + "@" + digestOf(t, first),
	}) || images[3].ImageID != c.Status.ImageID {
		t.Errorf("found the images %+v of volumes, and %s", images, c.Status.ImageID)
	}

	inUse := func(when string) {
		t.Helper()
		for _, reference := range []string{model, one, main} {
			if !strings.Contains(h.images(), "["+reference+"] [app] false") {
				t.Errorf("%s: found %q; want %s in use", when, h.images(), reference)
			}
			h.fails("found the image "+reference+" in use by app", "image", "rm", reference)
		}
		if out := h.does("image", "prune", "--all", "--force"); out != "" {
			t.Errorf("%s: prune removed %q", when, out)
		}
	}
	inUse("running")
	h.signal(unix.SIGKILL)
	inUse("without an agent")
	h.start()
	h.ready()
	h.does("stop", "app")
	inUse("stopped")

	second := imageOf(t, map[string]string{"name": "second", "d/file": "in d"})
	reg.Push(t, "team/model:1", second)
	h.run("", "start", "app")
	h.until("the program reports again", func() bool { return h.logs("app") == want("second") })
	if got := h.untilRunning("app").Status.VolumeImages[0].ImageID; !strings.HasSuffix(got, digestOf(t, second)) {
		t.Errorf("found the image %s; want %s", got, digestOf(t, second))
	}
	h.removeAll("app.yaml", "login.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
	for _, reference := range []string{model, one, main} {
		h.does("image", "rm", reference)
	}
}

// TestImageVolumeFails: each message names the volume, and the start is tried again until the image
// can be had.
func TestImageVolumeFails(t *testing.T) {
	t.Parallel()
	reg := registrytest.Start(t, registrytest.Options{Private: true})
	open := registrytest.Start(t, registrytest.Options{})
	h := newHost(t)
	h.flags = []string{"--registry-config", h.path("config.json")}
	if err := os.WriteFile(h.path("config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	private := reg.Push(t, "team/model:1", imageOf(t, map[string]string{"name": "x"}))
	plain := imageOf(t, map[string]string{"name": "x", "out": "-> /etc"})
	public := open.Push(t, "team/model:1", plain)
	artifact := open.Push(t, "team/artifact:1",
		mutate.ConfigMediaType(plain, "application/vnd.example.model.config.v1+json"))
	blob, err := mutate.AppendLayers(empty.Image,
		static.NewLayer([]byte("weights"), "application/vnd.example.model.weights"))
	if err != nil {
		t.Fatal(err)
	}
	weights := open.Push(t, "team/weights:1", mutate.ConfigMediaType(blob, "application/vnd.oci.empty.v1+json"))
	h.start()
	for name, tc := range map[string]struct {
		image, mount string
		want         []string
	}{
		"private": {"reference: " + private, "", []string{
			"image " + private + ": the registry refuses an anonymous pull",
		}},
		"missing": {"reference: " + public + "0", "", []string{"image " + public + "0: ", "not found"}},
		"never":   {"reference: " + public + ", pullPolicy: Never", "", []string{"image " + public + ": "}},
		"artifact": {"reference: " + artifact, "", []string{
			"image " + artifact + ": ", "application/vnd.example.model.config.v1+json",
			"an artifact that is no container image",
		}},
		"weights": {"reference: " + weights, "", []string{"image " + weights + ": ", "an artifact that is no container image"}},
	} {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/sleep, '3600']\n"+
			"  volumes: [{name: e, emptyDir: {}}, {name: v, image: {"+tc.image+"}}]\n"+
			"  volumeMounts: [{name: v, mountPath: /v"+tc.mount+"}]\n")
		message := h.untilPullFailed(name, tc.want...)
		if !strings.HasPrefix(message, "volumes[1].image: ") {
			t.Errorf("%s: found %q; want the path of the volume first", name, message)
		}
		h.remove(name + ".yaml")
	}
	// The image is there, and the path in it is not.
	for path, want := range map[string]string{
		"new": `volumeMounts[0].subPath: found no "new" in the volume`, "out/passwd": "leads out of the volume",
	} {
		h.write("path.yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/sleep, '3600']\n"+
			"  volumes: [{name: v, image: {reference: "+public+"}}]\n"+
			"  volumeMounts: [{name: v, mountPath: /v, subPath: "+path+"}]\n")
		h.until("the path is refused: "+want, func() bool {
			c := h.get("path")
			if c == nil {
				return false
			}
			running := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionRunning)
			return running != nil && running.Reason == v1alpha1.ReasonCreateFailed &&
				strings.Contains(running.Message, want)
		})
	}
	h.write("path.yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/cat, /v]\n"+
		"  restartPolicy: Never\n  volumes: [{name: v, image: {reference: "+public+"}}]\n"+
		"  volumeMounts: [{name: v, mountPath: /v, subPath: name}]\n")
	h.untilSucceeded("path")
	h.removeAll("path.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}

// TestImageVolumeOfUserNamespace: the files have the same owner in the container as in the image,
// also those of a path in it.
func TestImageVolumeOfUserNamespace(t *testing.T) {
	t.Parallel()
	reg := registrytest.Start(t, registrytest.Options{})
	h := newHost(t)
	h.start()
	two := reg.Push(t, "two:1", imageOf(t, map[string]string{"d/a": "x"}, map[string]string{"b": "y"}))
	one := reg.Push(t, "one:1", imageOf(t, map[string]string{"d/a": "x"}))
	h.write("app.yaml", fmt.Sprintf(`  archive: {path: %s/busybox.tar}
  hostUsers: false
  restartPolicy: Never
  command: [/bin/sh, -c, 'exec 2>&1; stat -c "%%u:%%g" /two/d/a /two/b /one/d/a /path/a; echo x >/path/a']
  volumes: [{name: two, image: {reference: %s}}, {name: one, image: {reference: %s}}]
  volumeMounts:
  - {name: two, mountPath: /two}
  - {name: one, mountPath: /one}
  - {name: two, mountPath: /path, subPath: d}
`, programs, two, one))
	h.until("it has ended", func() bool {
		c := h.get("app")
		return c != nil && c.Status.State.Terminated != nil
	})
	if got, want := h.logs("app"), "7:8\n7:8\n7:8\n7:8\n/bin/sh: can't create /path/a: Read-only file system\n"; got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	h.removeAll("app.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}

// TestImageVolumeSample runs the sample with the archive of this test.
func TestImageVolumeSample(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start()
	h.raw("imagevolume.yaml", strings.ReplaceAll(sample(t, "imagevolume.yaml"),
		"/var/lib/berth/archives/hello.tar", programs+"/busybox.tar"))
	h.untilSucceeded("imagevolume")
	if got := h.logs("imagevolume"); !strings.Contains(got, "busybox of the volume runs\n") ||
		!strings.Contains(got, "Read-only file system") {
		t.Errorf("found %q", got)
	}
	h.removeAll("imagevolume.yaml")
}

// imageVolume is about the agent alone: a container starts with an image in a volume, ends, and is
// removed.
var imageVolume = stepScenario{
	name: "image volume",
	act: func(r *stepRun) {
		r.write(r.name+".yaml", fmt.Sprintf(`  archive: {path: %s/busybox.tar}
  restartPolicy: Never
  command: [/bin/sh, -c, 'echo start >>/notes/%s; /v/bin/true && echo runs >>/notes/%s; cmp /bin/busybox /path && echo same >>/notes/%s']
  volumes: [{name: notes, hostPath: {path: %s}}, {name: v, image: {reference: 'oci-archive:%s/busybox.tar'}}]
  volumeMounts:
  - {name: notes, mountPath: /notes}
  - {name: v, mountPath: /v}
  - {name: v, mountPath: /path, subPath: bin/busybox}
`, programs, r.name, r.name, r.name, r.path("notes"), programs))
		r.rescan()
	},
	over: func(r *stepRun) bool {
		if r.removed {
			bundles, _ := filepath.Glob(r.path("s/bundles/*_" + r.name + "_*"))
			return r.get(r.name) == nil && len(bundles) == 0
		}
		if r.ended(v1alpha1.ContainerSucceeded) && r.takesSignals() {
			if images := r.get(r.name).Status.VolumeImages; len(images) != 1 || images[0].Name != "v" {
				r.t.Errorf("found the images %+v", images)
			}
			r.removed = true
			r.remove(r.name + ".yaml")
			r.rescan()
		}
		return false
	},
	check: func(r *stepRun) {
		r.noted("start runs same")
		if left := r.leftovers(); left != (counts{}) {
			r.t.Errorf("found %+v left", left)
		}
	},
}
