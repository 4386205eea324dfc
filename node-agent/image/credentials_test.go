// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	ggcrv1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/registrytest"
	"github.com/berth-run/berth/node-agent/image/dockerconfig"
)

// smallImage returns an image of one file.
func smallImage(t testing.TB, body string) ggcrv1.Image {
	t.Helper()
	text := layerTar(t, file("file", body))
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(text))), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &ggcrv1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH,
	})
	if err == nil {
		img, err = mutate.AppendLayers(img, layer)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestCredentials pulls from a registry that asks for a password, over TLS.
func TestCredentials(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := registrytest.Start(t, registrytest.Options{TLS: true, Private: true})
	ref := reg.Push(t, "team/app:1", smallImage(t, "x"))
	config := filepath.Join(t.TempDir(), "config.json")
	other := filepath.Join(t.TempDir(), "config.json")
	transport := reg.Transport(t)
	s := openStore(t, WithTransport(transport),
		WithKeyring(dockerconfig.Files{Paths: []string{config, other}, Optional: true}))
	t.Cleanup(transport.CloseIdleConnections)
	pull := func(ref string) error {
		_, err := s.Ensure(context.Background(), ref, Always)
		return err
	}
	refused := func(err error, words ...string) {
		t.Helper()
		var access *AccessError
		if !errors.As(err, &access) {
			t.Errorf("%v; want an AccessError", err)
			return
		}
		for _, w := range append(words, "image "+ref+": the registry refuses") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v; want %q", err, w)
			}
		}
		if strings.Contains(err.Error(), "wrong") {
			t.Errorf("the password is in %v", err)
		}
	}

	// There is no file, and then one for another repository: the error says what to do.
	advice := "there are no credentials for it in " + config + ", " + other +
		": for a private image run podman login --authfile " + config + " " + reg.Host
	refused(pull(ref), advice)
	write(t, config, registrytest.Config(registrytest.Password, reg.Host+"/other", "docker.io"))
	refused(pull(ref), advice)

	write(t, config, registrytest.Config("wrong", reg.Host))
	refused(pull(ref), fmt.Sprintf("the credentials auths[%q] of %s, or", reg.Host, config))

	// The file is read again, and the credentials of the longest path come first.
	write(t, config, registrytest.Config(registrytest.Password, reg.Host))
	if err := pull(ref); err != nil {
		t.Error(err)
	}
	write(t, other, registrytest.Config("wrong", reg.Host+"/team/app", reg.Host))
	if err := pull(ref); err != nil {
		t.Error(err)
	}
	write(t, config, registrytest.Config("wrong", reg.Host+"/team/app", reg.Host))
	refused(pull(ref), fmt.Sprintf("auths[%q] of %s", reg.Host+"/team/app", config),
		fmt.Sprintf("auths[%q] of %s", reg.Host, config), " of "+other)
	write(t, other, registrytest.Config(registrytest.Password, reg.Host))
	if err := pull(ref); err != nil {
		t.Errorf("the last of three credentials: %v", err)
	}

	var missing *NotFoundError
	write(t, config, registrytest.Config(registrytest.Password, reg.Host))
	if err := pull(reg.Host + "/team/absent:1"); !errors.As(err, &missing) {
		t.Errorf("%v; want a NotFoundError", err)
	}
	write(t, config, []byte("wrong"))
	if err := pull(ref); err == nil || !strings.Contains(err.Error(), config+": line 1") {
		t.Errorf("%v; want the name of the file", err)
	}
}

// TestOwnCredentials: an image that was pulled with credentials of somebody's own is given to
// another only if the registry shows it to them, also if it is on the node.
func TestOwnCredentials(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := registrytest.Start(t, registrytest.Options{Private: true})
	ref := reg.Push(t, "team/app:1", smallImage(t, "x"))
	node := filepath.Join(t.TempDir(), "config.json")
	transport := reg.Transport(t)
	t.Cleanup(transport.CloseIdleConnections)
	s := openStore(t, WithTransport(transport),
		WithKeyring(dockerconfig.Files{Paths: []string{node}, Optional: true}))
	secret := func(password string) *dockerconfig.Config {
		c, err := dockerconfig.Parse(registrytest.Config(password, reg.Host), "Secret default/s")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	right, wrong := secret(registrytest.Password), secret("wrong")
	get := func(policy PullPolicy, own ...*dockerconfig.Config) error {
		_, err := s.EnsureWith(context.Background(), ref, policy, own...)
		return err
	}
	refused := func(what string, err error) {
		t.Helper()
		var access *AccessError
		if !errors.As(err, &access) {
			t.Errorf("%s: %v; want an AccessError", what, err)
		}
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("before it is here", get(IfNotPresent))
	must("the first pull", get(IfNotPresent, wrong, right))
	refused("no credentials", get(IfNotPresent))
	refused("wrong credentials", get(IfNotPresent, wrong))
	if err := get(Never, wrong); !errors.Is(err, ErrNotYours) {
		t.Errorf("wrong credentials and Never: %v", err)
	}
	must("Never", get(Never, wrong, right))

	// A fault of the node's file matters only to those who need it.
	write(t, node, []byte(`{"credHelpers": {"`+reg.Host+`": "x"}}`))
	must("a program on the node", get(Always, right))
	err := get(Always, wrong)
	refused("a program on the node, and wrong credentials", err)
	if text := fmt.Sprint(err); !strings.Contains(text, "of Secret default/s, or") ||
		!strings.Contains(text, "(the node's credentials: ") ||
		!strings.Contains(text, "docker-credential-x") {
		t.Errorf("%v; want both faults", err)
	}

	// The registry shows it to the node, and so to everybody, also when it runs no more.
	write(t, node, registrytest.Config(registrytest.Password, reg.Host))
	must("the node's credentials", get(IfNotPresent, wrong))
	reg.Stop()
	must("without a registry", get(IfNotPresent))
	must("without a registry, with credentials", get(IfNotPresent, right))
}

// TestOwnCredentialsWithoutRegistry: who has pulled an image needs no registry to get it again.
func TestOwnCredentialsWithoutRegistry(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	reg := registrytest.Start(t, registrytest.Options{Private: true})
	ref := reg.Push(t, "team/app:1", smallImage(t, "x"))
	transport := reg.Transport(t)
	t.Cleanup(transport.CloseIdleConnections)
	s := openStore(t, WithTransport(transport))
	own, err := dockerconfig.Parse(registrytest.Config(registrytest.Password, reg.Host), "S")
	if err != nil {
		t.Fatal(err)
	}
	get := func(own ...*dockerconfig.Config) error {
		_, err := s.EnsureWith(context.Background(), ref, IfNotPresent, own...)
		return err
	}
	if err := get(own); err != nil {
		t.Fatal(err)
	}
	reg.Stop()
	if err := get(own); err != nil {
		t.Error(err)
	}
	if err := get(); err == nil {
		t.Error("an image of another's credentials was given without asking the registry")
	}
}

// keyring has the same credentials for each repository.
type keyring []dockerconfig.Credential

func (k keyring) Lookup(string) ([]dockerconfig.Credential, error) { return k, nil }
func (k keyring) Advice(string) string                             { return "a test" }

// internet serves made-up hosts over HTTPS and HTTP, and notes the secrets that each receives.
type internet struct {
	hosts     map[string]http.HandlerFunc
	mu        sync.Mutex
	got       map[string]string // host -> secrets that it received
	https     *httptest.Server
	http      *httptest.Server
	transport *http.Transport
}

func newInternet(t *testing.T, hosts map[string]http.HandlerFunc) *internet {
	i := &internet{hosts: hosts, got: map[string]string{}}
	i.https, i.http = httptest.NewTLSServer(i), httptest.NewServer(i)
	i.transport = &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // made-up hosts
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := i.http
			if strings.HasSuffix(address, ":443") {
				to = i.https
			}
			return (&net.Dialer{}).DialContext(ctx, network, to.Listener.Addr().String())
		},
	}
	t.Cleanup(func() {
		i.transport.CloseIdleConnections()
		i.https.Close()
		i.http.Close()
	})
	return i
}

func (i *internet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	i.mu.Lock()
	if a := r.Header.Get("Authorization"); a != "" && !strings.HasSuffix(i.got[r.Host], a) {
		i.got[r.Host] += a
	}
	if strings.Contains(string(body), "refresh_token=") {
		i.got[r.Host] += "refresh token"
	}
	i.mu.Unlock()
	if serve := i.hosts[r.Host]; serve != nil {
		serve(w, r)
		return
	}
	w.WriteHeader(http.StatusTeapot)
}

// realm answers for a registry with images of inner that sends clients to a realm for a token.
func realm(at string, inner http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer T" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+at+`",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	}
}

// TestCredentialsStay: a registry cannot have its credentials sent elsewhere than to the realm that
// it names itself, and neither realm nor registry can have them sent on.
func TestCredentialsStay(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	const basic = "Basic dXNlcjpwYXNzd29yZA==" // user:password
	password := authn.AuthConfig{Username: "user", Password: "password"}
	identity := authn.AuthConfig{IdentityToken: "identity"}
	token := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"T"}`) }
	notFound := http.NotFoundHandler()
	for name, c := range map[string]struct {
		auth  authn.AuthConfig
		hosts map[string]http.HandlerFunc
		got   map[string]string
		words string
	}{
		"the token flow": {
			password,
			map[string]http.HandlerFunc{
				"r.example":    realm("https://auth.example/t", redirect("https://evil.example/x")),
				"auth.example": token,
			},
			map[string]string{"auth.example": basic, "r.example": "Bearer T"},
			"418",
		},
		"the token flow of an identity token": {
			identity,
			map[string]http.HandlerFunc{
				"r.example": realm("https://auth.example/t", notFound), "auth.example": token,
			},
			map[string]string{"auth.example": "refresh token", "r.example": "Bearer T"},
			"not found",
		},
		"a realm that redirects": {
			password,
			map[string]http.HandlerFunc{
				"r.example":    realm("https://auth.example/t", notFound),
				"auth.example": redirect("https://evil.example/t"), "evil.example": token,
			},
			map[string]string{"auth.example": basic, "r.example": "Bearer T"},
			"not found",
		},
		"a realm that redirects an identity token": {
			identity,
			map[string]http.HandlerFunc{
				"r.example":    realm("https://auth.example/t", notFound),
				"auth.example": redirect("https://evil.example/t"), "evil.example": token,
			},
			map[string]string{"auth.example": "refresh token"},
			"redirect of a token to evil.example",
		},
		"a private realm": {
			password,
			map[string]http.HandlerFunc{"r.example": realm("https://10.0.0.1/t", notFound)},
			map[string]string{},
			"private",
		},
		"a realm without TLS": {
			password,
			map[string]http.HandlerFunc{
				"r.example": realm("http://auth.example/t", notFound), "auth.example": token,
			},
			map[string]string{},
			"not allowed for a secure registry",
		},
		"a registry that redirects": {
			password,
			map[string]http.HandlerFunc{
				"r.example": func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Authorization") == "" {
						w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
						w.WriteHeader(http.StatusUnauthorized)
						return
					}
					redirect("https://evil.example/x")(w, r)
				},
				"evil.example": func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
					w.WriteHeader(http.StatusUnauthorized)
				},
			},
			map[string]string{"r.example": basic},
			"refuses the credentials SOURCE",
		},
		"a registry without TLS": {
			password,
			map[string]http.HandlerFunc{"10.0.0.9:5000": func(w http.ResponseWriter,
				_ *http.Request,
			) {
				w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
				w.WriteHeader(http.StatusUnauthorized)
			}},
			map[string]string{},
			"found plain HTTP at 10.0.0.9:5000",
		},
		"a registry that repeats them": {
			password,
			map[string]http.HandlerFunc{"r.example": func(w http.ResponseWriter,
				r *http.Request,
			) {
				if r.URL.Path == "/v2/" {
					return
				}
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, r.Header.Get("Authorization")+" password")
			}},
			map[string]string{"r.example": basic},
			"403",
		},
	} {
		t.Run(name, func(t *testing.T) {
			i := newInternet(t, c.hosts)
			host := "r.example"
			if c.hosts[host] == nil {
				host = "10.0.0.9:5000"
			}
			s := openStore(t, WithTransport(i.transport),
				WithKeyring(keyring{{AuthConfig: c.auth, Source: "SOURCE"}}))
			_, err := s.Ensure(context.Background(), host+"/app:1", Always)
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v; want %q", err, c.words)
			}
			if err != nil && (strings.Contains(err.Error(), "password") ||
				strings.Contains(err.Error(), strings.TrimPrefix(basic, "Basic "))) {
				t.Errorf("the secret is in %v", err)
			}
			i.mu.Lock()
			defer i.mu.Unlock()
			if fmt.Sprint(i.got) != fmt.Sprint(c.got) {
				t.Errorf("found secrets at %v; want %v", i.got, c.got)
			}
		})
	}
}
