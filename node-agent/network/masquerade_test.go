// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// builtPlugins builds the plugins of testdata/plugins, which know nftables, and returns their
// directory. Go's cache makes a second build fast.
func builtPlugins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", dir+"/", "tool")
	cmd.Dir = "testdata/plugins"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the plugins: %v: %s", err, out)
	}
	return dir
}

// onlyPrograms leaves only these programs in PATH.
func onlyPrograms(t *testing.T, names ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			needs.Skip(t, fmt.Sprintf("apt-get install %s: %v", name, err))
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return string(out)
}

// Without iptables, ports and the way out are rules of nftables. An agent that comes after finds
// the bridge's rules, and adds none. A container's rules go with it.
func TestWithoutIptables(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	plugins := builtPlugins(t)
	n := newNode(t)
	before := ruleset(t)
	onlyPrograms(t, "nft", "ip")
	n.BinDirs = []string{plugins}
	port := PortMapping{HostPort: 8081, ContainerPort: 80, Protocol: "tcp"}
	addresses := n.attach("web", Wanted{Ports: []PortMapping{port}})
	served := make(chan error, 1)
	go func() {
		lockInto(t, n.Namespaces.Path("web"))
		l, err := net.Listen("tcp", ":80")
		served <- err
		if err != nil {
			return
		}
		defer l.Close()
		c, err := l.Accept()
		if err == nil {
			c.Close()
		}
		served <- err
	}()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", "127.0.0.1:8081", time.Minute)
	if err != nil {
		t.Fatalf("published port: %v; rules: %s", err, ruleset(t))
	}
	c.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}

	n.boot()
	n.BinDirs = []string{plugins}
	n.attach("other", Wanted{})
	rule := fmt.Sprintf("oifname != %q masquerade", n.Bridge.Name())
	if found := strings.Count(ruleset(t), rule); found != len(addresses) {
		t.Errorf("found %d rules for what leaves the bridge; want %d: %s", found, len(addresses), ruleset(t))
	}

	n.detach("web")
	n.detach("other")
	for _, a := range addresses {
		if after := ruleset(t); strings.Contains(after, a.String()) && !strings.Contains(before, a.String()) {
			t.Errorf("found rules of %s left: %s", a, after)
		}
	}
	if out, err := exec.Command("nft", "delete", "table", "inet", n.Bridge.Name()).CombinedOutput(); err != nil {
		t.Errorf("nft: %v: %s", err, out)
	}
}

// A node that has no program for its rules is said to lack it, and so is one whose plugins need
// iptables.
func TestWithoutFirewall(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	for want, programs := range map[string][]string{
		"found neither iptables nor nft in PATH":                           nil,
		"found no iptables in PATH, and CNI plugins that know no nftables": {"nft"},
	} {
		t.Run(want, func(t *testing.T) {
			onlyPrograms(t, programs...)
			_, err := n.Attach(t.Context(), "c", n.container("c"), Wanted{})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("found %v; want %q", err, want)
			}
			n.detach("c")
		})
	}
}
