// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// binDir is the directory of Debian's containernetworking-plugins.
const binDir = "/usr/lib/cni"

// node is a node with directories of its own and the bridge.
type node struct {
	*Networks
	t   *testing.T
	dir string
}

func newNode(t *testing.T) *node {
	t.Helper()
	needs.Root(t)
	if err := installed([]string{binDir}, bridgePlugins()...); err != nil {
		needs.Skip(t, fmt.Sprintf("apt-get install containernetworking-plugins: %v", err))
	}
	n := &node{t: t, dir: t.TempDir()}
	n.boot()
	t.Cleanup(func() {
		for _, lines := range [][]string{n.left(), n.pinned()} {
			if len(lines) > 0 {
				t.Errorf("found %q left", lines)
			}
		}
		if out, err := exec.Command("ip", "link", "del", n.Bridge.Name()).CombinedOutput(); err != nil &&
			n.Bridge.chosen != nil {
			t.Logf("remove the bridge: %s", out)
		}
	})
	return n
}

// boot gives the node another agent.
func (n *node) boot() {
	n.Networks = New(&Networks{
		Namespaces: Namespaces{Dir: filepath.Join(n.dir, "run/netns")},
		BinDirs:    []string{filepath.Join(n.dir, "bin"), binDir},
		ConfDir:    filepath.Join(n.dir, "conf"), Bridge: &Bridge{RunDir: filepath.Join(n.dir, "run")},
		Log: slog.New(slog.DiscardHandler),
	})
	for _, d := range []string{"bin", "conf", "run"} {
		if err := os.MkdirAll(filepath.Join(n.dir, d), 0o700); err != nil {
			n.t.Fatal(err)
		}
	}
}

// container returns the files of a container.
func (n *node) container(id string) looseFiles {
	n.t.Helper()
	dir := filepath.Join(n.dir, "bundles", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	return looseFiles(dir)
}

// conf writes a file of the node's configuration.
func (n *node) conf(name, text string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, "conf", name), []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// plugin writes a plugin of the node, a script.
func (n *node) plugin(name, script string) {
	n.t.Helper()
	err := os.WriteFile(filepath.Join(n.dir, "bin", name), []byte("#!/bin/sh\n"+script), 0o700)
	if err != nil {
		n.t.Fatal(err)
	}
}

// versionReply answers VERSION, and passes the result of the plugin before on for the rest.
const versionReply = `if [ $CNI_COMMAND = VERSION ]; then echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit; fi
`

// attach connects a container and returns its addresses.
func (n *node) attach(id string, want Wanted) []netip.Addr {
	n.t.Helper()
	f := n.container(id)
	if _, err := n.Attach(n.t.Context(), id, f, want); err != nil {
		n.t.Fatal(err)
	}
	addresses, err := Addresses(f)
	if err != nil {
		n.t.Fatal(err)
	}
	return addresses
}

func (n *node) detach(id string) {
	n.t.Helper()
	if err := n.Detach(n.t.Context(), id, n.container(id)); err != nil {
		n.t.Error(err)
	}
}

func (n *node) pinned() []string {
	ids, err := n.Namespaces.List()
	if err != nil {
		n.t.Error(err)
	}
	return ids
}

// left returns the devices, addresses and rules of containers.
func (n *node) left() []string {
	var left []string
	out, err := exec.Command("ip", "-o", "link", "show", "type", "veth").CombinedOutput()
	if err != nil {
		n.t.Errorf("ip link: %v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		left = append(left, line)
	}
	leases, err := n.Bridge.leases()
	if err != nil {
		n.t.Error(err)
	}
	for id, addresses := range leases {
		left = append(left, fmt.Sprint(id, addresses))
	}
	chain := regexp.MustCompile(`^:CNI-(DN-)?[0-9a-f]{16}`)
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		out, err := exec.Command(save).Output()
		if err != nil {
			n.t.Errorf("%s: %v", save, err)
		}
		for line := range strings.Lines(string(out)) {
			one := (strings.Contains(line, "/32 ") || strings.Contains(line, "/128 ")) &&
				!strings.Contains(line, "127.0.0.1/32") && !strings.Contains(line, "::1/128")
			if one || chain.MatchString(line) {
				left = append(left, line)
			}
		}
	}
	return left
}

// Containers that are connected at the same time have addresses of their own, and leave nothing.
func TestTwentyAtOnce(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	var wg sync.WaitGroup
	for i := range 20 {
		id := fmt.Sprint("c", i)
		f := n.container(id)
		wg.Go(func() {
			_, err := n.Attach(t.Context(), id, f,
				Wanted{Ports: []PortMapping{{HostPort: int32(8000 + i), ContainerPort: 80, Protocol: "tcp"}}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]string{}
	for i := range 20 {
		id := fmt.Sprint("c", i)
		addresses, err := Addresses(n.container(id))
		if err != nil || len(addresses) == 0 {
			t.Errorf("%s: found the addresses %v, %v; want some", id, addresses, err)
		}
		for _, a := range addresses {
			if other := seen[a]; other != "" {
				t.Errorf("%s has the address %s of %s", id, a, other)
			}
			seen[a] = id
		}
	}
	if left := n.left(); len(left) < 40 {
		t.Errorf("found %q; want devices and rules of 20 containers, or this test finds nothing at all",
			left)
	}
	for i := range 20 {
		id := fmt.Sprint("c", i)
		f := n.container(id)
		wg.Go(func() {
			if err := n.Detach(t.Context(), id, f); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// What is recorded decides how a container is connected: not at all where it asks for no network,
// and anew where it asks for other ports.
func TestAttachFollowsWhatIsWanted(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	first := n.attach("c", Wanted{})
	if again := n.attach("c", Wanted{}); !slices.Equal(again, first) {
		t.Errorf("again: found %v; want %v as before", again, first)
	}
	n.boot()
	if again := n.attach("c", Wanted{}); !slices.Equal(again, first) {
		t.Errorf("by another agent: found %v; want %v as before", again, first)
	}
	rules := func() int {
		out, err := exec.Command("iptables-save", "-t", "nat").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(out), "--to-destination ")
	}
	n.attach("c", Wanted{Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}})
	if got := rules(); got != 1 {
		t.Errorf("with a port: found %d rules that map one; want 1", got)
	}
	n.attach("c", Wanted{})
	if got := rules(); got != 0 {
		t.Errorf("without ports again: found %d rules that map one; want 0", got)
	}
	if none := n.attach("c", Wanted{None: true}); len(none) > 0 {
		t.Errorf("without a network: found the addresses %v", none)
	}
	if left := n.left(); len(left) > 0 {
		t.Errorf("without a network: found %q", left)
	}
	n.detach("c")
	n.detach("c")
}

// A boot takes the namespace, the devices and the rules, and not the addresses of a configuration
// list that keeps them on disk.
func TestAttachAfterABoot(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	leases := filepath.Join(n.dir, "leases")
	n.conf("10-net.conflist", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"net","plugins":[
		{"type":"ptp","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.99.0.0/29"}]]}},{"type":"firewall"}]}`, leases))
	n.conf("20-other.conflist", `{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"missing"}]}`)
	for range 7 { // as many as the subnet would have addresses for
		if got := n.attach("c", Wanted{}); len(got) != 1 ||
			!netip.MustParsePrefix("10.99.0.0/29").Contains(got[0]) {
			t.Fatalf("found the addresses %v; want one of the first configuration list", got)
		}
		if err := n.Namespaces.Remove("c"); err != nil {
			t.Fatal(err)
		}
		n.boot()
	}
	n.detach("c")
	if files, _ := filepath.Glob(leases + "/net/10.*"); len(files) > 0 {
		t.Errorf("found the addresses %v left", files)
	}
}

// A start that fails takes back what the plugins before have done, and names the plugin.
func TestAttachThatFails(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.plugin("last", versionReply+
		`if [ $CNI_COMMAND = ADD ]; then echo '{"code":100,"msg":"no room"}'; exit 1; fi`)
	n.conf("10-net.conflist", fmt.Sprintf(`{"cniVersion":"1.0.0","name":"net","plugins":[
		{"type":"bridge","bridge":"net0","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.98.0.0/24"}]]}},
		{"type":"firewall"},{"type":"last"}]}`, n.Bridge.addressDir()))
	f := n.container("c")
	_, err := n.Attach(t.Context(), "c", f, Wanted{})
	if err == nil || !strings.Contains(err.Error(), "network net") || !strings.Contains(err.Error(),
		"last: no room") {
		t.Errorf("found %v; want the plugin's words", err)
	}
	for _, name := range []string{recordFile, cacheDir} {
		if _, err := os.Stat(f.File(name)); err == nil {
			t.Errorf("found %s left", name)
		}
	}
	n.conf("10-net.conflist",
		`{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"absent"}]}`)
	if _, err := n.Attach(t.Context(), "c", f, Wanted{}); err == nil || !strings.Contains(err.Error(),
		`found no plugin "absent"`) {
		t.Errorf("found %v; want the name of the plugin that is missing", err)
	}
	n.conf("10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"}]}`)
	ports := Wanted{Ports: []PortMapping{{HostPort: 80, ContainerPort: 80, Protocol: "tcp"}}}
	if _, err := n.Attach(t.Context(), "c", f, ports); err == nil || !strings.Contains(err.Error(),
		"spec.ports: found hostPort 80") {
		t.Errorf("found %v; want the port that no plugin maps", err)
	}
	n.detach("c")
}

// An agent that was killed while a plugin ran leaves a record without an end, and the result of the
// plugin before: the next one removes all that any plugin may have done.
func TestAttachOfAKilledAgent(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.attach("c", Wanted{Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}})
	f := n.container("c")
	cache := f.File("cni/results/" + n.Bridge.Name() + "-c-eth0")
	for name, change := range map[string]func(){
		"all plugins have run":        func() {},
		"libcni was writing its file": func() { _ = os.WriteFile(cache, nil, 0o600) },
		"libcni had not written it":   func() { _ = os.Remove(cache) },
	} {
		r, err := readRecord(f.File(recordFile))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(cache); err != nil {
			t.Errorf("%s: found no file of libcni: %v", name, err)
		}
		change()
		r.Done = false
		if err := r.write(f); err != nil {
			t.Fatal(err)
		}
		n.boot()
		if got := n.attach("c", Wanted{}); len(got) != 2 {
			t.Errorf("%s: found the addresses %v; want two", name, got)
		}
		if leases, err := n.Bridge.leases(); err != nil || len(leases) != 1 || len(leases["c"].addresses) != 2 {
			t.Errorf("%s: found the addresses %v, %v; want two of one container", name, leases, err)
		}
		out, _ := exec.Command("ip", "-o", "link", "show", "type", "veth").Output()
		if strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s: found the devices %s; want one", name, out)
		}
	}
	n.detach("c")
}

// Nothing is done for a container while a plugin of a killed agent still runs for it.
func TestAttachWaitsForOrphans(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	order := filepath.Join(n.dir, "order")
	n.plugin("slow", versionReply+`echo $CNI_COMMAND >>`+order+`
if [ $CNI_COMMAND = ADD ]; then (sleep 0.5; echo late >>`+order+`) >/dev/null 2>&1 & fi
echo '{"cniVersion":"1.0.0"}'`)
	n.conf("10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"slow"}]}`)
	f := n.container("c")
	if _, err := n.Attach(t.Context(), "c", f, Wanted{}); err != nil {
		t.Fatal(err)
	}
	n.boot()
	n.detach("c")
	if text, _ := os.ReadFile(order); string(text) != "ADD\nlate\nDEL\n" {
		t.Errorf("found the order %q; want DEL after all that ADD has executed", text)
	}
}

// A plugin that fails may leave a process, too: nothing is undone before that has ended.
func TestAttachThatFailsWaitsForOrphans(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	order := filepath.Join(n.dir, "order")
	n.plugin("slow", versionReply+`echo $CNI_COMMAND >>`+order+`
if [ $CNI_COMMAND = ADD ]; then (sleep 0.5; echo late >>`+order+`) >/dev/null 2>&1 & exit 1; fi`)
	n.conf("10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"slow"}]}`)
	if _, err := n.Attach(t.Context(), "c", n.container("c"), Wanted{}); err == nil {
		t.Error("found no error of a plugin that fails")
	}
	if text, _ := os.ReadFile(order); string(text) != "ADD\nlate\nDEL\n" {
		t.Errorf("found the order %q; want DEL after all that ADD has executed", text)
	}
	n.detach("c")
}

// An agent disconnects what belongs to no container, and leaves what does.
func TestPrune(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	ports := Wanted{Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}}
	n.attach("gone", ports)
	kept := n.attach("kept", Wanted{})
	if err := os.RemoveAll(filepath.Join(n.dir, "bundles/gone")); err != nil {
		t.Fatal(err)
	}
	n.boot()
	if err := n.Prune(t.Context(), func() ([]string, error) {
		return []string{"kept"}, nil
	}); err != nil {
		t.Fatal(err)
	}
	leases, err := n.Bridge.leases()
	if err != nil || len(leases) != 1 || len(leases["kept"].addresses) != len(kept) {
		t.Errorf("found the addresses %v, %v; want those of kept", leases, err)
	}
	if pinned := n.pinned(); !slices.Equal(pinned, []string{"kept"}) {
		t.Errorf("found the namespaces %v; want that of kept", pinned)
	}
	for _, line := range n.left() {
		if !strings.Contains(line, "veth") && !strings.Contains(line, "kept") &&
			!strings.Contains(line, kept[0].String()+"/") && !strings.Contains(line, kept[1].String()+"/") {
			t.Errorf("found %q left", line)
		}
	}
	n.detach("kept")
	if left, err := filepath.Glob(filepath.Join(n.dir, "run/netns-prune/*/*")); err != nil ||
		len(left) > 0 {
		t.Errorf("found %q left", left)
	}
}

// A container that nobody has any more was the only one on the bridge, beside the node's network for
// containers: it is disconnected, too.
func TestPruneOfTheBridgeByName(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.twoNetworks()
	n.attach("gone", Wanted{Networks: []Attachment{{Network: n.Bridge.Name()}}})
	if err := os.RemoveAll(filepath.Join(n.dir, "bundles/gone")); err != nil {
		t.Fatal(err)
	}
	n.boot()
	if err := n.Prune(t.Context(), func() ([]string, error) { return nil, nil }); err != nil {
		t.Error(err)
	}
	if left := n.left(); len(left) > 0 {
		t.Errorf("found %q left", left)
	}
}

// TestPruneIsInterrupted: an agent that ends disconnects no more containers, and executes no plugin.
func TestPruneIsInterrupted(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.attach("gone", Wanted{})
	if err := os.RemoveAll(filepath.Join(n.dir, "bundles/gone")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	none := func(cancel func()) func() ([]string, error) {
		return func() ([]string, error) { cancel(); return nil, nil }
	}
	if err := n.Prune(ctx, none(cancel)); !errors.Is(err, context.Canceled) {
		t.Errorf("found %v; want %v", err, context.Canceled)
	}
	if leases, err := n.Bridge.leases(); err != nil || len(leases) != 1 {
		t.Errorf("found the addresses %v, %v; want those of the container", leases, err)
	}
	if err := n.Prune(t.Context(), none(func() {})); err != nil {
		t.Error(err)
	}
}

// TestPruneGoesOn: a container that cannot be disconnected keeps no other from it, and leaves no
// directory that nothing removes.
func TestPruneGoesOn(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	addresses := map[string][]netip.Addr{}
	for _, id := range []string{"a", "b", "c"} {
		addresses[id] = n.attach(id, Wanted{})
		if err := os.RemoveAll(filepath.Join(n.dir, "bundles", id)); err != nil {
			t.Fatal(err)
		}
	}
	dir := func(id string) string { return filepath.Join(n.pruneDir(), addresses[id][0].String()) }
	// A file in the place of the directory of one, a directory in the place of the lock of another.
	if err := os.MkdirAll(filepath.Join(dir("b"), lockFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir("a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	none := func() ([]string, error) { return nil, nil }
	if err := n.Prune(t.Context(), none); err == nil {
		t.Error("found no error; want those of both")
	}
	if leases, err := n.Bridge.leases(); err != nil || len(leases["c"].addresses) > 0 {
		t.Errorf("found the addresses %v, %v; want none of c", leases, err)
	}
	if err := os.Remove(dir("a")); err != nil {
		t.Fatal(err)
	}
	if err := n.Prune(t.Context(), none); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(n.pruneDir()); err != nil || len(entries) != 1 {
		t.Errorf("found %v, %v; want the lock of the plugins alone", entries, err)
	}
}

// TestPruneIsAlone: nothing is collected of a container that is connected while that begins, and
// none is connected until all that collects has ended, also if an agent was killed.
func TestPruneIsAlone(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	order := filepath.Join(n.dir, "order")
	n.plugin("slow", `cat >`+n.dir+`/$CNI_COMMAND
if [ $CNI_COMMAND = VERSION ]; then echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}'; exit; fi
echo $CNI_COMMAND >>`+order+`
if [ $CNI_COMMAND = ADD ]; then sleep 0.3; echo added >>`+order+`; fi
if [ $CNI_COMMAND = GC ]; then (sleep 0.5; echo collected >>`+order+`) >/dev/null 2>&1 & exit; fi
echo '{"cniVersion":"1.1.0"}'`)
	n.conf("10-net.conflist", `{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"slow"}]}`)
	var all sync.WaitGroup
	all.Go(func() { n.attach("first", Wanted{}) })
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(order); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the plugin was not executed")
		}
	}
	if err := n.Prune(t.Context(), func() ([]string, error) {
		entries, err := os.ReadDir(filepath.Join(n.dir, "bundles"))
		var ids []string
		for _, e := range entries {
			ids = append(ids, e.Name())
		}
		return ids, err
	}); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	n.boot()
	n.attach("second", Wanted{})
	const want = "ADD\nadded\nGC\ncollected\nADD\nadded\n"
	if text, _ := os.ReadFile(order); string(text) != want {
		t.Errorf("found the order %q; want %q", text, want)
	}
	config, err := os.ReadFile(filepath.Join(n.dir, "GC"))
	if err != nil || !strings.Contains(string(config), `"first"`) {
		t.Errorf("found %s, %v; want first to be valid", config, err)
	}
	n.detach("first")
	n.detach("second")
}

// TestAttachIsBusy: a plugin that does not end is not waited for without end.
func TestAttachIsBusy(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.patience = 50 * time.Millisecond
	f := n.container("c")
	lock, err := durable.TryLock(f.File(lockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := n.Attach(t.Context(), "c", f, Wanted{}); !errors.Is(err, ErrBusy) {
		t.Errorf("found %v; want ErrBusy", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Attach(ctx, "c", f, Wanted{}); errors.Is(err, ErrBusy) ||
		!errors.Is(err, context.Canceled) {
		t.Errorf("found %v; want that of the context", err)
	}
}

// TestIptablesHangs: another process may hold the lock of iptables for good. A rule is added only if
// iptables has said that there is none.
func TestIptablesHangs(t *testing.T) {
	leaktest.Check(t)
	for name, tc := range map[string]struct{ script, want, calls string }{
		"hangs":   {"exec sleep 1000", "iptables: did not end within 50ms", "-C\n"},
		"killed":  {"kill -9 $$", "iptables: signal: killed", "-C\n"},
		"refuses": {"exit 2", "iptables: exit status 2", "-C\n"},
		"no rule": {"[ $4 != -C ] || exit 1", "", "-C\n-A\n-C\n-I\n-C\n-I\n"},
		"rule":    {"exit 0", "", "-C\n-C\n-C\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script := "#!/bin/sh\necho $4 >>" + dir + "/calls\n" + tc.script + "\n"
			err := os.WriteFile(filepath.Join(dir, "iptables"), []byte(script), 0o700)
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			b := &Bridge{RunDir: dir, patience: time.Minute}
			if name == "hangs" {
				b.patience = 50 * time.Millisecond
			}
			err = b.masquerade(t.Context(), iptables, []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16")})
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("found %v; want %q", err, tc.want)
			}
			calls, err := os.ReadFile(filepath.Join(dir, "calls"))
			if name == "hangs" && errors.Is(err, os.ErrNotExist) {
				return // it was ended before it came to that
			}
			if string(calls) != tc.calls {
				t.Errorf("found the calls %q; want %q", calls, tc.calls)
			}
		})
	}
}

// An address that is given up while they are read, and one that host-local has not given to a
// container yet, are no container's.
func TestLeasesThatChange(t *testing.T) {
	leaktest.Check(t)
	b := &Bridge{RunDir: t.TempDir()}
	dir := filepath.Join(b.addressDir(), b.Name())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"10.89.0.2": "c\neth0", "10.89.0.3": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// It is in the directory, and cannot be opened, as a file that is removed after it was listed.
	if err := os.Symlink("removed", filepath.Join(dir, "10.89.0.4")); err != nil {
		t.Fatal(err)
	}
	leases, err := b.leases()
	want := map[string]lease{"c": {"eth0", []netip.Addr{netip.MustParseAddr("10.89.0.2")}}}
	if err != nil || !reflect.DeepEqual(leases, want) {
		t.Errorf("found %v, %v; want %v", leases, err, want)
	}
}

// A container whose record cannot be read gives up its ports, too.
func TestDetachOfAnUnreadableRecord(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	dir := t.TempDir()
	n := New(&Networks{
		Namespaces: Namespaces{Dir: filepath.Join(dir, "netns")}, ConfDir: dir,
		Log: slog.New(slog.DiscardHandler),
	})
	ports := Wanted{
		Name: "default/web", Ports: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
	}
	first, second := looseFiles(t.TempDir()), looseFiles(t.TempDir())
	if err := n.AttachToNode(t.Context(), "first", first, ports); err != nil {
		t.Fatal(err)
	}
	if err := n.AttachToNode(t.Context(), "second", second, ports); err == nil {
		t.Fatal("two containers have one port, or this test finds nothing at all")
	}
	if err := first.Replace(recordFile, []byte("{")); err != nil {
		t.Fatal(err)
	}
	if err := n.Detach(t.Context(), "first", first); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.File(recordFile)); err == nil {
		t.Error("found the record left")
	}
	if err := n.AttachToNode(t.Context(), "second", second, ports); err != nil {
		t.Errorf("the port of a container that is disconnected: found %v", err)
	}
}

// Without plugins containers have loopback alone, and ports are refused with what to install.
func TestWithoutPlugins(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.BinDirs = n.BinDirs[:1]
	if got := n.attach("c", Wanted{}); len(got) > 0 {
		t.Errorf("found the addresses %v; want none", got)
	}
	_, err := n.Attach(t.Context(), "c", n.container("c"),
		Wanted{Ports: []PortMapping{{HostPort: 80, ContainerPort: 80, Protocol: "tcp"}}})
	if err == nil || !strings.Contains(err.Error(), "spec.ports") || !strings.Contains(err.Error(),
		`found no plugin "bridge"`) {
		t.Errorf("found %v; want the port and the plugin that is missing", err)
	}
	n.detach("c")
}

// Subnets of the bridge are chosen so that they collide with no route of the node.
func TestSubnets(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	prefix := netip.MustParsePrefix
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	ip("link", "add", "vpn0", "type", "bridge")
	defer ip("link", "del", "vpn0")
	ip("addr", "add", "10.80.0.1/12", "dev", "vpn0")
	ip("link", "set", "vpn0", "up")
	got, err := n.Bridge.subnets()
	if err != nil || len(got) != 2 || got[0] != prefix("172.29.0.0/16") || got[1] != localSubnet() {
		t.Errorf("found %v, %v; want the first of %v without a route, and %v", got, err, defaultSubnets(),
			localSubnet())
	}
	n.Bridge.Subnets = []netip.Prefix{prefix("10.89.0.0/16")}
	if _, err := n.Bridge.subnets(); err == nil || !strings.Contains(err.Error(),
		"overlaps the route to 10.80.0.0/12 by vpn0") {
		t.Errorf("found %v; want the route that overlaps", err)
	}
	for _, bad := range [][]string{
		{"10.89.0.1/16"},
		{"10.0.0.0/31"},
		{"10.0.0.0/16", "10.1.0.0/16"},
		{"0.0.0.0/0"},
	} {
		var subnets []netip.Prefix
		for _, s := range bad {
			subnets = append(subnets, prefix(s))
		}
		if CheckSubnets(subnets) == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

// A record of a newer agent is not guessed at.
func TestRecordOfANewerVersion(t *testing.T) {
	leaktest.Check(t)
	f := looseFiles(t.TempDir())
	text, err := json.Marshal(record{Version: recordVersionSeveral + 1})
	if err == nil {
		err = f.Replace(recordFile, text)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Addresses(f); err == nil || !strings.Contains(err.Error(),
		"this agent knows up to 2") {
		t.Errorf("found %v; want a refusal", err)
	}
}

// The configuration of one plugin is a network, too.
func TestConfigurationOfOnePlugin(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.conf("10-net.conf",
		fmt.Sprintf(
			`{"cniVersion":"0.4.0","name":"net","type":"ptp","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.97.0.0/24"}]]}}`,
			n.Bridge.addressDir()))
	got := n.attach("c", Wanted{})
	if !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.97.0.2")}) {
		t.Errorf("found the addresses %v; want 10.97.0.2", got)
	}
	n.detach("c")
	n.conf("10-net.conf", `{"cniVersion":"0.4.0","name":"net"`)
	if _, err := n.Attach(t.Context(), "c", n.container("c"), Wanted{}); err == nil ||
		!strings.Contains(err.Error(), "10-net.conf") {
		t.Errorf("found %v; want the file that cannot be read", err)
	}
	n.detach("c")
}

// Two containers have a port only if no packet can be for both.
func TestPortsCollide(t *testing.T) {
	leaktest.Check(t)
	port := func(ip, protocol string, n int32) PortMapping {
		return PortMapping{HostPort: n, ContainerPort: 80, Protocol: protocol, HostIP: ip}
	}
	for _, tc := range []struct {
		a, b PortMapping
		want bool
	}{
		{port("", "tcp", 80), port("", "tcp", 80), true},
		{port("", "tcp", 80), port("", "udp", 80), false},
		{port("", "tcp", 80), port("", "tcp", 81), false},
		{port("127.0.0.1", "tcp", 80), port("", "tcp", 80), true},
		{port("127.0.0.1", "tcp", 80), port("0.0.0.0", "tcp", 80), true},
		{port("127.0.0.1", "tcp", 80), port("::ffff:127.0.0.1", "tcp", 80), true},
		{port("127.0.0.1", "tcp", 80), port("192.0.2.1", "tcp", 80), false},
	} {
		var table portTable
		table.recovered("a", "default/a", []PortMapping{tc.a})
		for range 2 {
			if err := table.reserve("b", "default/b", []PortMapping{tc.b}); (err != nil) != tc.want {
				t.Errorf("%v beside %v: found %v; want a collision: %v", tc.b, tc.a, err, tc.want)
			}
			if err := table.reserve("a", "default/a", []PortMapping{tc.a}); err != nil && tc.want {
				t.Errorf("%v is refused to the container that has it: %v", tc.a, err)
			}
		}
		table.release("a")
		if err := table.reserve("b", "default/b", []PortMapping{tc.b}); err != nil {
			t.Errorf("%v after it was given up: found %v", tc.b, err)
		}
	}
}

// A port that a process of the node has is refused by the name of the process.
func TestPortOfAProcess(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	for _, network := range []string{"tcp", "udp"} {
		var address net.Addr
		if network == "tcp" {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			address = l.Addr()
		} else {
			l, err := net.ListenPacket("udp6", "[::1]:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			address = l.LocalAddr()
		}
		_, text, _ := net.SplitHostPort(address.String())
		number, _ := strconv.Atoi(text)
		p := PortMapping{HostPort: int32(number), ContainerPort: 1, Protocol: network}
		want := fmt.Sprintf("(pid %d)", os.Getpid())
		if err := checkFree([]PortMapping{p}, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %v; want %q", network, err, want)
		}
		p.HostIP = "192.0.2.99"
		err := checkFree([]PortMapping{p}, false)
		if err == nil || !strings.Contains(err.Error(), "allowed: an address of this node") {
			t.Errorf("%s: found %v; want that the node does not have the address", network, err)
		}
	}
}

// A container with an address of one family and a port of the node keeps its connection: it is
// found to be as it was.
func TestPortOfOneFamily(t *testing.T) {
	leaktest.Check(t)
	for name, subnet := range map[string]string{"IPv4": "10.232.0.0/24", "IPv6": "fd00:232::/64"} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.conf("10-net.conflist", fmt.Sprintf(`{"cniVersion":"1.0.0","name":"net","plugins":[
{"type":"bridge","bridge":"one0","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]]}},
{"type":"portmap","capabilities":{"portMappings":true}}]}`, t.TempDir(), subnet))
			t.Cleanup(func() {
				if out, err := exec.Command("ip", "link", "del", "one0").CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
			want := Wanted{Ports: []PortMapping{{HostPort: 8082, ContainerPort: 80, Protocol: "tcp"}}}
			first := n.attach("c", want)
			if again := n.attach("c", want); !slices.Equal(again, first) {
				t.Errorf("found the addresses %v at a second look; want %v", again, first)
			}
			n.detach("c")
		})
	}
}
