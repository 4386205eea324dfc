// SPDX-License-Identifier: Apache-2.0

package dockerconfig

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLookup: keys are matched as the kubelet and podman match them.
func TestLookup(t *testing.T) {
	auth := func(user string) string {
		return `{"auth":"` + base64.StdEncoding.EncodeToString([]byte(user+":secret")) + `"}`
	}
	c, err := Parse([]byte(`{"auths":{
		"https://index.docker.io/v1/": `+auth("hub")+`,
		"docker.io/team": {"username":"hub-team","password":"secret"},
		"quay.io": `+auth("quay")+`,
		"quay.io/team": `+auth("quay-team")+`,
		"quay.io/team/app": `+auth("quay-app")+`,
		"*.example.com": `+auth("any")+`,
		"a.example.com": `+auth("a")+`,
		"*.example.com:5000": `+auth("any-5000")+`,
		"HTTPS://x": {},
		"token.io": {"identitytoken":"secret"},
		"empty.io": {}
	}, "HttpHeaders": {"a": "b"}}`), "FILE")
	if err != nil {
		t.Fatal(err)
	}
	for repository, want := range map[string]string{
		"index.docker.io/library/busybox": "hub",
		"index.docker.io/team/app":        "hub-team hub",
		"quay.io/other":                   "quay",
		"quay.io/teammate":                "quay",
		"quay.io/team/other":              "quay-team quay",
		"quay.io/team/app":                "quay-app quay-team quay",
		"quay.io/team/app/part":           "quay-app quay-team quay",
		"quay.io.evil.com/team/app":       "",
		"a.example.com/x":                 "a any",
		"b.example.com/x":                 "any",
		"b.a.example.com/x":               "",
		"example.com/x":                   "",
		"b.example.com:5000/x":            "any-5000",
		"a.example.com:5001/x":            "",
		"empty.io/x":                      "",
	} {
		found, err := c.Lookup(repository)
		var users []string
		for _, f := range found {
			users = append(users, f.Username)
			if f.Password != "secret" || strings.Contains(f.Source, "secret") ||
				!strings.HasSuffix(f.Source, " of FILE") {
				t.Errorf("%s: found %+v", repository, f)
			}
		}
		if got := strings.Join(users, " "); err != nil || got != want {
			t.Errorf("%s: found %q, %v; want %q", repository, got, err, want)
		}
	}
	if found, err := c.Lookup("token.io/x"); err != nil || len(found) != 1 ||
		found[0].IdentityToken != "secret" {
		t.Errorf("found %+v, %v; want the identity token", found, err)
	}
}

// TestHelpers: credentials that a program keeps are refused for the images that they are for.
func TestHelpers(t *testing.T) {
	c, err := Parse([]byte(`{"auths":{"kept.io":{},"here.io":{"username":"u","password":"p"}},
		"credsStore":"pass","credHelpers":{"ecr.io":"ecr-login"}}`), "FILE")
	if err != nil {
		t.Fatal(err)
	}
	for repository, words := range map[string]string{
		"kept.io/x":   `FILE: credsStore: found the program docker-credential-pass`,
		"ecr.io/x":    `FILE: credHelpers["ecr.io"]: found the program docker-credential-ecr-login`,
		"here.io/x":   "",
		"public.io/x": "",
	} {
		_, err := c.Lookup(repository)
		if (err == nil) != (words == "") || err != nil && !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %q", repository, err, words)
		}
	}
}

// TestBadText: an error names the file and the place, and shows no secret.
func TestBadText(t *testing.T) {
	for text, words := range map[string]string{
		"":                                    "FILE: line 1: found text that is not JSON",
		"{\n\"auths\": SECRET":                "FILE: line 2: found text that is not JSON",
		`["SECRET"]`:                          "FILE: the document: found another type; allowed: struct",
		`{"auths":{"":{}}}`:                   `auths[""]: found no registry`,
		`{"auths":"SECRET"}`:                  "FILE: auths: found another type; allowed: map",
		`{"auths":{"x":"SECRET"}}`:            `auths["x"] of FILE: the document: found another type`,
		`{"auths":{"x":{"auth":"SECRET!"}}}`:  `auths["x"] of FILE: auth: found`,
		`{"auths":{"x":{"auth":"U0VDUkVU"}}}`: `auths["x"] of FILE: auth: found`,
		`{"auths":{"x":{"password":99999999999999999999}}}`:               `auths["x"] of FILE: password: found another type; allowed: string`,
		`{"auths":{"x":{"username":"u","password":"SECRET","auth":[1]}}}`: `auths["x"] of FILE: auth: found another type`,
		// the first one of three
		`{"auths":{"z":1,"y":"SECRET","x":[],"w":{}}}`: `auths["x"] of FILE: the document: found`,
		`{"credHelpers":{"x":["SECRET"]}}`:             "FILE: credHelpers: found another type",
	} {
		_, err := Parse([]byte(text), "FILE")
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %q", text, err, words)
		}
		if err != nil && (strings.Contains(err.Error(), "SECRET") ||
			strings.Contains(err.Error(), "999")) {
			t.Errorf("%s: the secret is in %v", text, err)
		}
	}
}

// TestFiles: the files are read at each Lookup, those that are optional may be missing, and one that
// others can read is reported.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	var warnings []string
	f := Files{
		Paths: []string{first, second}, Optional: true,
		Warn: func(m string) { warnings = append(warnings, m) },
	}
	lookup := func(want string) {
		t.Helper()
		found, err := f.Lookup("x.io/app")
		var users []string
		for _, c := range found {
			users = append(users, c.Username)
		}
		if got := strings.Join(users, " "); err != nil || got != want {
			t.Errorf("found %q, %v; want %q", got, err, want)
		}
	}
	write := func(path, user string, mode os.FileMode) {
		t.Helper()
		text := `{"auths":{"x.io":{"username":"` + user + `","password":"p"}}}`
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	lookup("")
	write(second, "b", 0o600)
	lookup("b")
	write(first, "a", 0o600)
	lookup("a b")
	write(first, "rotated", 0o600)
	lookup("rotated b")
	if len(warnings) > 0 {
		t.Errorf("found warnings %q; want none", warnings)
	}
	if err := os.Chmod(first, 0o640); err != nil {
		t.Fatal(err)
	}
	lookup("rotated b")
	if len(warnings) != 1 || !strings.Contains(warnings[0], first+": found mode 0640") {
		t.Errorf("found warnings %q", warnings)
	}

	f.Optional = false
	if err := os.Remove(second); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lookup("x.io/app"); err == nil || !strings.Contains(err.Error(), second) {
		t.Errorf("a missing file: %v", err)
	}
	if err := unix.Mkfifo(second, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lookup("x.io/app"); err == nil ||
		!strings.Contains(err.Error(), second+": found no regular file") {
		t.Errorf("a fifo: %v", err)
	}
}
