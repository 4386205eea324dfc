// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// TestMain is also the process that TestKilled kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BERTH_TEST_IMAGE_STORE"); dir != "" {
		s, err := Open(dir)
		if err == nil {
			_, err = s.Ensure(context.Background(), os.Getenv("BERTH_TEST_IMAGE_REF"), Always)
		}
		fmt.Fprintln(os.Stderr, "helper ended:", err)
		os.Exit(1)
	}
	os.Exit(leaktest.Run(m))
}

func zst(b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return w.EncodeAll(b, nil)
}

func plain(b []byte) []byte { return b }

func ensure(t testing.TB, s *Store, ref string, policy PullPolicy) *Image {
	t.Helper()
	img, err := s.Ensure(context.Background(), ref, policy)
	if err != nil {
		t.Fatal(err)
	}
	img.Release()
	return img
}

// TestTransports: one image is the same however it comes.
func TestTransports(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := newRegistry(t)
	layers := [][]byte{
		layerTar(t, dir("bin"), file("bin/sh", "#!"), file("gone", "x")),
		layerTar(t, file(".wh.gone", ""), file("new", "n")),
	}
	config := v1.ImageConfig{
		Cmd: []string{"/bin/sh"}, Env: []string{"A=b"}, User: "1:2",
		WorkingDir: "/bin",
	}
	image := func(pack func([]byte) []byte, mediaType string) testImage {
		return testImage{config: config, layers: layers, pack: pack, mediaType: mediaType}
	}
	full := image(gz, v1.MediaTypeImageLayerGzip)
	m, c, ls := full.build(t)
	m.desc.Annotations = map[string]string{v1.AnnotationRefName: "v1"}
	blobs := append(slices.Clone(ls), m, c)
	layout := writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}}, blobs...)
	archive := filepath.Join(t.TempDir(), "image.tar")
	write(t, archive, tarDirectory(t, layout))
	write(t, archive+".gz", gz(tarDirectory(t, layout)))
	write(t, archive+".zst", zst(tarDirectory(t, layout)))
	docker := t.TempDir()
	write(t, filepath.Join(docker, c.desc.Digest.Encoded()+".json"), c.data)
	write(t, filepath.Join(docker, "a.tar"), layers[0])
	write(t, filepath.Join(docker, "b.tar"), gz(layers[1]))
	write(t, filepath.Join(docker, "manifest.json"), []byte(`[{"Config":"`+c.desc.Digest.Encoded()+
		`.json","RepoTags":["my/app:v1"],"Layers":["a.tar","b.tar"]}]`))
	write(t, archive+".docker", tarDirectory(t, docker))
	write(t, archive+".docker.gz", gz(tarDirectory(t, docker)))
	byDigest := reg.push(t, "app", "digest", full)
	byDigest = strings.TrimSuffix(byDigest, ":digest") + "@" + m.desc.Digest.String()

	for _, tc := range []struct {
		ref    string
		digest bool // the manifest's is known
	}{
		{reg.push(t, "app", "gzip", full), true},
		{byDigest, true},
		{reg.push(t, "app", "zstd", image(zst, v1.MediaTypeImageLayerZstd)), false},
		{reg.push(t, "app", "plain", image(plain, v1.MediaTypeImageLayer)), false},
		{reg.push(t, "app", "mislabelled", image(gz, v1.MediaTypeImageLayer)), false},
		{"oci:" + layout, true},
		{"oci:" + layout + ":v1", true},
		{"oci:" + layout + "@" + m.desc.Digest.String(), true},
		{"oci-archive:" + archive, true},
		{"oci-archive:" + archive + ":v1", true},
		{"oci-archive:" + archive + ".gz", true},
		{"oci-archive:" + archive + ".zst", true},
		{"docker-archive:" + archive + ".docker", false},
		{"docker-archive:" + archive + ".docker:docker.io/my/app:v1", false},
		{"docker-archive:" + archive + ".docker.gz:my/app:v1", false},
		{"archive:" + layout, true},
		{"archive:" + layout + ":v1", true},
		{"archive:" + archive, true},
		{"archive:" + archive + ".zst:v1", true},
		{"archive:" + archive + ".docker", false},
		{"archive:" + archive + ".docker.gz:my/app:v1", false},
	} {
		t.Run(strings.NewReplacer("/", "_", ":", "_", ",", "_").Replace(filepath.Base(tc.ref)),
			func(t *testing.T) {
				s := openStore(t)
				before := openFds(t)
				img := ensure(t, s, tc.ref, Default)
				if !slices.Equal(img.Config.Cmd, config.Cmd) || img.Config.User != config.User ||
					img.Ref != tc.ref || len(img.Layers) != 2 || img.Size == 0 {
					t.Errorf("got %+v", img)
				}
				if img.ConfigDigest != c.desc.Digest || tc.digest && img.Digest != m.desc.Digest {
					t.Errorf("digests: got %s, config %s", img.Digest, img.ConfigDigest)
				}
				noRubbish(t, s)
				if strings.HasPrefix(tc.ref, reg.host) { // connections end in their own time
					s.transport = nil
				} else if after := openFds(t); after != before {
					t.Errorf("%d descriptors open before, %d after", before, after)
				}
				got := tree(t, mountOverlay(t, img.Layers))
				if want := map[string]string{"bin": "dir", "bin/sh": "#!", "new": "n"}; !maps.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
				// A store opened anew has it without reading anything.
				again := openStoreAt(t, s.dir)
				known := ensure(t, again, tc.ref, Never)
				if !slices.Equal(known.Layers, img.Layers) || known.Digest != img.Digest ||
					!slices.Equal(known.Config.Env, img.Config.Env) {
					t.Errorf("after reopening: got %+v, want %+v", known, img)
				}
			})
	}
}

// TestPolicy checks which requests each pull policy sends to a registry.
func TestPolicy(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := newRegistry(t)
	s := openStore(t)
	ctx := context.Background()
	ref := reg.push(t, "app", "v1", testImage{layers: [][]byte{layerTar(t, file("f", "1"))}})
	if _, err := s.Ensure(ctx, ref, Never); !errors.Is(err, ErrNotPresent) {
		t.Errorf("Never without the image: %v", err)
	}
	if reg.count("/v2/") != 0 {
		t.Error("Never asked the registry")
	}
	first := ensure(t, s, ref, Default)
	blobs := reg.count("/blobs/")
	if again := ensure(t, s, ref, Default); again.Digest != first.Digest ||
		reg.count("/blobs/") != blobs || reg.count("/manifests/") != 1 {
		t.Error("IfNotPresent asked the registry for what the store has")
	}
	if ensure(t, s, ref, Always); reg.count("/blobs/") != blobs || reg.count("/manifests/") != 1 {
		t.Error("Always fetched an unchanged image again")
	}
	reg.push(t, "app", "v1", testImage{layers: [][]byte{
		layerTar(t, file("f", "1")),
		layerTar(t, file("g", "2")),
	}})
	if img := ensure(t, s, ref, IfNotPresent); img.Digest != first.Digest {
		t.Error("IfNotPresent took the new image")
	}
	second := ensure(t, s, ref, Always)
	if second.Digest == first.Digest || len(second.Layers) != 2 ||
		second.Layers[0] != first.Layers[0] {
		t.Errorf("Always: got %v after %v", second.Layers, first.Layers)
	}
	if n := reg.count("/blobs/") - blobs; n != 2 { // config and the new layer
		t.Errorf("%d blobs were fetched for one new layer and a config", n)
	}
	latest := reg.push(t, "app", "latest", testImage{layers: [][]byte{layerTar(t, file("f", "1"))}})
	old := ensure(t, s, strings.TrimSuffix(latest, ":latest"), Default)
	reg.push(t, "app", "latest", testImage{layers: [][]byte{layerTar(t, file("f", "3"))}})
	if ensure(t, s, latest, Default).Digest == old.Digest {
		t.Error("the default for latest is not Always")
	}
	_, err := s.Ensure(ctx, ref, "Sometimes")
	if err == nil || !strings.Contains(err.Error(), `"Sometimes"`) {
		t.Errorf("unknown policy: %v", err)
	}
	// A layer that somebody removed is pulled again.
	if err := os.RemoveAll(filepath.Dir(second.Layers[1])); err != nil {
		t.Fatal(err)
	}
	if img := ensure(t, s, ref, IfNotPresent); !isDir(img.Layers[1]) {
		t.Error("a lost layer was not made again")
	}
	noRubbish(t, s)
}

// TestLocalChange: an archive that changed is read again, one that is gone is not missed.
func TestLocalChange(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	s := openStore(t)
	archive := filepath.Join(t.TempDir(), "a.tar")
	put := func(body string) {
		m, c, ls := testImage{layers: [][]byte{layerTar(t, file("f", body))}}.build(t)
		write(t, archive, tarDirectory(t, writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}},
			append(ls, m, c)...)))
	}
	put("1")
	first := ensure(t, s, "oci-archive:"+archive, Default)
	put("2")
	if img := ensure(t, s, "oci-archive:"+archive, Never); img.Digest != first.Digest {
		t.Error("Never read the file")
	}
	second := ensure(t, s, "oci-archive:"+archive, Default)
	if second.Digest == first.Digest {
		t.Error("the changed archive was not read")
	}
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	if img := ensure(t, s, "oci-archive:"+archive, Default); img.Digest != second.Digest {
		t.Error("another image after the archive is gone")
	}
	var nf *NotFoundError
	if _, err := s.Ensure(context.Background(), "oci-archive:"+archive, Always); !errors.As(err, &nf) {
		t.Errorf("Always without the file: %v", err)
	}
}

// TestMismatch: content with another digest is refused, in the manifest, the config and the layers.
func TestMismatch(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	image := testImage{layers: [][]byte{layerTar(t, file("f", "1"))}}
	m, c, ls := image.build(t)
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		return b
	}
	check := func(t *testing.T, s *Store, ref, what string, expected digest.Digest) {
		t.Helper()
		_, err := s.Ensure(context.Background(), ref, Always)
		var mm *DigestMismatchError
		if !errors.As(err, &mm) || mm.What != what || mm.Expected != expected || mm.Found == expected ||
			mm.Found == "" {
			t.Errorf("got %v, want a mismatch of %s, expected %s", err, what, expected)
		}
		if err != nil && !strings.Contains(err.Error(), ref) {
			t.Errorf("%q does not name the image", err)
		}
		noRubbish(t, s)
		if left, _ := filepath.Glob(filepath.Join(s.dir, "[lc][ah]*", "*", "*")); len(left) != 0 {
			t.Errorf("layers are left: %v", left)
		}
	}
	for _, tc := range []struct {
		what string
		blob blob
	}{{"manifest", m}, {"config", c}, {"layer 0 blob", ls[0]}} {
		t.Run("registry "+tc.what, func(t *testing.T) {
			reg := newRegistry(t)
			ref := reg.push(t, "app", "v1", image)
			reg.spoil = func(path string, body []byte) []byte {
				if strings.HasSuffix(path, tc.blob.desc.Digest.String()) || tc.what == "manifest" &&
					strings.Contains(path, "/manifests/") {
					return flip(body)
				}
				return body
			}
			check(t, openStore(t), ref, tc.what, tc.blob.desc.Digest)
			check(t, openStore(t), strings.TrimSuffix(ref, ":v1")+"@"+m.desc.Digest.String(), tc.what,
				tc.blob.desc.Digest)
		})
		t.Run("oci "+tc.what, func(t *testing.T) {
			d := writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}},
				append(slices.Clone(ls), m, c)...)
			write(t, filepath.Join(d, "blobs/sha256", tc.blob.desc.Digest.Encoded()), flip(tc.blob.data))
			check(t, openStore(t), "oci:"+d, tc.what, tc.blob.desc.Digest)
		})
	}
	t.Run("diffID", func(t *testing.T) {
		wrong := image
		wrong.diffIDs = []digest.Digest{digest.FromString("something else")}
		ref := newRegistry(t).push(t, "app", "v1", wrong)
		// The registry is another for each subtest; this one is enough for one image.
		check(t, openStore(t), ref, "layer 0 diffID", wrong.diffIDs[0])
	})
	t.Run("docker", func(t *testing.T) {
		d := t.TempDir()
		name := c.desc.Digest.Encoded() + ".json"
		write(t, filepath.Join(d, name), c.data)
		write(t, filepath.Join(d, "a.tar"), layerTar(t, file("f", "other")))
		write(t, filepath.Join(d, "manifest.json"), []byte(`[{"Config":"`+name+`","Layers":["a.tar"]}]`))
		archive := filepath.Join(t.TempDir(), "a.tar")
		write(t, archive, tarDirectory(t, d))
		check(t, openStore(t), "docker-archive:"+archive, "layer 0 diffID",
			digest.FromBytes(image.layers[0]))
		write(t, filepath.Join(d, name), append(c.data, ' '))
		write(t, archive, tarDirectory(t, d))
		check(t, openStore(t), "docker-archive:"+archive, "config", c.desc.Digest)
	})
	t.Run("size", func(t *testing.T) {
		var man v1.Manifest
		if err := json.Unmarshal(m.data, &man); err != nil {
			t.Fatal(err)
		}
		man.Layers[0].Size--
		short := newBlob(v1.MediaTypeImageManifest, mustJSON(t, man))
		reg := newRegistry(t)
		reg.push(t, "app", "v1", image)
		reg.put(t, "/v2/app/manifests/v2", short.desc.MediaType, short.data)
		_, err := openStore(t).Ensure(context.Background(), reg.host+"/app:v2", Always)
		var se *SizeError
		if !errors.As(err, &se) || !se.Exact {
			t.Errorf("got %v, want a SizeError", err)
		}
	})
}

// TestPlatform: the node's image is chosen from an index, and another's is refused.
func TestPlatform(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	reg := newRegistry(t)
	ctx := context.Background()
	index := func(tag string, images ...testImage) string {
		idx := v1.Index{MediaType: v1.MediaTypeImageIndex}
		idx.SchemaVersion = 2
		for n, i := range images {
			m, _, _ := i.build(t)
			reg.push(t, "app", fmt.Sprintf("%s-%d", tag, n), i)
			idx.Manifests = append(idx.Manifests, m.desc)
		}
		attestation := idx.Manifests[0]
		attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
		idx.Manifests = append(idx.Manifests, attestation)
		reg.put(t, "/v2/app/manifests/"+tag, idx.MediaType, mustJSON(t, idx))
		return reg.host + "/app:" + tag
	}
	foreign := testImage{
		platform: v1.Platform{OS: "linux", Architecture: other},
		layers:   [][]byte{layerTar(t, file("foreign", ""))},
	}
	native := testImage{layers: [][]byte{layerTar(t, file("native", ""))}}
	want, _, _ := native.build(t)

	img := ensure(t, openStore(t), index("both", foreign, native), Default)
	if img.Digest != want.desc.Digest {
		t.Errorf("got %s, want the node's own %s", img.Digest, want.desc.Digest)
	}
	for name, ref := range map[string]string{
		"index":    index("foreign", foreign),
		"manifest": reg.push(t, "app", "single", foreign),
		"layout": "oci:" + func() string {
			m, c, ls := foreign.build(t)
			return writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}}, append(ls, m, c)...)
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			_, err := s.Ensure(ctx, ref, Default)
			var pe *PlatformError
			text := fmt.Sprintf("image is for linux/%s; this node is linux/%s", other, runtime.GOARCH)
			if !errors.As(err, &pe) || !strings.Contains(err.Error(), text) {
				t.Errorf("got %v, want a PlatformError with %q", err, text)
			}
			noRubbish(t, s)
		})
	}
	// An index that lies about what it points to.
	lie := foreign
	m, _, _ := lie.build(t)
	m.desc.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	idx := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{m.desc}}
	idx.SchemaVersion = 2
	reg.put(t, "/v2/app/manifests/lie", idx.MediaType, mustJSON(t, idx))
	var pe *PlatformError
	if _, err := openStore(t).Ensure(ctx, reg.host+"/app:lie", Default); !errors.As(err, &pe) {
		t.Errorf("a lying index: %v", err)
	}
}

// TestNotImageErrorHidesTheContent: the error of a path does not depend on its content, so that
// users cannot use it to look at a node.
func TestNotImageErrorHidesTheContent(t *testing.T) {
	leaktest.Check(t)
	s := openStore(t)
	tmp := t.TempDir()
	other := func(name string) []byte {
		return tarDirectory(t, func() string {
			d := t.TempDir()
			if err := os.MkdirAll(filepath.Dir(filepath.Join(d, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(d, name), []byte("secret"))
			return d
		}())
	}
	for name, content := range map[string][]byte{
		"empty": nil, "text": []byte("root:x:0:0"), "json": []byte(`{"a":1}`),
		"gzip": gz([]byte("root:x:0:0")), "cut": gz([]byte("root:x:0:0"))[:12],
		"zstd": zst([]byte("root")), "bzip2": []byte("BZh91AY&SY"), "xz": []byte("\xfd7zXZ\x00"),
		"tar": other("etc/shadow"), "tar.gz": gz(other("etc/shadow")),
		"index": other("index.json"), "manifest": other("manifest.json"),
		"layout/index.json": []byte("secret"), "secrets/id_rsa": []byte("x"),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(tmp, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(tmp, name), content)
	}
	if err := unix.Mkfifo(filepath.Join(tmp, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"device": "/dev/zero", "link": "/etc/shadow"} {
		if err := os.Symlink(to, filepath.Join(tmp, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"empty", "text", "json", "gzip", "cut", "zstd", "bzip2", "xz", "tar",
		"tar.gz", "index", "manifest", "layout", "secrets", "fifo", "device", "link",
	} {
		p := filepath.Join(tmp, name)
		for _, transport := range []string{"archive", "oci", "oci-archive", "docker-archive"} {
			ref := transport + ":" + p
			_, err := s.Ensure(t.Context(), ref, Default)
			want := (&NotImageError{Ref: ref, Path: p}).Error()
			if err == nil || err.Error() != want {
				t.Errorf("%s:\nfound %v\nwanted %s", ref, err, want)
			}
		}
	}
}

// TestBadInput: each fault has one clear error of a type that callers can tell.
func TestBadInput(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := newRegistry(t)
	s := openStore(t, WithLimits(func() Limits {
		l := DefaultLimits()
		l.Manifest, l.Config, l.Layer = 64<<10, 64<<10, 1<<20
		return l
	}()))
	tmp := t.TempDir()
	write(t, filepath.Join(tmp, "text"),
		[]byte("no archive at all, only some text that is long enough"))
	write(t, filepath.Join(tmp, "bz"), []byte("BZh91AY&SY"))
	if err := unix.Mkfifo(filepath.Join(tmp, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	put := func(tag, mediaType, body string) string {
		reg.put(t, "/v2/bad/manifests/"+tag, mediaType, []byte(body))
		return reg.host + "/bad:" + tag
	}
	bomb := testImage{layers: [][]byte{layerTar(t, file("zeros", strings.Repeat("\x00", 2<<20)))}}
	escape := testImage{layers: [][]byte{layerTar(t, file("../x", "1"))}}
	m, c, ls := testImage{layers: [][]byte{layerTar(t, file("f", "1"))}}.build(t)
	incomplete := writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}}, m, c)
	two := m.desc
	two.Annotations = map[string]string{v1.AnnotationRefName: "two"}
	one := m.desc
	one.Annotations = map[string]string{v1.AnnotationRefName: "one"}
	several := writeLayout(t, v1.Index{Manifests: []v1.Descriptor{one, two}}, append(ls, m, c)...)
	link := writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}}, c)
	err := os.Symlink("/etc/passwd", filepath.Join(link, "blobs/sha256", m.desc.Digest.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	as := func(target any) func(error) bool {
		return func(err error) bool { return errors.As(err, target) }
	}
	notFound, refErr, invalid, size, entryErr, notImage := new(*NotFoundError), new(*ReferenceError),
		new(*InvalidImageError), new(*SizeError), new(*EntryError), new(*NotImageError)
	for _, tc := range []struct {
		name, ref string
		is        func(error) bool
		text      string
	}{
		{"no such tag", reg.host + "/none:1", as(notFound), "manifest 1"},
		{"no such file", "oci-archive:" + tmp + "/none.tar", as(notFound), "none.tar"},
		{"no such directory", "oci:" + tmp + "/none", as(notFound), "none"},
		{"no layout", "oci:" + tmp, as(notImage), "index.json"},
		{"no such layout tag", "oci:" + several + ":three", as(notFound), "one, two"},
		{"several", "oci:" + several, as(refErr), "one, two"},
		{"blob missing", "oci:" + incomplete, as(notFound), ls[0].desc.Digest.String()},
		{"blob is a link out", "oci:" + link, as(notFound), m.desc.Digest.String()},
		{"relative", "oci:some/dir", as(refErr), "absolute"},
		{"empty", "", as(refErr), "allowed"},
		{"malformed", "UPPER//x", as(refErr), "allowed"},
		{"bad digest", "oci:" + tmp + "@sha256:12", as(refErr), "sha256:12"},
		{"control character", "busybox\n", as(refErr), "control"},
		{"text", "oci-archive:" + tmp + "/text", as(notImage), "is not an image"},
		{"bzip2", "oci-archive:" + tmp + "/bz", as(notImage), "plain, gzip or zstd"},
		{"fifo", "docker-archive:" + tmp + "/fifo", as(notImage), "is not an image"},
		{"device", "docker-archive:/dev/zero", as(notImage), "is not an image"},
		{"secret file", "docker-archive:/etc/passwd", as(notImage), "is not an image"},
		{"not JSON", put("json", v1.MediaTypeImageManifest, "{"), as(invalid), "JSON"},
		{"schema 1", put("schema1", "application/vnd.docker.distribution.manifest.v1+json",
			`{"schemaVersion":1,"fsLayers":[]}`), as(invalid), "schemaVersion"},
		{
			"ambiguous", put("both", v1.MediaTypeImageManifest,
				`{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}`), as(invalid),
			"an index or a manifest",
		},
		{"huge manifest", put("huge", v1.MediaTypeImageManifest, `{"schemaVersion":2,"x":"`+
			strings.Repeat("x", 70<<10)+`"}`), as(size), "65536"},
		{"layer bomb", reg.push(t, "bomb", "1", bomb), as(size), "at most 1048576"},
		{"escape", reg.push(t, "escape", "1", escape), as(entryErr), `"../x"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := s.Ensure(context.Background(), tc.ref, Always)
			if !tc.is(err) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %T: %v; want one with %q", err, err, tc.text)
			}
			if err != nil && strings.Contains(err.Error(), "root:x") {
				t.Error("the error tells what is in the file")
			}
			noRubbish(t, s)
		})
	}
}

// TestShared: pulls at once of images that share layers fetch and unpack each layer once.
func TestShared(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := newRegistry(t)
	reg.hold = make(chan struct{})
	base, upper := layerTar(t, file("base", "1")), layerTar(t, file("upper", "2"))
	a := reg.push(t, "a", "v1", testImage{layers: [][]byte{base, upper}})
	var mu sync.Mutex
	unpacked := map[digest.Digest]int{}
	s := openStore(t, WithProgress(func(p Progress) {
		if p.Stage == "unpack" {
			mu.Lock()
			unpacked[p.Layer]++
			mu.Unlock()
		}
	}))
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			policy := IfNotPresent
			if n%2 == 0 {
				policy = Always
			}
			img, err := s.Ensure(context.Background(), a, policy)
			if err != nil || len(img.Layers) != 2 {
				t.Errorf("%v, %v", img, err)
			}
		})
	}
	close(reg.hold)
	wg.Wait()
	for _, l := range [][]byte{base, upper} {
		if n := unpacked[digest.FromBytes(l)]; n != 1 {
			t.Errorf("a layer was unpacked %d times", n)
		}
	}
	// Another image, by another process on the same directory, shares the layer.
	other := openStoreAt(t, s.dir)
	b := reg.push(t, "b", "v1", testImage{layers: [][]byte{layerTar(t, file("else", "3")), upper}})
	if x, y := ensure(t, s, a, IfNotPresent),
		ensure(t, other, b, IfNotPresent); x.Layers[1] != y.Layers[1] {
		t.Error("a self-contained layer on another base is not shared")
	}
	noRubbish(t, s)
}

// TestProgress: a pull says how much there is, and how far each stage is.
func TestProgress(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := newRegistry(t)
	random := make([]byte, 3<<20) // does not get smaller
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	layers := [][]byte{layerTar(t, file("a", string(random))), layerTar(t, file("b", "1"))}
	remote := testImage{layers: layers}
	m, c, ls := remote.build(t)
	size := ls[0].desc.Size + ls[1].desc.Size
	layout := writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}},
		append(slices.Clone(ls), m, c)...)
	archive := filepath.Join(t.TempDir(), "image.tar.gz")
	write(t, archive, gz(tarDirectory(t, layout)))
	for ref, stages := range map[string]string{
		reg.push(t, "app", "v1", remote): "done download unpack", "oci:" + layout: "done unpack",
		"oci-archive:" + archive: "done read unpack",
	} {
		var mu sync.Mutex
		last := map[string]int64{} // by stage and layer
		between := map[string]bool{}
		s := openStore(t, WithProgress(func(p Progress) {
			mu.Lock()
			defer mu.Unlock()
			id := p.Stage + " " + p.Layer.String()
			if p.Ref != ref || p.Done < last[id] || p.Done > p.Total || p.Stage != StageRead &&
				(p.Size != size || p.Layers != 2) {
				t.Errorf("found %+v after %d", p, last[id])
			}
			last[id] = p.Done
			if p.Done > 0 && p.Done < p.Total {
				between[p.Stage] = true
			}
		}))
		ensure(t, s, ref, Default)
		found := map[string]bool{}
		for id := range last {
			stage, _, _ := strings.Cut(id, " ")
			found[stage] = true
		}
		if got := strings.Join(slices.Sorted(maps.Keys(found)), " "); got != stages {
			t.Errorf("%s: found stages %q; want %q", ref, got, stages)
		}
		for stage := range found {
			if stage != StageDone && !between[stage] {
				t.Errorf("%s: nothing is said within stage %s", ref, stage)
			}
		}
	}
}

// TestCancel: a pull that nobody waits for any more ends, and leaves nothing.
func TestCancel(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := newRegistry(t)
	ref := reg.push(t, "a", "v1", testImage{layers: [][]byte{layerTar(t, file("f", "1"))}})
	reg.hold = make(chan struct{})
	defer close(reg.hold)
	s := openStore(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := s.Ensure(ctx, ref, Always)
		done <- err
	}()
	for reg.count("/blobs/") == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	noRubbish(t, s)
}

// TestKilled: the next process cleans all files of one that was killed while it unpacked.
func TestKilled(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	var entries []*entry
	for n := range 6000 {
		entries = append(entries, file(fmt.Sprintf("f%d", n), "x"))
	}
	m, c, ls := testImage{layers: [][]byte{layerTar(t, entries...)}}.build(t)
	ref := "oci:" + writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}}, append(ls, m, c)...)
	// On a busy machine the helper may be done before this process looks: another may not.
	var store, pattern string
	var helper *exec.Cmd
	for end := time.Now().Add(2 * time.Minute); ; {
		store = t.TempDir()
		pattern = filepath.Join(store, "tmp/*/layer-*/layer/diff/f100")
		var said string
		if helper, said = stoppedMidway(t, store, ref, pattern); helper != nil {
			break
		}
		if said != "helper ended: <nil>\n" {
			t.Fatalf("the helper ended too early: %s", said)
		}
		if time.Now().After(end) {
			t.Fatal("no helper was stopped in the middle: the test shows nothing")
		}
	}
	// A living process's directory is left alone.
	early := openStoreAt(t, store)
	if found, _ := filepath.Glob(pattern); len(found) != 1 {
		t.Error("Open removed a living process's work")
	}
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait()
	if found, _ := filepath.Glob(filepath.Join(store, "layers/*/*")); len(found) != 0 {
		t.Fatal("the helper was done before it was killed: the test shows nothing")
	}
	if found, _ := filepath.Glob(pattern); len(found) != 1 {
		t.Fatal("the helper was not killed in the middle: the test shows nothing")
	}
	s := openStoreAt(t, store)
	left, err := filepath.Glob(filepath.Join(store, "tmp/*"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{early.session, s.session}; len(left) != 2 || !slices.Contains(want, left[0]) ||
		!slices.Contains(want, left[1]) {
		t.Errorf("left after Open: %v", left)
	}
	img := ensure(t, s, ref, IfNotPresent)
	if got := len(tree(t, img.Layers[0])); got != 6000 {
		t.Errorf("%d files after the second pull", got)
	}
	noRubbish(t, s)
}

// stoppedMidway starts a process that pulls into a store, and stops it once a file is there that it
// unpacks early: it cannot come to its end then. There is none where it was faster; what it said
// then is returned.
func stoppedMidway(t *testing.T, store, ref, pattern string) (helper *exec.Cmd, said string) {
	t.Helper()
	var out bytes.Buffer
	helper = exec.Command("/proc/self/exe")
	helper.Env = append(os.Environ(), "BERTH_TEST_IMAGE_STORE="+store, "BERTH_TEST_IMAGE_REF="+ref)
	helper.Stderr = &out
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	there := func() bool {
		found, _ := filepath.Glob(pattern)
		return len(found) > 0
	}
	state := func() byte {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", helper.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return stat[bytes.LastIndexByte(stat, ')')+2]
	}
	for !there() && state() != 'Z' {
		time.Sleep(time.Millisecond)
	}
	if err := helper.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for s := state(); s != 'T' && s != 'Z'; s = state() {
		time.Sleep(time.Millisecond)
	}
	if there() && state() == 'T' {
		return helper, ""
	}
	_ = helper.Process.Signal(syscall.SIGCONT)
	_ = helper.Wait()
	return nil, out.String()
}

// TestParseReference checks the parts of references.
func TestParseReference(t *testing.T) {
	leaktest.Check(t)
	sha := "sha256:" + strings.Repeat("a", 64)
	for raw, want := range map[string]string{
		"busybox":                             "docker://index.docker.io/library/busybox:latest Always",
		"docker.io/library/busybox:1.37":      "docker://index.docker.io/library/busybox:1.37 IfNotPresent",
		"docker://busybox:1.37":               "docker://index.docker.io/library/busybox:1.37 IfNotPresent",
		"127.0.0.1:5000/x@" + sha:             "docker://127.0.0.1:5000/x@" + sha + " IfNotPresent",
		"127.0.0.1:5000/x:latest@" + sha:      "docker://127.0.0.1:5000/x@" + sha + " IfNotPresent",
		"oci:/a/b/":                           "oci:/a/b IfNotPresent",
		"oci:/a/b:latest":                     "oci:/a/b:latest IfNotPresent",
		"oci:/a/b@" + sha:                     "oci:/a/b@" + sha + " IfNotPresent",
		"oci-archive:/a.tar:v1":               "oci-archive:/a.tar:v1 IfNotPresent",
		"docker-archive:/a.tar:host:5/my/a:1": "docker-archive:/a.tar:host:5/my/a:1 IfNotPresent",
	} {
		r, err := parseReference(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		p, err := r.policy(Default)
		if got := r.canonical + " " + string(p); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", raw, got, err, want)
		}
	}
}

func TestImageID(t *testing.T) {
	leaktest.Check(t)
	sha := "sha256:" + strings.Repeat("a", 64)
	for ref, want := range map[string]string{
		"busybox":                         "busybox",
		"127.0.0.1:5000/x:latest":         "127.0.0.1:5000/x:latest",
		"127.0.0.1:5000/x@" + sha:         "127.0.0.1:5000/x",
		"127.0.0.1:5000/x:latest@" + sha:  "127.0.0.1:5000/x:latest",
		"oci:/a/b@" + sha:                 "oci:/a/b",
		"oci-archive:/of@home/a.tar":      "oci-archive:/of@home/a.tar",
		"docker-archive:/a.tar:host/a@v1": "docker-archive:/a.tar:host/a@v1",
	} {
		img := Image{Ref: ref, Digest: "sha256:b"}
		if got := img.ID(); got != want+"@sha256:b" {
			t.Errorf("%s: found %s; want %s@sha256:b", ref, got, want)
		}
	}
}
