// SPDX-License-Identifier: Apache-2.0

// Package hostsdir reads the configuration of registries in containerd's form: DIR/HOST/hosts.toml,
// where HOST is a registry, with _PORT_ or :PORT if it has a port, or _default for all others.
//
//	hosts, err := hostsdir.Dir("/etc/containerd/certs.d").Hosts("docker.io")
//
// A file that is there is honoured whole or refused: an unknown key is an error.
package hostsdir

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Host is a server from which images of a registry are pulled.
type Host struct {
	// URL of its API, such as https://mirror.example.com/v2; empty for the registry itself.
	URL url.URL
	// Pull says that it has manifests by digest and blobs, and Resolve that it knows tags.
	Pull, Resolve bool
	// TLS is nil for the settings of the node.
	TLS *tls.Config
	// Header is sent with each request to the host.
	Header http.Header
}

// Dir is a directory of configuration; "" for none.
type Dir string

// section has the keys of a host and, at the top of a file, of the server.
type section struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
}

// Hosts returns the hosts of a registry in the order in which they are to be tried, the last of
// which is its server; nil if there is no configuration for it. The files are read at each call.
func (d Dir) Hosts(registry string) ([]Host, error) {
	if d == "" || strings.ContainsAny(registry, "/\\") || strings.HasPrefix(registry, ".") {
		return nil, nil
	}
	names := []string{registry, "_default"}
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		names = append([]string{
			strings.ReplaceAll(registry[:i], ":", "") + "_" + registry[i+1:] + "_",
		}, names...)
	}
	for _, name := range names {
		dir := filepath.Join(string(d), name)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		file := filepath.Join(dir, "hosts.toml")
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		hosts, err := parse(text, dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return hosts, nil
	}
	return nil, nil
}

func parse(text []byte, dir string) ([]Host, error) {
	var file struct {
		section
		Server string             `toml:"server"`
		Host   map[string]section `toml:"host"`
	}
	d := toml.NewDecoder(strings.NewReader(string(text))).DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, describe(err)
	}
	order := hostOrder(text)
	var hosts []Host
	for name := range file.Host {
		if !slices.Contains(order, name) {
			return nil, fmt.Errorf("host.%q: found no table; allowed: [host.%q]", name, name)
		}
	}
	for _, name := range order {
		host, err := file.Host[name].host(name, dir)
		if err != nil {
			return nil, fmt.Errorf("host.%q: %w", name, err)
		}
		hosts = append(hosts, host)
	}
	server, err := file.host(file.Server, dir)
	if err != nil {
		return nil, err
	}
	return append(hosts, server), nil
}

// describe returns an error of the TOML library with its line and key, and without the text, which
// may have secrets in headers.
func describe(err error) error {
	var (
		unknown *toml.StrictMissingError
		bad     *toml.DecodeError
	)
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		line, _ := unknown.Errors[0].Position()
		return fmt.Errorf("line %d: found the key %s; allowed: server, host, capabilities, ca, client, skip_verify, header, override_path", //nolint:lll // one message
			line, strings.Join(unknown.Errors[0].Key(), "."))
	}
	if errors.As(err, &bad) {
		line, _ := bad.Position()
		if key := strings.Join(bad.Key(), "."); key != "" {
			return fmt.Errorf("line %d: %s: %w", line, key, err)
		}
		return fmt.Errorf("line %d: %w", line, err)
	}
	return err
}

// hostOrder returns the names of the tables of hosts in the order of the text.
func hostOrder(text []byte) []string {
	var (
		p     unstable.Parser
		names []string
	)
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		key := e.Key()
		if !key.Next() || string(key.Node().Data) != "host" || !key.Next() {
			continue
		}
		if name := string(key.Node().Data); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (s section) host(server, dir string) (Host, error) {
	h := Host{Pull: len(s.Capabilities) == 0, Resolve: len(s.Capabilities) == 0}
	for _, c := range s.Capabilities {
		switch c {
		case "pull":
			h.Pull = true
		case "resolve":
			h.Resolve = true
		case "push": // nothing is pushed
		default:
			return Host{}, fmt.Errorf("capabilities: found %q; allowed: pull, resolve, push", c)
		}
	}
	if server != "" {
		if !strings.Contains(server, "://") {
			server = "https://" + server
		}
		u, err := url.Parse(server)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil ||
			u.RawQuery != "" {
			return Host{}, errors.New("found another URL; allowed: https://HOST[:PORT][/PATH], or http")
		}
		h.URL = url.URL{Scheme: u.Scheme, Host: u.Host, Path: path.Clean("/" + u.Path)}
		if !s.OverridePath && !strings.HasSuffix(h.URL.Path, "/v2") {
			h.URL.Path = path.Join(h.URL.Path, "v2")
		}
	}
	var err error
	if h.Header, err = s.header(); err != nil {
		return Host{}, err
	}
	h.TLS, err = s.tls(dir)
	return h, err
}

func (s section) header() (http.Header, error) {
	out := http.Header{}
	for key, v := range s.Header {
		values, ok := texts(v)
		if !ok {
			return nil, fmt.Errorf("header.%s: found another type; allowed: a string or a list of them", key)
		}
		for _, value := range values {
			out.Add(key, value)
		}
	}
	return out, nil
}

// tls returns the settings of the section; nil if it has none.
func (s section) tls(dir string) (*tls.Config, error) {
	if s.CA == nil && s.Client == nil && !s.SkipVerify {
		return nil, nil
	}
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: s.SkipVerify, //nolint:gosec // the administrator's word
	}
	if s.CA != nil {
		files, ok := texts(s.CA)
		if !ok {
			return nil, errors.New("ca: found another type; allowed: a file or a list of them")
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			text, err := os.ReadFile(absolute(dir, f))
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			if !pool.AppendCertsFromPEM(text) {
				return nil, fmt.Errorf("ca: %s: found no certificate; allowed: PEM", absolute(dir, f))
			}
		}
		c.RootCAs = pool
	}
	pairs, ok := pairsOf(s.Client)
	if !ok {
		return nil, errors.New("client: found another type; allowed: a file, a list of files, or a list of [CERTIFICATE, KEY]")
	}
	for _, pair := range pairs {
		certificate, err := tls.LoadX509KeyPair(absolute(dir, pair[0]), absolute(dir, pair[1]))
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		c.Certificates = append(c.Certificates, certificate)
	}
	return c, nil
}

func absolute(dir, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

// texts returns a string, or a list of them.
func texts(v any) ([]string, bool) {
	if text, ok := v.(string); ok {
		return []string{text}, true
	}
	list, ok := v.([]any)
	out := make([]string, len(list))
	for i, item := range list {
		if out[i], ok = item.(string); !ok {
			return nil, false
		}
	}
	return out, ok
}

// pairsOf returns the files of certificates and of their keys, which may be the same.
func pairsOf(v any) (pairs [][2]string, ok bool) {
	if v == nil {
		return nil, true
	}
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	for _, item := range list {
		names, ok := texts(item)
		if ok && len(names) == 1 {
			names = append(names, names[0])
		}
		if !ok || len(names) != 2 {
			return nil, false
		}
		pairs = append(pairs, [2]string{names[0], names[1]})
	}
	return pairs, true
}
