// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/registrytest"
	"github.com/berth-run/berth/node-agent/image/dockerconfig"
	"github.com/berth-run/berth/node-agent/image/hostsdir"
)

// hostsBench has a store that pulls images of registry.invalid, a registry that cannot be reached,
// as hosts.toml says.
type hostsBench struct {
	*Store
	t         *testing.T
	transport *http.Transport
	file      string // hosts.toml
	config    string // of credentials
}

const unreachable = "registry.invalid:5000"

func newHostsBench(t *testing.T) *hostsBench {
	t.Helper()
	dir := t.TempDir()
	b := &hostsBench{
		t: t, transport: &http.Transport{}, file: filepath.Join(dir, unreachable, "hosts.toml"),
		config: filepath.Join(dir, "config.json"),
	}
	if err := os.Mkdir(filepath.Dir(b.file), 0o700); err != nil {
		t.Fatal(err)
	}
	b.Store = openStore(t, WithTransport(b.transport), WithHosts(hostsdir.Dir(dir)),
		WithKeyring(dockerconfig.Files{Paths: []string{b.config}, Optional: true}))
	t.Cleanup(b.transport.CloseIdleConnections)
	return b
}

// pull pulls an image as the text of hosts.toml says.
func (b *hostsBench) pull(ref, text string) (*Image, error) {
	b.t.Helper()
	write(b.t, b.file, []byte(text))
	return b.Ensure(context.Background(), ref, Always)
}

// has fails the test unless the image of a reference, pulled so, has a digest.
func (b *hostsBench) has(what, ref, text, digest string) {
	b.t.Helper()
	img, err := b.pull(ref, text)
	if err != nil {
		b.t.Errorf("%s: %v", what, err)
	} else if img.Digest.String() != digest {
		b.t.Errorf("%s: found the digest %s; want %s", what, img.Digest, digest)
	}
}

// fails fails the test unless the pull fails with all words.
func (b *hostsBench) fails(what, ref, text string, words ...string) {
	b.t.Helper()
	_, err := b.pull(ref, text)
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			b.t.Errorf("%s: %v; want %q", what, err, w)
		}
	}
}

// TestServer pulls from a server with a certificate of an authority that the node does not know.
func TestServer(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := registrytest.Start(t, registrytest.Options{TLS: true})
	plain := registrytest.Start(t, registrytest.Options{})
	img := smallImage(t, "x")
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	reg.Push(t, "app:1", img)
	plain.Push(t, "app:1", img)
	b := newHostsBench(t)
	const ref = unreachable + "/app:1"
	server := `server = "https://` + reg.Host + "\"\n"
	b.fails("an unknown authority", ref, server, "image "+ref, reg.Host, "certificate")
	b.has("ca", ref, server+`ca = "`+reg.CA+`"`, digest.String())
	b.has("skip_verify", ref, server+"skip_verify = true", digest.String())
	b.has("HTTP", ref, `server = "http://`+plain.Host+`"`, digest.String())
	b.fails("HTTP where HTTPS is configured", ref, `server = "https://`+plain.Host+`"`,
		"found http; allowed: https")
	b.fails("a bad file", ref, "dial = 1", b.file+": line 1: found the key dial;")
	if _, err := b.Ensure(context.Background(), ref, IfNotPresent); err != nil {
		t.Errorf("an image that is on the node, with a bad file: %v", err)
	}
}

// TestMirrors: the mirrors are asked first and in their order, and the server if none of them has
// the image or can be reached.
func TestMirrors(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	mirror := registrytest.Start(t, registrytest.Options{TLS: true, Private: true})
	server := registrytest.Start(t, registrytest.Options{})
	old, current := smallImage(t, "old"), smallImage(t, "current")
	oldDigest, err := old.Digest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := current.Digest()
	if err != nil {
		t.Fatal(err)
	}
	mirror.Push(t, "app:1", old)
	mirror.Push(t, "app:copy", current)
	server.Push(t, "app:1", current)
	server.Push(t, "server:1", current)
	b := newHostsBench(t)
	const ref = unreachable + "/app:1"
	text := func(capabilities string) string {
		return `server = "http://` + server.Host + `"
[host."https://` + mirror.Host + `"]
capabilities = [` + capabilities + `]
ca = "` + mirror.CA + `"
`
	}
	both := text(`"pull", "resolve"`)
	b.has("a mirror that refuses", ref, both, digest.String())
	// Credentials of the registry are not the mirror's.
	write(t, b.config, registrytest.Config(registrytest.Password, unreachable))
	b.has("credentials of the registry", ref, both, digest.String())
	write(t, b.config, registrytest.Config(registrytest.Password, mirror.Host))
	b.has("a mirror", ref, both, oldDigest.String())
	b.has("a mirror without the image", unreachable+"/server:1", both, digest.String())
	b.has("a mirror without tags", ref, text(`"pull"`), digest.String())

	server.Stop()
	b.has("a mirror alone", ref, both, oldDigest.String())
	b.fails("a mirror without tags, and no server", ref, text(`"pull"`), server.Host)
	mirror.Stop()
	b.fails("nobody", ref, both, "image "+ref, server.Host, "from the mirror https://"+mirror.Host)
}

// TestOwnCredentialsResolve: where a mirror shows a digest to everybody, an image belongs to those
// with credentials for the host that gave the digest of its tag.
func TestOwnCredentialsResolve(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	mirror := registrytest.Start(t, registrytest.Options{})
	server := registrytest.Start(t, registrytest.Options{Private: true})
	img := smallImage(t, "x")
	mirror.Push(t, "app:1", img)
	server.Push(t, "app:1", img)
	b := newHostsBench(t)
	write(t, b.file, []byte(`server = "http://`+server.Host+`"
[host."http://`+mirror.Host+`"]
capabilities = ["pull"]
`))
	get := func(own ...*dockerconfig.Config) error {
		_, err := b.EnsureWith(context.Background(), unreachable+"/app:1", IfNotPresent, own...)
		return err
	}
	own, err := dockerconfig.Parse(registrytest.Config(registrytest.Password, server.Host), "S")
	if err != nil {
		t.Fatal(err)
	}
	if err := get(own); err != nil {
		t.Fatal(err)
	}
	var access *AccessError
	if err := get(); !errors.As(err, &access) {
		t.Errorf("%v; want an AccessError", err)
	}
	mirror.Stop()
	server.Stop()
	if err := get(own); err != nil {
		t.Errorf("the same credentials, without a registry: %v", err)
	}
}

// TestMirrorDown: a mirror that cannot be reached does not matter.
func TestMirrorDown(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	mirror := registrytest.Start(t, registrytest.Options{})
	server := registrytest.Start(t, registrytest.Options{})
	img := smallImage(t, "x")
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	server.Push(t, "app:1", img)
	mirror.Stop()
	newHostsBench(t).has("a mirror that is down", unreachable+"/app:1", `
server = "http://`+server.Host+`"
[host."http://`+mirror.Host+`"]
`, digest.String())
}

// TestMirrorBelowPath: a mirror may have its API below a path, gets its headers and is told of the
// registry that it mirrors.
func TestMirrorBelowPath(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := newRegistry(t)
	reg.push(t, "app", "1", testImage{layers: [][]byte{layerTar(t, file("f", "x"))}})
	inner := reg.Config.Handler
	var mu sync.Mutex
	var wrong []string
	reg.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, below := strings.CutPrefix(r.URL.Path, "/proxy/cache/")
		if !below || r.Header.Get("X-Mirror") != "yes" || r.URL.Query().Get("ns") != unreachable {
			mu.Lock()
			wrong = append(wrong, r.Method+" "+r.URL.String())
			mu.Unlock()
			w.WriteHeader(http.StatusNotFound)
			return
		}
		r.URL.Path = "/v2/" + path
		inner.ServeHTTP(w, r)
	})
	b := newHostsBench(t)
	if _, err := b.pull(unreachable+"/app:1", `
[host."http://`+reg.host+`/proxy/cache"]
override_path = true
[host."http://`+reg.host+`/proxy/cache".header]
X-Mirror = "yes"
`); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(wrong) > 0 {
		t.Errorf("found other requests: %v", wrong)
	}
}

// TestClientCertificate pulls from a server that asks for a certificate.
func TestClientCertificate(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	pair := registrytest.Start(t, registrytest.Options{TLS: true}).CA
	reg := newRegistry(t)
	reg.push(t, "app", "1", testImage{layers: [][]byte{layerTar(t, file("f", "x"))}})
	server := httptest.NewUnstartedServer(reg.Config.Handler)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = discardLogger()
	server.StartTLS()
	t.Cleanup(server.Close)
	b := newHostsBench(t)
	text := `server = "` + server.URL + "\"\nskip_verify = true\n"
	b.fails("no certificate", unreachable+"/app:1", text, "certificate required")
	key := filepath.Join(filepath.Dir(pair), "key.pem")
	if _, err := b.pull(unreachable+"/app:1", text+`client = [["`+pair+`", "`+key+`"]]`); err != nil {
		t.Error(err)
	}
}
