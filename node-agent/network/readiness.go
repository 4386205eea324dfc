// SPDX-License-Identifier: Apache-2.0

package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
)

// ErrNotReady is for a container that asks for a network of which a plugin says that it cannot
// connect containers now (CNI 1.1, STATUS).
var ErrNotReady = errors.New("the network is not ready")

// Times between looks at the node's network for containers: at its files, and at its plugins if
// nothing says that they have changed. While it is not ready, its plugins are asked at each look.
const (
	lookEvery = 5 * time.Second
	askEvery  = time.Minute
)

// Readiness is the state of the node's network for containers.
type Readiness struct {
	// Network describes it, for people.
	Network string
	// Err is nil if containers can be connected to it, or have loopback alone.
	Err error
}

// readiness keeps the last known Readiness.
type readiness struct {
	mu    sync.Mutex
	known bool
	last  Readiness
}

// Readiness returns the last known state of the node's network, or false before the first look.
func (n *Networks) Readiness() (Readiness, bool) {
	n.ready.mu.Lock()
	defer n.ready.mu.Unlock()
	return n.ready.last, n.ready.known
}

// FollowReadiness keeps the Readiness until ctx ends, and calls changed with each other one.
func (n *Networks) FollowReadiness(ctx context.Context, changed func(Readiness)) {
	var asked time.Time
	var was string
	for {
		is := n.filesState()
		last, known := n.Readiness()
		if !known || is != was || last.Err != nil || time.Since(asked) >= askEvery {
			was, asked = is, time.Now()
			if now, news := n.look(ctx); news && ctx.Err() == nil {
				changed(now)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(cmp.Or(n.every, lookEvery)):
		}
	}
}

// look asks the plugins, and reports whether the Readiness is another than before.
func (n *Networks) look(ctx context.Context) (Readiness, bool) {
	now := n.ask(ctx)
	n.ready.mu.Lock()
	defer n.ready.mu.Unlock()
	if ctx.Err() != nil {
		return n.ready.last, false
	}
	was, known := n.ready.last, n.ready.known
	n.ready.last, n.ready.known = now, true
	return now, !known || was.Network != now.Network || text(was.Err) != text(now.Err)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// ask finds out the Readiness. It creates nothing: the bridge, which Berth configures itself, is
// ready if its plugins are there.
func (n *Networks) ask(ctx context.Context) Readiness {
	file, err := n.file()
	if err != nil {
		return Readiness{Err: err}
	}
	if file == "" || len(n.BinDirs) == 0 {
		if missing := n.missingBridge(); missing != nil {
			return Readiness{Network: fmt.Sprintf("containers have loopback alone: %v", missing)}
		}
		return Readiness{Network: "network " + n.Bridge.Name()}
	}
	list, err := load(file)
	if err != nil {
		return Readiness{Err: err}
	}
	return Readiness{Network: "network " + list.Name, Err: n.status(ctx, list)}
}

// status returns ErrNotReady if a plugin of a list says that it cannot connect containers, or does
// not answer in time, and another error if one is missing. Plugins of a list before version 1.1.0
// are not asked, and count as ready.
func (n *Networks) status(ctx context.Context, list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		if _, err := (&plugins{}).FindInPath(p.Network.Type, n.BinDirs); err != nil {
			return fmt.Errorf("network %s: %w", list.Name, err)
		}
	}
	asking := &plugins{patience: cmp.Or(n.asking, statusPatience)}
	if err := libcni.NewCNIConfig(n.BinDirs, asking).GetStatusNetworkList(ctx, list); err != nil {
		return fmt.Errorf("network %s: %w: %w", list.Name, ErrNotReady, err)
	}
	return nil
}

// filesState returns a text that changes with the files that make the node's network.
func (n *Networks) filesState() string {
	var out strings.Builder
	files, err := n.files()
	fmt.Fprintln(&out, err)
	for _, path := range slices.Concat(files, n.BinDirs) {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintln(&out, path, info.Size(), info.ModTime().UnixNano())
		}
	}
	return out.String()
}

// refuseUnready returns an error if the node's network was not ready at the last look and is not
// now, for a container that asks for it. Its plugins are not executed then, and the container is
// not at fault. The Readiness stays that of the last look: FollowReadiness reports what has changed
// since.
func (op *operation) refuseUnready(want Wanted) error {
	last, _ := op.Readiness()
	if !errors.Is(last.Err, ErrNotReady) || want.None ||
		len(want.Networks) > 0 && !slices.ContainsFunc(want.Networks, func(a Attachment) bool {
			return a.Network == ""
		}) {
		return nil
	}
	if now := op.ask(op.ctx); errors.Is(now.Err, ErrNotReady) {
		return now.Err
	}
	return nil
}

// explain returns the error of a container that could not be connected, with ErrNotReady if a
// plugin of one of its networks says so.
func (op *operation) explain(want Wanted, err error) error {
	asked := want.Networks
	if len(asked) == 0 {
		asked = []Attachment{{}}
	}
	for _, a := range asked {
		if op.Bridge != nil && a.Network == op.Bridge.Name() {
			continue
		}
		list, errList := op.named(op.ctx, a.Network)
		if errList != nil || op.Bridge != nil && list.Name == op.Bridge.Name() {
			continue
		}
		if unready := op.status(op.ctx, list); errors.Is(unready, ErrNotReady) {
			return errors.Join(err, unready)
		}
	}
	return err
}
