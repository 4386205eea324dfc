// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

var then = time.Unix(1600000000, 0)

// file, dir, link and so on make entries of a layer; opt changes one.
func file(name, body string) *entry { return &entry{Typeflag: tar.TypeReg, Name: name, body: body} }
func dir(name string) *entry        { return &entry{Typeflag: tar.TypeDir, Name: name} }
func symlink(name, to string) *entry {
	return &entry{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}

func hard(name, to string) *entry {
	return &entry{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}

type entry struct {
	Typeflag byte
	Name     string
	Linkname string
	body     string
	header   func(*tar.Header)
}

func (e *entry) with(f func(*tar.Header)) *entry { e.header = f; return e }

func layerTar(t testing.TB, entries ...*entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{
			Typeflag: e.Typeflag, Name: e.Name, Linkname: e.Linkname, Mode: 0o644,
			ModTime: then, Size: int64(len(e.body)), Format: tar.FormatPAX,
		}
		if e.Typeflag == tar.TypeDir {
			h.Mode = 0o755
		}
		if e.header != nil {
			e.header(h)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// testImage is an image in memory: what is in it may be spoiled before it is published.
type testImage struct {
	platform  v1.Platform
	config    v1.ImageConfig
	layers    [][]byte // plain
	mediaType string
	pack      func([]byte) []byte
	diffIDs   []digest.Digest // nil: the true ones
}

type blob struct {
	desc v1.Descriptor
	data []byte
}

func newBlob(mediaType string, data []byte) blob {
	return blob{v1.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(data),
		Size: int64(len(data)),
	}, data}
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

// build returns the manifest, the configuration and the layers.
func (i testImage) build(t testing.TB) (manifest, config blob, layers []blob) {
	t.Helper()
	if i.platform.OS == "" {
		i.platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	if i.pack == nil {
		i.pack, i.mediaType = gz, v1.MediaTypeImageLayerGzip
	}
	img := v1.Image{Platform: i.platform, Config: i.config, RootFS: v1.RootFS{
		Type:    "layers",
		DiffIDs: i.diffIDs,
	}}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
	}
	for _, l := range i.layers {
		if i.diffIDs == nil {
			img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l))
		}
		b := newBlob(i.mediaType, i.pack(l))
		layers = append(layers, b)
		m.Layers = append(m.Layers, b.desc)
	}
	config = newBlob(v1.MediaTypeImageConfig, mustJSON(t, img))
	m.Config = config.desc
	manifest = newBlob(v1.MediaTypeImageManifest, mustJSON(t, m))
	manifest.desc.Platform = &i.platform
	return manifest, config, layers
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// registryServer is a real registry on loopback that counts what it is asked for.
type registryServer struct {
	*httptest.Server
	host  string
	mu    sync.Mutex
	gets  map[string]int // path -> GETs
	spoil func(path string, body []byte) []byte
	hold  chan struct{} // when not nil, blobs wait for it
}

func newRegistry(t testing.TB) *registryServer {
	s := &registryServer{gets: map[string]int{}}
	real := ggcr.New(ggcr.Logger(discardLogger()))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if r.Method == http.MethodGet {
			s.gets[r.URL.Path]++
		}
		spoil, hold := s.spoil, s.hold
		s.mu.Unlock()
		if r.Method == http.MethodGet && hold != nil && strings.Contains(r.URL.Path, "/blobs/") {
			<-hold
		}
		if spoil != nil && r.Method == http.MethodGet {
			rec := httptest.NewRecorder()
			real.ServeHTTP(rec, r)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			body := spoil(r.URL.Path, rec.Body.Bytes())
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			w.WriteHeader(rec.Code)
			_, _ = w.Write(body)
			return
		}
		real.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

func (s *registryServer) count(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for p, c := range s.gets {
		if strings.Contains(p, part) {
			n += c
		}
	}
	return n
}

func (s *registryServer) put(t testing.TB, path, mediaType string, body []byte) {
	t.Helper()
	method := http.MethodPut
	req, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("PUT %s: %s", path, resp.Status)
	}
}

func (s *registryServer) pushBlob(t testing.TB, repo string, b blob) {
	t.Helper()
	resp, err := http.Post(s.URL+"/v2/"+repo+"/blobs/uploads/?digest="+b.desc.Digest.String(),
		"application/octet-stream", bytes.NewReader(b.data))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("push blob: %s", resp.Status)
	}
}

// push publishes an image and returns its reference.
func (s *registryServer) push(t testing.TB, repo, tag string, i testImage) string {
	t.Helper()
	m, c, ls := i.build(t)
	for _, b := range append(ls, c) {
		s.pushBlob(t, repo, b)
	}
	s.put(t, "/v2/"+repo+"/manifests/"+tag, m.desc.MediaType, m.data)
	return s.host + "/" + repo + ":" + tag
}

// writeLayout writes images as an OCI layout, and returns its directory.
func writeLayout(t testing.TB, index v1.Index, blobs ...blob) string {
	t.Helper()
	d := t.TempDir()
	if err := os.MkdirAll(filepath.Join(d, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		write(t, filepath.Join(d, "blobs/sha256", b.desc.Digest.Encoded()), b.data)
	}
	index.SchemaVersion = 2
	write(t, filepath.Join(d, "index.json"), mustJSON(t, index))
	write(t, filepath.Join(d, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return d
}

func write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// tarDirectory makes an archive of a directory.
func tarDirectory(t testing.TB, directory string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(directory)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func openStore(t testing.TB, opts ...Option) *Store {
	t.Helper()
	needs.Root(t)
	return openStoreAt(t, t.TempDir(), opts...)
}

func openStoreAt(t testing.TB, dir string, opts ...Option) *Store {
	t.Helper()
	s, err := Open(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// noRubbish asserts that nothing unfinished is in the store.
func noRubbish(t testing.TB, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(s.session)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left in the session's directory: %s", e.Name())
	}
}

// mountOverlay mounts layers, lowest first, read-only, and returns the root of what a container
// would see.
func mountOverlay(t testing.TB, layers []string) string {
	t.Helper()
	needs.Root(t)
	runtime.LockOSThread() // and end the thread with the test: its mount namespace is its own
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	at := t.TempDir()
	lowers := reversed(layers)
	if len(lowers) == 1 { // overlayfs wants two
		lowers = append(lowers, t.TempDir())
	}
	err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lowers, ":"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return at
}

// tree lists a directory: path -> content of files, "dir", "-> target", "dev", "fifo". It fails on
// what cannot be read.
func tree(t testing.TB, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	var walk func(string)
	walk = func(rel string) {
		entries, err := os.ReadDir(filepath.Join(root, rel))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			p := filepath.Join(rel, e.Name())
			info, err := os.Lstat(filepath.Join(root, p))
			if err != nil {
				t.Errorf("%s is listed but cannot be looked at: %v", p, err)
				continue
			}
			switch {
			case info.IsDir():
				out[p] = "dir"
				walk(p)
			case info.Mode()&os.ModeSymlink != 0:
				to, err := os.Readlink(filepath.Join(root, p))
				if err != nil {
					t.Fatal(err)
				}
				out[p] = "-> " + to
			case info.Mode().IsRegular():
				data, err := os.ReadFile(filepath.Join(root, p))
				if err != nil {
					t.Fatal(err)
				}
				out[p] = string(data)
			case info.Mode()&os.ModeNamedPipe != 0:
				out[p] = "fifo"
			default:
				out[p] = "dev"
			}
		}
	}
	walk(".")
	return out
}
