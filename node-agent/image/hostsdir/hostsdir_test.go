// SPDX-License-Identifier: Apache-2.0

package hostsdir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, dir Dir, name, text string) {
	t.Helper()
	at := filepath.Join(string(dir), name)
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestHosts reads a file as containerd does: the hosts in their order, and the server at the end.
func TestHosts(t *testing.T) {
	d := Dir(t.TempDir())
	write(t, d, "docker.io", `server = "https://registry-1.docker.io"
[host."https://z.example"]
  capabilities = ["pull", "resolve"]
[host."http://a.example:5000/proxy"]
  capabilities = ["pull"]
  skip_verify = true
  [host."http://a.example:5000/proxy".header]
    X-A = ["1", "2"]
[host."https://h.example/v2/cache"]
  override_path = true
`)
	write(t, d, "x.example_5000_", "skip_verify = true\n")
	write(t, d, "y.example:5000", "server = \"y.example\"\n")
	write(t, d, "_default", "")
	for registry, want := range map[string]string{
		"docker.io": "https://z.example/v2 true true map[] false; " +
			"http://a.example:5000/proxy/v2 true false map[X-A:[1 2]] true; " +
			"https://h.example/v2/cache true true map[] false; " +
			"https://registry-1.docker.io/v2 true true map[] false; ",
		"x.example:5000": " true true map[] true; ",
		"y.example:5000": "https://y.example/v2 true true map[] false; ",
		"other.example":  " true true map[] false; ",
		"..":             "",
	} {
		hosts, err := d.Hosts(registry)
		got := ""
		for _, h := range hosts {
			got += fmt.Sprintln(h.URL.String(), h.Pull, h.Resolve, h.Header,
				h.TLS != nil && h.TLS.InsecureSkipVerify)
		}
		if got = strings.ReplaceAll(got, "\n", "; "); err != nil || got != want {
			t.Errorf("%s: found %q, %v; want %q", registry, got, err, want)
		}
	}
	for _, none := range []Dir{"", Dir(t.TempDir())} {
		if hosts, err := none.Hosts("docker.io"); hosts != nil || err != nil {
			t.Errorf("found %v, %v; want none", hosts, err)
		}
	}
}

// TestRefused: an error names file and key, and shows no header.
func TestRefused(t *testing.T) {
	for text, words := range map[string]string{
		"sever = \"x\"": "line 1: found the key sever;",
		"\n[host.\"https://x\"]\ndial_timeout = \"1s\"":     "line 3: found the key host.https://x.dial_timeout;",
		"server = [\"SECRET\"]":                             "line 1: server: ",
		"[header]\nA = SECRET":                              "line 2: toml: ",
		"[host.\"https://x\".header]\nA = {B = \"SECRET\"}": `host."https://x": header.A: found another type`,
		"host.\"https://x\".skip_verify = true":             `host."https://x": found no table`,
		"capabilities = [\"fly\"]":                          `capabilities: found "fly"`,
		"server = \"ftp://x\"":                              "found another URL",
		"server = \"https://u:SECRET@x\"":                   "found another URL",
		"ca = 1":                                            "ca: found another type",
		"ca = \"absent.pem\"":                               "absent.pem: no such file",
		"ca = \"hosts.toml\"":                               "hosts.toml: found no certificate",
		"client = [[\"a\", \"b\", \"c\"]]":                  "client: found another type",
		"client = \"absent.pem\"":                           "client: open ",
	} {
		d := Dir(t.TempDir())
		write(t, d, "x.example", text)
		_, err := d.Hosts("x.example")
		if err == nil || !strings.Contains(err.Error(), words) ||
			!strings.Contains(err.Error(), string(d)+"/x.example/hosts.toml: ") {
			t.Errorf("%s: %v; want %q", text, err, words)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the secret is in %v", text, err)
		}
	}
	d := Dir(t.TempDir())
	if err := os.Mkdir(filepath.Join(string(d), "x.example"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Hosts("x.example"); err == nil {
		t.Error("a directory without hosts.toml was ignored")
	}
}
