// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// passwdOfImage is the /etc/passwd of a hostile image.
const passwdOfImage = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"

// hostileImage writes an OCI layout: the busybox image with a layer more, and with a config that
// tries to reach outside, a directory of the host.
func (h *host) hostileImage(outside string) string {
	h.t.Helper()
	dir := h.path("layout")
	must := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	must(os.Mkdir(dir, 0o700))
	if out, err := exec.Command("tar", "-xf", programs+"/busybox.tar", "-C", dir).CombinedOutput(); err != nil {
		h.t.Fatalf("%v\n%s", err, out)
	}
	read := func(name string, v any) {
		h.t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(err)
		must(json.Unmarshal(data, v))
	}
	blob := func(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }
	add := func(data []byte) (digest.Digest, int64) {
		h.t.Helper()
		d := digest.FromBytes(data)
		must(os.WriteFile(filepath.Join(dir, blob(d)), data, 0o600))
		return d, int64(len(data))
	}
	text := func(v any) []byte {
		data, err := json.Marshal(v)
		must(err)
		return data
	}
	var index v1.Index
	var manifest v1.Manifest
	var image v1.Image
	read("index.json", &index)
	read(blob(index.Manifests[0].Digest), &manifest)
	read(blob(manifest.Config.Digest), &image)

	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, e := range []tar.Header{
		{Name: outside[1:] + "/", Typeflag: tar.TypeDir, Mode: 0o755}, // what the links mean inside
		{Name: "a", Typeflag: tar.TypeSymlink, Linkname: outside},
		{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../../../.." + outside},
		{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(passwdOfImage))},
	} {
		must(w.WriteHeader(&e))
		if e.Size > 0 {
			_, err := w.Write([]byte(passwdOfImage))
			must(err)
		}
	}
	must(w.Close())
	d, size := add(layer.Bytes())
	manifest.Layers = append(manifest.Layers, v1.Descriptor{
		MediaType: v1.MediaTypeImageLayer, Digest: d, Size: size,
	})
	image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, d)
	image.Config = v1.ImageConfig{
		WorkingDir: "/a/b", User: "app",
		Env: []string{
			"BERTH_SECRET", "BERTH_*", "*", "", "=x", "GOOD=1",
			"HOME=/x\nroot2::0:0::/:/bin/sh",
		},
		Volumes: map[string]struct{}{outside: {}, "/a": {}, "/../../../../../.." + outside: {}},
		Labels: map[string]string{
			"berth.run/recompile": "1", "io.podman.annotations.privileged": "TRUE",
			"run.oci.hooks.stdout": outside + "/new", "io.containers.autoupdate": "registry",
		},
	}
	manifest.Config.Digest, manifest.Config.Size = add(text(image))
	manifest.Annotations = image.Config.Labels
	index.Manifests[0].Digest, index.Manifests[0].Size = add(text(manifest))
	index.Manifests[0].Annotations = image.Config.Labels
	must(os.WriteFile(filepath.Join(dir, "index.json"), text(index), 0o600))
	return dir
}

// TestHostileImage runs an image whose config and files try to change the host, to read its files
// and the agent's environment, and to lift the sandbox: CVE-2026-57231 and CVE-2026-55686 (podman),
// CVE-2026-15809 (CRI-O), CVE-2026-94603 (podman), CVE-2022-23648 (containerd), CVE-2025-24965
// (crun).
func TestHostileImage(t *testing.T) {
	t.Setenv("BERTH_SECRET", "hunter2")
	h := newHost(t)
	outside := h.path("outside")
	if err := os.Mkdir(outside, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("of-the-host"), 0o644); err != nil {
		t.Fatal(err)
	}
	stat := func() string {
		t.Helper()
		out, err := exec.Command("stat", "-c", "%n %a %u:%g %s", outside, outside+"/secret").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		entries, err := os.ReadDir(outside)
		if err != nil || len(entries) != 1 {
			t.Errorf("outside are %v, %v; want one file", entries, err)
		}
		return string(out)
	}
	before := stat()
	const script = `pwd; id -u; env; echo PASSWD; cat /etc/passwd; echo END
cat /a/secret /up/secret 2>/dev/null; grep outside /proc/self/mountinfo
grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status`
	spec := "  restartPolicy: Never\n  command: [/bin/sh, -c, " + string(quoted(script)) + "]\n"
	h.start()
	h.write("hostile.yaml", "  image: oci:"+h.hostileImage(outside)+"\n"+spec)
	// The same of an image that tries nothing.
	h.write("plain.yaml", "  archive: {path: "+programs+"/busybox.tar}\n  securityContext: {runAsUser: 1000}\n"+spec)
	for _, name := range []string{"hostile", "plain"} {
		h.until("the end of "+name, func() bool {
			c := h.get(name)
			return c != nil && c.Status.State.Terminated != nil
		})
	}
	got := h.logs("hostile")
	for _, word := range []string{"hunter2", "BERTH_SECRET", "of-the-host", "mountinfo"} {
		if strings.Contains(got, word) {
			t.Errorf("the container shows %q", word)
		}
	}
	if !strings.HasPrefix(got, outside+"/b\n1000\n") || !strings.Contains(got, "\nGOOD=1\n") {
		t.Errorf("it has another working directory, user or environment")
	}
	if !strings.Contains(got, "PASSWD\n"+passwdOfImage+"END\n") {
		t.Errorf("its /etc/passwd has changed")
	}
	privileges := func(log string) string { return log[strings.LastIndex(log, "END\n")+4:] }
	if want := privileges(h.logs("plain")); privileges(got) != want || !strings.Contains(want, "Seccomp:\t2") {
		t.Errorf("its process has the privileges\n%s\nthat of another image\n%s", privileges(got), want)
	}
	if t.Failed() {
		t.Logf("it wrote:\n%s", got)
	}
	if after := stat(); after != before {
		t.Errorf("outside was\n%s\nand is\n%s", before, after)
	}
	h.removeAll("hostile.yaml", "plain.yaml")
	if after := stat(); after != before {
		t.Errorf("after the removal outside is\n%s", after)
	}
}

func quoted(s string) []byte {
	out, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return out
}
