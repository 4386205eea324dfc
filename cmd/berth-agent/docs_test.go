// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// examples returns the blocks of YAML of a page, as a host has them that lacks their images: with a
// program of busybox for each, and /srv in a directory of the test.
func (h *host) examples(page string) []string {
	h.t.Helper()
	const busybox = "  archive: {path: BUSYBOX}\n"
	// runs is a program that says that it has started, and ends when told to.
	runs := func(lines ...string) string {
		return busybox + "  command:\n  - sh\n  - -c\n  - |\n    trap exit TERM\n    echo started\n    {\n    " +
			strings.Join(lines, "\n    ") + "\n    } & wait\n"
	}
	// answers is a server that answers each connection with the output of a script.
	answers := func(port, script string) string {
		return runs("cat >/answer <<\\END", script, "END", "busybox nc -ll -p "+port+" -e sh /answer")
	}
	const request = `while read -r line && [ ${#line} -gt 1 ]; do :; done; ` +
		`printf "HTTP/1.0 200 OK\r\n\r\n"; `
	here := strings.NewReplacer(
		"  image: docker.io/library/nginx:1.29\n",
		runs("busybox httpd -f -p 80 -h /usr/share/nginx/html"),
		"  image: docker.io/library/postgres:18\n",
		runs("echo $POSTGRES_PASSWORD >/var/lib/postgresql/password; sleep 3600"),
		"  image: docker.io/library/redis:8\n  args: [redis-server, --save, \"60\", \"1\"]\n",
		answers("6379", "echo PONG"),
		"  image: docker.io/library/redis:alpine\n",
		answers("6379", "n=$(($(cat /data/n || echo 0) + 1)); echo $n >/data/n; echo $n"),
		"  archive: {path: /srv/images/counter.tar}\n",
		answers("5000", request+"n=$(busybox nc -w 60 $REDIS_HOST 6379 </dev/null); "+
			"echo Hello World! I have been seen $n times."),
		"  image: docker.io/library/mysql:9\n",
		answers("3306", "cat $MYSQL_PASSWORD_FILE; echo; cat $MYSQL_ROOT_PASSWORD_FILE; echo; "+
			"echo $MYSQL_DATABASE $MYSQL_USER; touch /var/lib/mysql/ibdata1"),
		"  image: docker.io/library/wordpress:6\n",
		answers("80", request+"cat $WORDPRESS_DB_PASSWORD_FILE; echo; ls /run/secrets; "+
			"busybox nc -w 60 ${WORDPRESS_DB_HOST%:*} ${WORDPRESS_DB_HOST#*:} </dev/null"),
		"  image: docker.io/library/busybox:1.37\n", busybox,
		"  image: quay.io/centos/centos:latest\n", busybox,
		"/srv/", h.path("srv")+"/")
	var out []string
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(
		h.page(page), -1) {
		out = append(out, strings.ReplaceAll(here.Replace(block[1]), "BUSYBOX", programs+"/busybox.tar"))
	}
	return out
}

// page returns the text of a page of docs/.
func (h *host) page(name string) string {
	h.t.Helper()
	text, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// follow runs the commands for the agent that a page has in its first table and in its blocks of
// shell, in their order. Those with a word in capitals need a name, and the test itself runs those
// that are named here.
func (h *host) follow(page string, others ...string) {
	h.t.Helper()
	text := h.page(page)
	table, _, _ := strings.Cut(text, "\n## ")
	var commands []string
	for _, found := range regexp.MustCompile("`(berth-agent [^`]+)`").FindAllStringSubmatch(table, -1) {
		commands = append(commands, found[1])
	}
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "berth-agent ") {
				commands = append(commands, line)
			}
		}
	}
	for _, other := range others {
		if !slices.Contains(commands, other) {
			h.t.Errorf("%s has no %q any more; it has %q", page, other, commands)
		}
	}
	name := regexp.MustCompile(`\b[A-Z]{2,}\b`)
	for _, command := range commands {
		if !slices.Contains(others, command) && !name.MatchString(command) {
			h.does(strings.Fields(command)[1:]...)
		}
	}
	h.untilRunning("web") // the last of its commands is start or restart
}

// followsLog asserts that `berth-agent logs -f web` shows the lines of a container that runs.
func (h *host) followsLog() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), hangs)
	defer cancel()
	cmd := h.program("logs", "--state-dir", h.path("s"), "-f", "web")
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if !strings.Contains(line, "started") {
		h.t.Errorf("logs -f: found %q, %v", line, err)
	}
	stop()
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
}

// terminal asserts that `berth-agent exec -it web -- sh` gives a shell a terminal.
func (h *host) terminal() {
	h.t.Helper()
	needs.Program(h.t, "script")
	ctx, cancel := context.WithTimeout(h.t.Context(), hangs)
	defer cancel()
	cmd := exec.CommandContext(ctx, "script", "-qec", programs+"/berth-agent exec --state-dir "+
		h.path("s")+" -it web -- sh", "/dev/null")
	cmd.Stdin = strings.NewReader("test -t 0 && echo ter''minal\nexit 3\n")
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "terminal") || cmd.ProcessState.ExitCode() != 3 {
		h.t.Errorf("exec -it: found %q, %v", out, err)
	}
}

// visit returns what a port of the host answers, or nothing.
func (h *host) visit(url string) string {
	out, _ := exec.Command("nsenter", "--net="+h.network, "curl", "-s", "-m", "60", url).Output()
	return string(out)
}

// names returns the names of the files of examples.
func names(examples []string) (out []string) {
	for i := range examples {
		out = append(out, "example-"+strconv.Itoa(i)+".yaml")
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
		h.raw(names(examples)[i], text)
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
		return h.visit("http://127.0.0.1:8080/") == "welcome\n"
	})
}

// TestFromQuadlet applies the examples of docs/from-quadlet.md, and runs its commands. The images
// cannot be had here, so busybox stands for each.
func TestFromQuadlet(t *testing.T) {
	t.Parallel()
	h := newDocsHost(t)
	examples := h.examples("from-quadlet.md")
	h.apply(examples)
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
	// It ends each minute, and is started again after a while.
	h.until("podman's example runs its program", func() bool {
		out, _, _ := h.run("", "exec", "test", "--", "sh", "-c",
			"echo x >/data/x; tr '\\0' ' ' </proc/1/cmdline")
		return out == "sleep 60 "
	})
	h.followsLog()
	h.terminal()
	h.follow("from-quadlet.md", "berth-agent logs -f web", "berth-agent exec -it web -- sh",
		"berth-agent volume rm db")
	h.does("restart", "backup")
	h.removeAll(names(examples)...)
	for _, file := range []string{password, h.path("s/volumes/default/test/x")} {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("the volume is gone with its Container: %v", err)
		}
	}
	if out := h.does("volume", "ls"); !strings.Contains(out, "db") {
		t.Errorf("volume ls: found %q", out)
	}
	h.does("volume", "rm", "db")
	h.does("volume", "prune", "--force")
	if left, _ := filepath.Glob(h.path("s/volumes/default/[^.]*")); len(left) > 0 {
		t.Errorf("found %v after volume rm and prune", left)
	}
	h.checkNetworkIsClean()
	h.signal(unix.SIGTERM)
}

// TestFromCompose applies the examples of docs/from-compose.md, one after the other, and runs its
// commands: services find each other by name, and have their pages, configurations, secrets and
// volumes.
func TestFromCompose(t *testing.T) {
	t.Parallel()
	h := newDocsHost(t)
	examples := h.examples("from-compose.md")
	if len(examples) != 3 {
		t.Fatalf("found %d examples; want 3", len(examples))
	}
	h.apply(examples[:1])
	h.untilRunning("db")
	h.untilRunning("web")
	h.serves()
	if out := h.does("exec", "web", "--", "cat", "/etc/shop.conf"); out != "currency = EUR\n" {
		t.Errorf("found the configuration %q", out)
	}
	h.until("the database answers to its name", func() bool {
		out, _, _ := h.run("", "exec", "web", "--", "busybox", "nc", "-w", "5", "db", "6379")
		return out == "PONG\n"
	})
	h.followsLog()
	h.terminal()
	h.follow("from-compose.md", "berth-agent logs -f web", "berth-agent exec -it web -- sh",
		"berth-agent volume rm data", "berth-agent restart redis")
	h.serves()
	h.removeAll(names(examples[:1])...)
	h.does("volume", "rm", "data")

	h.apply(examples[1:2])
	seen := 0
	count := func() {
		least := seen + 1
		h.until("the page counts on", func() bool {
			_, _ = fmt.Sscanf(h.visit("http://127.0.0.1:8000/"), "Hello World! I have been seen %d times.",
				&seen)
			return seen >= least
		})
	}
	count()
	count()
	h.does("restart", "redis")
	h.untilRunning("redis")
	count()
	h.removeAll(names(examples[1:2])...)

	h.apply(examples[2:])
	h.until("WordPress reaches its database", func() bool {
		return h.visit("http://127.0.0.1:8000/") == "correct horse\ndb_password\n"+
			"correct horse\nbattery staple\nwordpress wordpress\n"
	})
	h.removeAll(names(examples[2:])...)
	if _, err := os.Stat(h.path("s/volumes/default/db-data/ibdata1")); err != nil {
		t.Errorf("the database's volume: %v", err)
	}
	h.does("volume", "rm", "redis-data", "db-data")
	h.checkNetworkIsClean()
	h.signal(unix.SIGTERM)
}
