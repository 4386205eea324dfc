// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// maxErrorText is far above what an error has to say, and far below what a manifest may have.
const maxErrorText = 8 << 10

// controlKeys are annotations and labels by which an image has steered one engine or another.
var controlKeys = []string{
	"io.podman.annotations.privileged", "io.podman.annotations.seccomp",
	"io.podman.annotations.label", "io.podman.annotations.userns", "run.oci.keep_original_groups",
	"run.oci.hooks.stdout", "run.oci.seccomp.receiver", "run.oci.handler", "org.criu.config",
	"org.systemd.property.DeviceAllow", "io.containers.autoupdate", "PODMAN_SYSTEMD_UNIT",
	"io.kubernetes.cri-o.Devices", "io.kubernetes.cri-o.userns-mode", "io.kubernetes.cri.container-type",
	"containerd.io/restart.logpath", "containerd.io/restart.loguri", "io.containerd.runtime",
	"com.docker.compose.project", "cdi.k8s.io/all", "berth.run/recompile", "berth.run/restart",
	"berth.run/show-compiled", "container.apparmor.security.beta.kubernetes.io/x",
}

// TestAnnotationsAreNoControl: CVE-2026-94603 (podman), CVE-2026-121885 (podman), CVE-2026-53488
// (containerd): annotations of an image, wherever they stand, change nothing of what is run.
func TestAnnotationsAreNoControl(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	marks := map[string]string{}
	for _, k := range controlKeys {
		marks[k] = "true"
	}
	image := testImage{
		config: v1.ImageConfig{Cmd: []string{"/x"}, Env: []string{"A=1"}},
		layers: [][]byte{layerTar(t, file("x", "1"))},
	}
	plain, c, ls := image.build(t)
	var m v1.Manifest
	if err := json.Unmarshal(plain.data, &m); err != nil {
		t.Fatal(err)
	}
	m.Annotations, m.Config.Annotations, m.Layers[0].Annotations = marks, marks, marks
	m.ArtifactType = "application/vnd.berth.run"
	marked := newBlob(v1.MediaTypeImageManifest, mustJSON(t, m))
	marked.desc.Annotations = marks
	index := v1.Index{Manifests: []v1.Descriptor{marked.desc}, Annotations: marks}
	want := ensure(t, openStore(t), "oci:"+writeLayout(t, v1.Index{Manifests: []v1.Descriptor{plain.desc}},
		append(ls, plain, c)...), Always)
	got := ensure(t, openStore(t), "oci:"+writeLayout(t, index, append(ls, marked, c)...), Always)
	if got.Digest != marked.desc.Digest {
		t.Errorf("digest %s; want %s", got.Digest, marked.desc.Digest)
	}
	if !reflect.DeepEqual(got.Config, want.Config) || got.ConfigDigest != want.ConfigDigest {
		t.Errorf("with annotations: %+v; without: %+v", got.Config, want.Config)
	}
}

// memorySource is an image in memory.
type memorySource struct {
	first document
	blobs map[digest.Digest][]byte
	reads int
}

func (m *memorySource) top(context.Context) (document, error) { return m.first, nil }

func (m *memorySource) document(_ context.Context, d v1.Descriptor) (document, error) {
	m.reads++
	return document{data: m.blobs[d.Digest], digest: d.Digest}, nil
}

func (m *memorySource) blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	m.reads++
	return io.NopCloser(bytes.NewReader(m.blobs[d.Digest])), nil
}

func (m *memorySource) identity() *fileIdentity { return nil }
func (m *memorySource) Close() error            { return nil }

// resolveText resolves an image whose top document has a text.
func (m *memorySource) resolveText(text []byte) (*resolved, error) {
	m.first = document{data: text, digest: digest.FromBytes(text)}
	return resolve(context.Background(), "ref", nodePlatform(), m, DefaultLimits())
}

// TestMalformedDescriptors: CVE-2026-95839 (containerd): a descriptor with a malformed digest, size
// or type is an error of a few words, at any place of an image.
func TestMalformedDescriptors(t *testing.T) {
	leaktest.Check(t)
	m, c, _ := testImage{layers: [][]byte{layerTar(t, file("f", "1"))}}.build(t)
	long := strings.Repeat("x", 1<<20)
	for _, d := range []string{
		"", "sha256", "sha256:", ":", "x", "sha256:x", "sha256:" + strings.Repeat("A", 64),
		"md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../../../../etc/passwd", "sha256:" + long, long,
		"sha512:" + strings.Repeat("0", 64), "sha256:" + strings.Repeat("0", 64) + "\n",
	} {
		for place, change := range map[string]func(*v1.Manifest, *v1.Index){
			"config": func(m *v1.Manifest, _ *v1.Index) { m.Config.Digest = digest.Digest(d) },
			"config of an artifact": func(m *v1.Manifest, _ *v1.Index) {
				m.Config.Digest, m.Config.MediaType = digest.Digest(d), "application/"+long
			},
			"huge config": func(m *v1.Manifest, _ *v1.Index) {
				m.Config.Digest, m.Config.Size = digest.Digest(d), 1<<62
			},
			"layer": func(m *v1.Manifest, _ *v1.Index) { m.Layers[0].Digest = digest.Digest(d) },
			"subject of an artifact": func(m *v1.Manifest, _ *v1.Index) {
				m.Subject = &v1.Descriptor{Digest: digest.Digest(d)}
				m.Layers[0].MediaType = long
			},
			"index": func(_ *v1.Manifest, i *v1.Index) { i.Manifests[0].Digest = digest.Digest(d) },
			"platform": func(_ *v1.Manifest, i *v1.Index) {
				i.Manifests[0].Digest = digest.Digest(d)
				i.Manifests[0].Platform = &v1.Platform{OS: long, Architecture: long, Variant: long}
			},
		} {
			var man v1.Manifest
			if err := json.Unmarshal(m.data, &man); err != nil {
				t.Fatal(err)
			}
			index := v1.Index{Manifests: []v1.Descriptor{m.desc}}
			index.SchemaVersion = 2
			change(&man, &index)
			for _, text := range [][]byte{mustJSON(t, man), mustJSON(t, index)} {
				src := &memorySource{blobs: map[digest.Digest][]byte{
					m.desc.Digest: m.data, c.desc.Digest: c.data,
					digest.Digest(d): c.data,
				}}
				_, err := src.resolveText(text)
				good := bytes.Equal(text, m.data) || bytes.Contains(text, []byte(m.desc.Digest)) && place != "platform"
				if (err == nil) != good {
					t.Errorf("%s %.20q: found %v", place, d, err)
				}
				if err != nil && len(err.Error()) > maxErrorText {
					t.Errorf("%s %.20q: an error of %d bytes, which begins %.300s", place, d, len(err.Error()), err)
				}
			}
		}
	}
}

// FuzzDescriptors: no manifest makes the resolver panic, read much, or return an image whose
// content does not have its digest.
func FuzzDescriptors(f *testing.F) {
	m, c, _ := testImage{layers: [][]byte{layerTar(f, file("f", "1"))}}.build(f)
	index := v1.Index{Manifests: []v1.Descriptor{m.desc}}
	index.SchemaVersion = 2
	f.Add(m.data)
	f.Add(mustJSON(f, index))
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:"},"layers":[{"digest":""}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		src := &memorySource{blobs: map[digest.Digest][]byte{m.desc.Digest: m.data, c.desc.Digest: c.data}}
		res, err := src.resolveText(text)
		if src.reads > 3 {
			t.Errorf("%d documents were read", src.reads)
		}
		switch {
		case err != nil:
			if len(err.Error()) > maxErrorText {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		case res.config.Digest != c.desc.Digest:
			t.Errorf("the config %s was accepted", res.config.Digest)
		}
	})
}

// TestAmplifiedIndex: CVE-2026-53493 (containerd): of an index that names itself in effect again and
// again, one entry a level is read, and at most two levels.
func TestAmplifiedIndex(t *testing.T) {
	leaktest.Check(t)
	m, c, _ := testImage{layers: [][]byte{layerTar(t, file("f", "1"))}}.build(t)
	src := &memorySource{blobs: map[digest.Digest][]byte{m.desc.Digest: m.data, c.desc.Digest: c.data}}
	below := m.desc
	for level := range 4 {
		index := v1.Index{MediaType: v1.MediaTypeImageIndex}
		index.SchemaVersion = 2
		for n := range 5000 {
			entry := below
			entry.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
			if n%2 == 1 {
				entry.Platform.Architecture = fmt.Sprint("other", n)
			}
			index.Manifests = append(index.Manifests, entry)
		}
		text := mustJSON(t, index)
		src.reads = 0
		_, err := src.resolveText(text)
		var invalid *InvalidImageError
		if deep := level >= 2; deep != errors.As(err, &invalid) || !deep && err != nil {
			t.Errorf("%d indexes in one another: %v", level+1, err)
		}
		if most := level + 2; src.reads > min(most, 3) {
			t.Errorf("%d indexes in one another: %d documents were read", level+1, src.reads)
		}
		below = v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromBytes(text), Size: int64(len(text))}
		src.blobs[below.Digest] = text
	}
	// The platforms of thousands of entries are not all in the error.
	index := v1.Index{}
	index.SchemaVersion = 2
	for n := range 5000 {
		index.Manifests = append(index.Manifests, v1.Descriptor{
			Digest: m.desc.Digest, Platform: &v1.Platform{OS: "linux", Architecture: fmt.Sprint("other", n)},
		})
	}
	var platform *PlatformError
	if _, err := src.resolveText(mustJSON(t, index)); !errors.As(err, &platform) || len(err.Error()) > maxErrorText {
		t.Errorf("an error of %d bytes: %.300s", len(err.Error()), err)
	}
}

// TestSwappedIndex: a registry or layout that answers with another manifest than the index names is
// refused, also if it says the right digest in its header (distribution before 3.1.2), and also
// if the other manifest is a valid image.
func TestSwappedIndex(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	image := testImage{layers: [][]byte{layerTar(t, file("good", "1"))}}
	other := testImage{layers: [][]byte{layerTar(t, file("evil", "1"))}}
	m, c, ls := image.build(t)
	om, oc, ols := other.build(t)
	index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{m.desc}}
	index.SchemaVersion = 2
	top := newBlob(v1.MediaTypeImageIndex, mustJSON(t, index))

	reg := newRegistry(t)
	reg.push(t, "app", "good", image)
	reg.push(t, "app", "evil", other)
	reg.put(t, "/v2/app/manifests/top", top.desc.MediaType, top.data)
	for _, replaced := range []blob{m, top} {
		reg.mu.Lock()
		reg.spoil = func(path string, body []byte) []byte {
			if bytes.Equal(body, replaced.data) {
				return om.data // the header Docker-Content-Digest stays
			}
			return body
		}
		reg.mu.Unlock()
		for _, ref := range []string{
			reg.host + "/app:top",
			reg.host + "/app@" + top.desc.Digest.String(),
		} {
			_, err := openStore(t).Ensure(context.Background(), ref, Always)
			var mismatch *DigestMismatchError
			if !errors.As(err, &mismatch) || mismatch.Expected != replaced.desc.Digest {
				t.Errorf("%s instead of %s: %v", ref, replaced.desc.MediaType, err)
			}
		}
	}

	d := writeLayout(t, v1.Index{Manifests: []v1.Descriptor{top.desc}},
		append(append(ls, ols...), m, c, oc, top)...)
	write(t, filepath.Join(d, "blobs/sha256", m.desc.Digest.Encoded()), om.data)
	_, err := openStore(t).Ensure(context.Background(), "oci:"+d, Always)
	var mismatch *DigestMismatchError
	if !errors.As(err, &mismatch) || mismatch.Expected != m.desc.Digest {
		t.Errorf("a layout: %v", err)
	}
}

// visits records the hosts of requests.
type visits struct {
	mu    sync.Mutex
	hosts []string
}

func (v *visits) RoundTrip(req *http.Request) (*http.Response, error) {
	v.mu.Lock()
	v.hosts = append(v.hosts, req.URL.Host+req.URL.Path)
	v.mu.Unlock()
	return http.DefaultTransport.RoundTrip(req)
}

// TestRealm: GHSAs of apple/container 1.3.1: the realm of a registry's WWW-Authenticate header is
// not asked for a token if it is an address that only the node can reach, such as a cloud's
// metadata service, whose answer would then be sent to the registry.
func TestRealm(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	for realm, asked := range map[string]bool{
		"http://HOST/token":                           true, // the registry's own
		"http://169.254.169.254/latest/meta-data/iam": false,
		"http://[fe80::1]/token":                      false,
		"http://[fd00:ec2::254]/latest":               false,
		"http://10.0.0.1/token":                       false,
		"http://localhost:1/token":                    false,
		"http://127.0.0.1:1/token":                    false,
		"http://[::1]:1/token":                        false,
		"file:///etc/shadow":                          false,
		"http://HOST/redirect":                        true,
	} {
		t.Run(realm, func(t *testing.T) {
			reg := newRegistry(t)
			inner := reg.Config.Handler
			reg.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/token":
					_, _ = io.WriteString(w, `{"token":"x"}`)
				case "/redirect":
					http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusFound)
				default:
					if r.Header.Get("Authorization") == "" {
						w.Header().Set("WWW-Authenticate", `Bearer realm="`+
							strings.ReplaceAll(realm, "HOST", reg.host)+`",service="x"`)
						w.WriteHeader(http.StatusUnauthorized)
						return
					}
					inner.ServeHTTP(w, r)
				}
			})
			v := &visits{}
			_, err := openStore(t, WithTransport(v)).Ensure(context.Background(), reg.host+"/app:1", Always)
			if err == nil {
				t.Error("an image that does not exist was pulled")
			}
			var seen bool
			for _, h := range v.hosts {
				seen = seen || strings.HasSuffix(h, "/token") || strings.HasSuffix(h, "/redirect")
				if !strings.HasPrefix(h, reg.host+"/") {
					t.Errorf("it asked %s", h)
				}
			}
			if seen != asked {
				t.Errorf("it asked %v; want a realm among them: %v", v.hosts, asked)
			}
		})
	}
}

// TestRedirect: a registry does not redirect the node to an address that only the node can reach,
// nor to a name that has a link-local address, as clouds have them for their metadata services.
func TestRedirect(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	for target, words := range map[string]string{
		"http://169.254.169.254/latest": "private address 169.254.169.254",
		"http://127.0.0.1./x":           "private address 127.0.0.1.",
		"http://100.64.0.1/x":           "private address 100.64.0.1",
		"http://LOCALHOST.:1/x":         "private address LOCALHOST.:1",
		"http://a.localhost/x":          "private address a.localhost",
		"http://[::ffff:127.0.0.1]/x":   "private address [::ffff:127.0.0.1]",
		"http://[fe80::1%25lo]/x":       "private address [fe80::1%lo]",
		"http://0.0.0.0/x":              "private address 0.0.0.0",
	} {
		reg := newRegistry(t)
		inner := reg.Config.Handler
		reg.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				http.Redirect(w, r, target, http.StatusTemporaryRedirect)
				return
			}
			inner.ServeHTTP(w, r)
		})
		v := &visits{}
		_, err := openStore(t, WithTransport(v)).Ensure(context.Background(), reg.host+"/app:1", Always)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %q", target, err, words)
		}
		for _, h := range v.hosts {
			if !strings.HasPrefix(h, reg.host+"/") {
				t.Errorf("it asked %s", h)
			}
		}
	}
}

// TestLinkLocalNames: the node connects to a link-local address only if a reference has it itself.
func TestLinkLocalNames(t *testing.T) {
	leaktest.Check(t)
	servesNames(t, [4]byte{169, 254, 169, 254})
	_, err := nodeDialer()(context.Background(), "tcp", "metadata.example:80")
	if err == nil || !strings.Contains(err.Error(), "found the address 169.254.169.254") {
		t.Errorf("a name: %v", err)
	}
	// With a deadline that has passed, no packet is sent.
	past, cancel := context.WithTimeout(context.Background(), 0)
	defer cancel()
	_, err = nodeDialer()(past, "tcp", "169.254.1.1:80")
	if err == nil || strings.Contains(err.Error(), "link-local") {
		t.Errorf("an address: %v", err)
	}
	for address, refused := range map[string]bool{
		"169.254.169.254:80": true, "[fe80::1%lo]:80": true, "[::ffff:169.254.1.1]:80": true,
		"100.100.100.200:80": true, "[fd00:ec2::254]:80": true, "100.64.0.1:80": false,
		"93.184.216.34:443": false, "10.0.0.1:5000": false,
	} {
		if err := refuseNodesOwn("tcp", address, nil); (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// servesNames gives every name one address, for the time of the test.
func servesNames(t *testing.T, address [4]byte) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
					Body:   &dnsmessage.AResource{A: address},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	was := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = was
		_ = conn.Close()
		<-done
	})
}

// TestNoProgramUnpacks: CVE-2026-41567 (moby): layers are decompressed by no program, neither of the
// node's PATH nor of an image.
func TestNoProgramUnpacks(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	programs := t.TempDir()
	for _, name := range []string{"gzip", "gunzip", "unpigz", "pigz", "zstd", "unzstd", "xz", "tar", "bzip2"} {
		script := "#!/bin/sh\necho ran >> " + programs + "/ran\nexit 1\n"
		if err := os.WriteFile(filepath.Join(programs, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", programs)
	t.Chdir(programs)
	for name, image := range map[string]testImage{
		"plain": {mediaType: v1.MediaTypeImageLayer, pack: func(b []byte) []byte { return b }},
		"gzip":  {mediaType: v1.MediaTypeImageLayerGzip, pack: gz},
		"zstd":  {mediaType: v1.MediaTypeImageLayerZstd, pack: zst},
	} {
		image.layers = [][]byte{layerTar(t, file("f", name))}
		ensure(t, openStore(t), newRegistry(t).push(t, "app", name, image), Always)
		m, c, ls := image.build(t)
		d := writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}}, append(ls, m, c)...)
		for _, pack := range []func([]byte) []byte{func(b []byte) []byte { return b }, gz, zst} {
			write(t, filepath.Join(programs, "a.tar"), pack(tarDirectory(t, d)))
			ensure(t, openStore(t), "oci-archive:"+programs+"/a.tar", Always)
		}
	}
	if data, err := os.ReadFile(filepath.Join(programs, "ran")); err == nil {
		t.Errorf("a program was executed: %s", data)
	}
}

// TestBrokenLayersLeaveNothingOpen: CVE-2026-114236 (containers/storage): layers that are cut off,
// spoiled or hostile leave no descriptor, goroutine or file behind.
func TestBrokenLayersLeaveNothingOpen(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	layer := layerTar(t, dir("a"), file("a/b", strings.Repeat("x", 100<<10)), symlink("l", "a"),
		hard("h", "a/b"), file("../x", "y"))
	var broken [][]byte
	for _, pack := range []func([]byte) []byte{func(b []byte) []byte { return b }, gz, zst} {
		whole := pack(layer)
		for n := range 40 {
			cut := bytes.Clone(whole[:len(whole)*n/40])
			spoiled := bytes.Clone(whole)
			spoiled[len(whole)*n/40] ^= 0x41
			broken = append(broken, cut, spoiled)
		}
	}
	before := openFds(t)
	for n, data := range broken {
		b := newBox(t)
		in := layerInput{
			diffID: digest.FromString("none of these"), blob: digest.FromBytes(data),
			r: bytes.NewReader(data),
		}
		_, err := unpackLayer(context.Background(), in, b.diff, b.trash, nil, trustedFormat(), DefaultLimits())
		if err == nil {
			t.Errorf("layer %d was accepted", n)
		}
		b.untouched(t)
		if after := openFds(t); after > before {
			t.Fatalf("after layer %d (%v): %d descriptors open; before: %d", n, err, after, before)
		}
	}
}
