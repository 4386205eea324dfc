// SPDX-License-Identifier: Apache-2.0

// Package registrytest runs a real registry for tests: distribution's, from Debian's package
// docker-registry, on loopback.
//
//	reg := registrytest.Start(t, registrytest.Options{TLS: true, Private: true})
//	reference := reg.Push(t, "team/app:1", img)
package registrytest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// User and Password are the only ones with access to a private registry.
const (
	User     = "user"
	Password = "correct horse"
)

// passwords is the line of User in the format of htpasswd, with bcrypt.
const passwords = User + ":$2y$04$.74sKpukXrLZ9bFalStD8eviu3AVwH7NWpYYeY.gl3Ttims71dbdm\n"

// Options are the settings of a registry.
type Options struct {
	// TLS has it serve HTTPS with a certificate of an authority of its own.
	TLS bool
	// Private has it ask for the name and password.
	Private bool
}

// Registry is a registry that runs until the end of the test.
type Registry struct {
	// Host is its address and port.
	Host string
	// CA is the file of its authority; "" without TLS.
	CA      string
	options Options
	dir     string
	program *exec.Cmd
	drained chan struct{} // its output has ended
	stop    sync.Once
}

// Start starts an empty registry.
func Start(t testing.TB, o Options) *Registry {
	t.Helper()
	program := needs.Program(t, "docker-registry")
	r := &Registry{options: o, dir: t.TempDir()}
	config := "version: 0.1\nstorage: {filesystem: {rootdirectory: " + r.path("data") +
		"}}\nhttp:\n  addr: 127.0.0.1:0\n"
	if o.TLS {
		r.CA = r.path("ca.pem")
		r.createCertificate(t)
		config += "  tls: {certificate: " + r.CA + ", key: " + r.path("key.pem") + "}\n"
	}
	if o.Private {
		r.write(t, "htpasswd", []byte(passwords))
		config += "auth: {htpasswd: {realm: test, path: " + r.path("htpasswd") + "}}\n"
	}
	r.write(t, "config.yaml", []byte(config))
	r.program = exec.Command(program, "serve", r.path("config.yaml"))
	r.program.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	log, err := r.program.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.program.Stdout = r.program.Stderr
	if err := r.program.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan string, 1)
	r.drained = make(chan struct{})
	go func() {
		defer close(r.drained)
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			if m := address.FindStringSubmatch(lines.Text()); m != nil {
				listening <- m[1]
			}
		}
	}()
	t.Cleanup(r.Stop)
	select {
	case r.Host = <-listening:
	case <-r.drained:
		t.Fatal("the registry ended")
	case <-time.After(2 * time.Minute):
		t.Fatal("the registry does not listen")
	}
	return r
}

var address = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// Stop ends the registry, and returns once it has ended.
func (r *Registry) Stop() {
	r.stop.Do(func() {
		_ = r.program.Process.Kill()
		<-r.drained
		_ = r.program.Wait()
	})
}

// Push publishes an image as REPOSITORY:TAG and returns its reference.
func (r *Registry) Push(t testing.TB, repository string, img v1.Image) string {
	t.Helper()
	reference, err := name.ParseReference(r.Host + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	auth := authn.Anonymous
	if r.options.Private {
		auth = &authn.Basic{Username: User, Password: Password}
	}
	transport := r.Transport(t)
	defer transport.CloseIdleConnections()
	if err := remote.Write(reference, img, remote.WithAuth(auth),
		remote.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
	return reference.Name()
}

// ReadArchive returns the only image of an OCI archive.
func ReadArchive(t testing.TB, archive string) v1.Image {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Transport returns a transport that trusts the registry.
func (r *Registry) Transport(t testing.TB) *http.Transport {
	t.Helper()
	transport := &http.Transport{}
	if r.CA != "" {
		text, err := os.ReadFile(r.CA)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(text)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return transport
}

// Config returns the text of a config.json that has the password for keys of auths.
func Config(password string, keys ...string) []byte {
	auth := base64.StdEncoding.EncodeToString([]byte(User + ":" + password))
	entries := make([]string, len(keys))
	for i, key := range keys {
		entries[i] = fmt.Sprintf(`%q: {"auth": %q}`, key, auth)
	}
	return []byte(`{"auths": {` + strings.Join(entries, ", ") + `}}`)
}

func (r *Registry) path(file string) string { return filepath.Join(r.dir, file) }

func (r *Registry) write(t testing.TB, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(r.path(file), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// createCertificate writes a certificate for loopback that is its own authority.
func (r *Registry) createCertificate(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "registrytest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r.write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	r.write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
}
