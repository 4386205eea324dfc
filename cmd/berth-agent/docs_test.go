// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// examples returns the blocks of YAML of a page, as a host has them that lacks their images: with a
// program of busybox for each, and /srv in a directory of the test.
func (h *host) examples(page string) []string {
	h.t.Helper()
	text, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		h.t.Fatal(err)
	}
	const busybox = "archive: {path: BUSYBOX}\n"
	serve := func(script string) string { // and end when told to
		return "  command: [sh, -c, 'trap exit TERM; { " + script + "; } & wait']\n"
	}
	here := strings.NewReplacer(
		"  image: docker.io/library/nginx:1.29\n", "  "+busybox+
			serve("busybox httpd -f -p 80 -h /usr/share/nginx/html"),
		"  image: docker.io/library/postgres:18\n", "  "+busybox+
			serve("echo $POSTGRES_PASSWORD >/var/lib/postgresql/password; sleep 3600"),
		"  image: docker.io/library/redis:8\n  args: [redis-server, --save, \"60\", \"1\"]\n", "  "+busybox+
			serve("busybox nc -ll -p 6379 -e echo PONG"),
		"  image: docker.io/library/busybox:1.37\n", "  "+busybox,
		"/srv/", h.path("srv")+"/")
	var out []string
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(
		string(text), -1) {
		out = append(out, strings.ReplaceAll(here.Replace(block[1]), "BUSYBOX", programs+"/busybox.tar"))
	}
	return out
}

// apply writes each example to a file of its own.
func (h *host) apply(examples []string) {
	h.t.Helper()
	for i, text := range examples {
		if strings.Contains(text, "image:") {
			h.t.Fatalf("found an image that the test does not know:\n%s", text)
		}
		h.raw("example-"+strconv.Itoa(i)+".yaml", text)
	}
}

// newDocsHost returns a host with a network and a page to serve.
func newDocsHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	h.ownNetwork()
	if err := os.MkdirAll(h.path("srv/www"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("srv/www/index.html"), []byte("welcome\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	return h
}

// serves waits until the web server of the examples answers.
func (h *host) serves() {
	h.t.Helper()
	h.until("the web server answers", func() bool {
		out, _ := exec.Command("nsenter", "--net="+h.network, "curl", "-s", "-m", "60",
			"http://127.0.0.1:8080/").Output()
		return string(out) == "welcome\n"
	})
}

// TestFromQuadlet applies the examples of docs/from-quadlet.md. The images cannot be had here, so
// busybox stands for each.
func TestFromQuadlet(t *testing.T) {
	t.Parallel()
	h := newDocsHost(t)
	h.apply(h.examples("from-quadlet.md"))
	h.untilRunning("db")
	h.serves()
	h.untilSucceeded("backup")
	if out, err := exec.Command("tar", "-tf", h.path("srv/backup/www.tar")).Output(); err != nil ||
		!strings.Contains(string(out), "srv/www/index.html") {
		t.Errorf("found the backup %q, %v", out, err)
	}
	password := h.path("s/volumes/default/db/password")
	h.until("the database has its password", func() bool {
		text, _ := os.ReadFile(password)
		return string(text) == "correct horse\n"
	})
	h.removeAll("example-0.yaml", "example-1.yaml", "example-2.yaml")
	if _, err := os.Stat(password); err != nil {
		t.Errorf("the volume is gone with its Container: %v", err)
	}
	if out, errs, _ := h.run("", "volume", "ls"); !strings.Contains(out, "db") {
		t.Errorf("volume ls: found %q, %q", out, errs)
	}
	h.run("", "volume", "rm", "db")
	if left, _ := filepath.Glob(h.path("s/volumes/default/[^.]*")); len(left) > 0 {
		t.Errorf("found %v after volume rm", left)
	}
	h.checkNetworkIsClean()
	h.signal(unix.SIGTERM)
}

// TestFromCompose applies the example of docs/from-compose.md: the web server has its page and its
// configuration, and finds the database by name.
func TestFromCompose(t *testing.T) {
	t.Parallel()
	h := newDocsHost(t)
	h.apply(h.examples("from-compose.md"))
	h.untilRunning("db")
	h.untilRunning("web")
	h.serves()
	out, errs, _ := h.run("", "exec", "web", "--", "cat", "/etc/shop.conf")
	if out != "currency = EUR\n" {
		t.Errorf("found the configuration %q, %q", out, errs)
	}
	h.until("the database answers to its name", func() bool {
		out, _, _ := h.run("", "exec", "web", "--", "busybox", "nc", "-w", "5", "db", "6379")
		return out == "PONG\n"
	})
	h.removeAll("example-0.yaml")
	h.run("", "volume", "rm", "data")
	h.checkNetworkIsClean()
	h.signal(unix.SIGTERM)
}
