// SPDX-License-Identifier: Apache-2.0

// Package dockerconfig finds the credentials for an image in files of the format of docker's
// config.json, which podman calls auth.json and Kubernetes kubernetes.io/dockerconfigjson.
//
//	files := dockerconfig.Files{Paths: []string{"/run/containers/0/auth.json"}}
//	credentials, err := files.Lookup("registry.example.com/team/app")
//
// A key of auths is a registry, or a registry with the beginning of a repository's path, as for the
// kubelet and podman. Programs that keep credentials (credsStore, credHelpers) are not executed: an
// image whose credentials they keep is refused.
//
// No error or Source holds a secret.
package dockerconfig

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Credential is one entry of auths.
type Credential struct {
	authn.AuthConfig
	// Source is the place of the entry, such as
	// `auths["registry.example.com"] of /run/containers/0/auth.json`.
	Source string
}

// Secrets returns every text that must not be shown.
func (c *Credential) Secrets() []string {
	all := []string{c.Password, c.Auth, c.IdentityToken, c.RegistryToken}
	if c.Password != "" {
		// as HTTP has it
		all = append(all, base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password)))
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

// Config is a parsed file.
type Config struct {
	source  string
	entries []entry
	// store is credsStore, and helpers are credHelpers by registry.
	store   string
	helpers map[string]string
}

// entry is one item of auths.
type entry struct {
	key        string // as written
	host, path string
	credential Credential
}

// Parse reads the text of a file. source is its name in errors and in Credential.Source.
func Parse(text []byte, source string) (*Config, error) {
	var file struct {
		Auths       map[string]json.RawMessage `json:"auths"`
		CredsStore  string                     `json:"credsStore"`
		CredHelpers map[string]string          `json:"credHelpers"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", source, withoutText(text, err))
	}
	return parse(file.Auths, file.CredsStore, file.CredHelpers, source, "auths")
}

// ParseLegacy reads the text of a file ~/.dockercfg, which is the value of auths of a newer one, as
// of Secrets of the type kubernetes.io/dockercfg.
func ParseLegacy(text []byte, source string) (*Config, error) {
	var auths map[string]json.RawMessage
	if err := json.Unmarshal(text, &auths); err != nil {
		return nil, fmt.Errorf("%s: %w", source, withoutText(text, err))
	}
	return parse(auths, "", nil, source, "")
}

func parse(auths map[string]json.RawMessage, store string, helpers map[string]string,
	source, field string,
) (*Config, error) {
	c := &Config{source: source, store: store, helpers: map[string]string{}}
	for key, helper := range helpers {
		host, _ := splitKey(key)
		c.helpers[host] = helper
	}
	// Of several faults the same one is reported each time.
	for _, key := range slices.Sorted(maps.Keys(auths)) {
		e := entry{key: key}
		e.credential.Source = fmt.Sprintf("%s[%q] of %s", field, key, source)
		if e.host, e.path = splitKey(key); e.host == "" {
			return nil, fmt.Errorf("%s[%q]: found no registry; allowed: REGISTRY or REGISTRY/PATH: %s",
				field, key, source)
		}
		if err := json.Unmarshal(auths[key], &e.credential.AuthConfig); err != nil {
			return nil, fmt.Errorf("%s: %w", e.credential.Source, withoutText(auths[key], err))
		}
		c.entries = append(c.entries, e)
	}
	// The most specific entry comes first, and the order is the same at each call.
	slices.SortFunc(c.entries, func(a, b entry) int {
		return cmp.Or(
			cmp.Compare(len(b.path), len(a.path)),
			cmp.Compare(strings.Count(a.host, "*"), strings.Count(b.host, "*")),
			cmp.Compare(a.key, b.key))
	})
	return c, nil
}

// withoutText returns an error of package json without the text that it may quote.
func withoutText(text []byte, err error) error {
	var (
		syntax *json.SyntaxError
		kind   *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &syntax):
		line := 1 + strings.Count(string(text[:min(int(syntax.Offset), len(text))]), "\n")
		return fmt.Errorf("line %d: found text that is not JSON; allowed: docker's config.json", line)
	case errors.As(err, &kind):
		return fmt.Errorf("%s: found another type; allowed: %s", cmp.Or(kind.Field, "the document"),
			kind.Type.Kind())
	}
	return errors.New("auth: found text of another form; allowed: base64 of USER:PASSWORD")
}

// Lookup returns the credentials for a repository such as index.docker.io/library/busybox, those of
// the longest path first.
func (c *Config) Lookup(repository string) ([]Credential, error) {
	host, repo := splitKey(repository)
	if helper := c.helpers[host]; helper != "" {
		return nil, c.helperError(fmt.Sprintf("credHelpers[%q]", host), helper, host)
	}
	var found []Credential
	for i := range c.entries {
		e := &c.entries[i]
		if !matchesHost(e.host, host) || !matchesPath(e.path, repo) {
			continue
		}
		if len(e.credential.Secrets()) > 0 {
			found = append(found, e.credential)
			continue
		}
		// docker login leaves an empty entry where a program keeps the credentials.
		if c.store != "" {
			return nil, c.helperError("credsStore", c.store, host)
		}
	}
	return found, nil
}

func (c *Config) helperError(key, helper, host string) error {
	return fmt.Errorf("%s: %s: found the program docker-credential-%s; allowed: credentials of %s in auths (podman login --authfile writes them), since no program is executed", //nolint:lll // one message
		c.source, key, helper, host)
}

// dockerHub is the name under which go-containerregistry knows docker.io.
const dockerHub = "index.docker.io"

// splitKey returns the registry and the path of a key of auths. Old versions of docker write URLs
// with the path of the API.
func splitKey(key string) (host, repo string) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, repo, _ = strings.Cut(key, "/")
	for _, api := range []string{"v1", "v2"} {
		if rest, ok := strings.CutPrefix(repo, api); ok && (rest == "" || rest[0] == '/') {
			repo = rest
			break
		}
	}
	host = strings.ToLower(host)
	if host == "docker.io" || host == "registry-1.docker.io" {
		host = dockerHub
	}
	return host, strings.Trim(repo, "/")
}

// matchesHost reports whether a registry is the one of a key, whose labels may be patterns such as
// *.example.com. A pattern matches one label.
func matchesHost(pattern, host string) bool {
	if !strings.ContainsAny(pattern, "*?[") || strings.HasPrefix(pattern, "[") {
		return pattern == host
	}
	want, wantPort, _ := strings.Cut(pattern, ":")
	name, port, _ := strings.Cut(host, ":")
	labels, parts := strings.Split(want, "."), strings.Split(name, ".")
	if port != wantPort || len(labels) != len(parts) {
		return false
	}
	for i, label := range labels {
		if ok, err := path.Match(label, parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// matchesPath reports whether a repository is at or below a path.
func matchesPath(prefix, repo string) bool {
	rest, ok := strings.CutPrefix(repo, prefix)
	return ok && (prefix == "" || rest == "" || rest[0] == '/')
}
