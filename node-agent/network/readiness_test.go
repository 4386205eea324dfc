// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
)

// unreadyPlugin fails STATUS and ADD as long as there is a file. It notes its commands.
const unreadyPlugin = `echo $CNI_COMMAND >> DIR/commands
if [ $CNI_COMMAND = VERSION ]; then echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}'; exit; fi
if [ -e DIR/unready -a $CNI_COMMAND != DEL ]; then echo '{"cniVersion":"1.1.0","code":50,"msg":"no route to the controller"}'; exit 1; fi
if [ $CNI_COMMAND = ADD ]; then echo '{"cniVersion":"1.1.0","interfaces":[],"ips":[]}'; fi
`

// unready returns networks whose plugin is not ready.
func unready(t *testing.T) (n *Networks, dir string) {
	t.Helper()
	dir = t.TempDir()
	n = New(&Networks{
		Namespaces: Namespaces{Dir: filepath.Join(dir, "netns")},
		BinDirs:    []string{filepath.Join(dir, "bin")}, ConfDir: filepath.Join(dir, "conf"),
		Log: slog.New(slog.DiscardHandler),
	})
	for _, d := range []string{"bin", "conf"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "unready"), "")
	write(t, filepath.Join(dir, "bin/made-up"), "#!/bin/sh\n"+
		strings.ReplaceAll(unreadyPlugin, "DIR", dir))
	conf(t, dir, "10-made-up", "1.1.0", "front", "made-up")
	return n, dir
}

// conf writes a configuration list with one plugin.
func conf(t *testing.T, dir, file, version, network, plugin string) {
	t.Helper()
	write(t, filepath.Join(dir, "conf", file+".conflist"), fmt.Sprintf(
		`{"cniVersion":%q,"name":%q,"plugins":[{"type":%q}]}`, version, network, plugin))
}

// becomeReady has the plugin of unready succeed from now on.
func becomeReady(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "unready")); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}

// TestReadiness: what a plugin says of itself is known, and that it has recovered, and that files of
// the node's configuration have changed.
func TestReadiness(t *testing.T) {
	leaktest.Check(t)
	n, dir := unready(t)
	n.every = 10 * time.Millisecond
	if _, known := n.Readiness(); known {
		t.Error("it is known before the first look")
	}
	ctx, cancel := context.WithCancel(t.Context())
	heard, ended := make(chan Readiness, 100), make(chan struct{})
	go func() {
		defer close(ended)
		n.FollowReadiness(ctx, func(r Readiness) { heard <- r })
	}()
	next := func() Readiness {
		t.Helper()
		select {
		case r := <-heard:
			return r
		case <-time.After(3 * time.Minute):
			t.Fatal("never came")
			return Readiness{}
		}
	}
	const why = "network front: the network is not ready: made-up: no route to the controller"
	if r := next(); !errors.Is(r.Err, ErrNotReady) || !strings.HasPrefix(r.Err.Error(), why) {
		t.Errorf("found %+v; want %s", r, why)
	}
	becomeReady(t, dir)
	if r := next(); r.Err != nil || r.Network != "network front" {
		t.Errorf("found %+v; want a network that is ready", r)
	}
	// A file that comes before it by name, of a plugin that is not there.
	conf(t, dir, "00-back", "1.0.0", "back", "none")
	if r := next(); r.Err == nil || errors.Is(r.Err, ErrNotReady) ||
		!strings.Contains(r.Err.Error(), `network back: found no plugin "none"`) {
		t.Errorf("found %+v; want the missing plugin", r)
	}
	for _, file := range []string{"00-back.conflist", "10-made-up.conflist"} {
		if err := os.Remove(filepath.Join(dir, "conf", file)); err != nil {
			t.Fatal(err)
		}
	}
	for r := next(); !strings.HasPrefix(r.Network, "containers have loopback alone: "); r = next() {
		if r.Err == nil && r.Network != "network front" {
			t.Errorf("found %+v", r)
		}
	}
	cancel()
	<-ended
	if r, known := n.Readiness(); !known || r.Err != nil {
		t.Errorf("found %+v, %t", r, known)
	}
}

// TestOlderPluginsAreReady: a plugin before version 1.1.0 is not asked for its status.
func TestOlderPluginsAreReady(t *testing.T) {
	leaktest.Check(t)
	n, dir := unready(t)
	conf(t, dir, "10-made-up", "1.0.0", "front", "made-up")
	if r, _ := n.look(t.Context()); r.Err != nil || r.Network != "network front" {
		t.Errorf("found %+v; want it ready", r)
	}
	if commands, err := os.ReadFile(filepath.Join(dir, "commands")); err == nil {
		t.Errorf("found %q; want that it is not executed", commands)
	}
}

// TestHangingPluginIsUnready: a plugin that does not answer STATUS in time is not ready, and the
// error has the time.
func TestHangingPluginIsUnready(t *testing.T) {
	leaktest.Check(t)
	n, dir := unready(t)
	n.asking = 50 * time.Millisecond
	write(t, filepath.Join(dir, "bin/made-up"), "#!/bin/sh\nexec sleep 3600\n")
	const why = "network front: the network is not ready: made-up: did not end within 50ms: "
	r, _ := n.look(t.Context())
	if !errors.Is(r.Err, ErrNotReady) || !strings.HasPrefix(r.Err.Error(), why) {
		t.Errorf("found %v; want %s", r.Err, why)
	}
}

// TestRecoveryIsReported: a container that is connected as soon as the network is ready takes the
// news from nobody who follows the Readiness.
func TestRecoveryIsReported(t *testing.T) {
	leaktest.Check(t)
	n, dir := unready(t)
	op := &operation{Networks: n, ctx: t.Context(), id: "c"}
	n.look(t.Context())
	if err := op.refuseUnready(Wanted{}); !errors.Is(err, ErrNotReady) {
		t.Errorf("found %v; want that it is not ready", err)
	}
	becomeReady(t, dir)
	if err := op.refuseUnready(Wanted{}); err != nil {
		t.Errorf("once it is ready: %v", err)
	}
	if r, news := n.look(t.Context()); r.Err != nil || !news {
		t.Errorf("found %+v, %t; want the news that it is ready", r, news)
	}
}

// TestMissingPluginIsNotUnready: a container on a network whose plugin is missing is refused, and
// does not wait as for a plugin that will be ready.
func TestMissingPluginIsNotUnready(t *testing.T) {
	leaktest.Check(t)
	n, dir := unready(t)
	conf(t, dir, "20-back", "1.1.0", "back", "none")
	op := &operation{Networks: n, ctx: t.Context(), id: "c"}
	failed := errors.New("failed")
	want := Wanted{Networks: []Attachment{{Network: "back"}}}
	if err := op.explain(want, failed); !errors.Is(err, failed) || errors.Is(err, ErrNotReady) {
		t.Errorf("found %v; want the error alone", err)
	}
	want.Networks = append(want.Networks, Attachment{Network: "front"})
	if err := op.explain(want, failed); !errors.Is(err, failed) || !errors.Is(err, ErrNotReady) {
		t.Errorf("found %v; want also that front is not ready", err)
	}
}

// TestUnreadyNetworkRefusesContainers: a container is not connected to a network that is not ready,
// and is once it is; the first time its plugin is asked after ADD has failed, and then in place of
// ADD.
func TestUnreadyNetworkRefusesContainers(t *testing.T) {
	leaktest.Check(t)
	old := newNode(t)
	n, dir := unready(t)
	attach := func() error {
		_, err := n.Attach(t.Context(), "c", old.container("c"), Wanted{Name: "c"})
		return err
	}
	if err := attach(); !errors.Is(err, ErrNotReady) {
		t.Errorf("found %v; want that it is not ready", err)
	}
	if commands := read(t, filepath.Join(dir, "commands")); !strings.Contains(commands, "ADD") {
		t.Errorf("found the commands %q; want ADD, since nobody knew", commands)
	}
	n.look(t.Context())
	write(t, filepath.Join(dir, "commands"), "")
	if err := attach(); !errors.Is(err, ErrNotReady) {
		t.Errorf("found %v; want that it is not ready", err)
	}
	if commands := read(t, filepath.Join(dir, "commands")); strings.Contains(commands, "ADD") {
		t.Errorf("found the commands %q; want no ADD", commands)
	}
	becomeReady(t, dir)
	if err := attach(); err != nil {
		t.Errorf("once it is ready: %v", err)
	}
	if err := n.Detach(t.Context(), "c", old.container("c")); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
