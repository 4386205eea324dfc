// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
)

// sideID is the id of the container that joins another one.
const sideID = "default_side_1"

// webAndSide returns a container whose namespace can be joined once it is connected, and the files
// of another one.
func (n *node) webAndSide() (Neighbour, looseFiles) {
	n.t.Helper()
	web := Neighbour{ID: "default_web_1", Name: "default/web", Files: n.container("default_web_1")}
	return web, n.container(sideID)
}

// joinSide puts side into the namespace of another container, and returns its path.
func (n *node) joinSide(other Neighbour) string {
	n.t.Helper()
	path, err := n.Join(n.t.Context(), sideID, n.container(sideID), "default/side", other)
	if err != nil {
		n.t.Fatal(err)
	}
	return path
}

// A container is in the namespace of another one, which loses it only once the container has left.
// So it is after a kill of the agent. Nothing is left.
func TestJoin(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	web, side := n.webAndSide()
	if err := n.Connected(web); !errors.Is(err, ErrNotConnected) {
		t.Errorf("before the other one is connected: found %v; want ErrNotConnected", err)
	}
	addresses := n.attach(web.ID, Wanted{Name: web.Name})
	n.attach(sideID, Wanted{Name: "default/side"}) // which it loses by joining
	if path := n.joinSide(web); path != n.Namespaces.Path(web.ID) {
		t.Fatalf("found the namespace %s; want the namespace of web", path)
	}
	if got, err := Addresses(side); err != nil || !slices.Equal(got, addresses) {
		t.Errorf("found the addresses %v, %v; want %v of web", got, err, addresses)
	}
	if got := n.pinned(); !slices.Equal(got, []string{web.ID}) {
		t.Errorf("found the namespaces %q; want the namespace of web alone", got)
	}

	for range 2 { // with the agent that has connected them, and with the next one
		err := n.Detach(t.Context(), web.ID, web.Files)
		if !errors.Is(err, ErrJoined) || !strings.Contains(err.Error(), "default/side") {
			t.Errorf("web was to be removed: found %v; want the name of side", err)
		}
		if id, stays, err := n.Membership(side); id != web.ID || stays || err != nil {
			t.Errorf("found %s, %t, %v; want that side is to leave", id, stays, err)
		}
		if _, err := n.Attach(t.Context(), web.ID, web.Files, Wanted{Name: web.Name}); err != nil {
			t.Fatal(err)
		}
		if id, stays, err := n.Membership(side); id != web.ID || !stays || err != nil {
			t.Errorf("web stays: found %s, %t, %v", id, stays, err)
		}
		n.boot()
		n.Recover(sideID, side)
	}
	want := Wanted{Name: web.Name, Ports: []PortMapping{
		{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
	}}
	if _, err := n.Attach(t.Context(), web.ID, web.Files, want); !errors.Is(err, ErrJoined) {
		t.Errorf("web was to have another network: found %v; want ErrJoined", err)
	}
	if _, err := n.Join(t.Context(), "default_late_1", n.container("default_late_1"), "default/late",
		web); !errors.Is(err, ErrNotConnected) {
		t.Errorf("joined a network that is about to go: found %v", err)
	}

	if name, err := n.Leave(sideID, side); err != nil || name != web.Name {
		t.Errorf("found %q, %v; want the name of web", name, err)
	}
	n.attach(web.ID, want)
	n.joinSide(web)
	n.detach(sideID)
	n.detach(web.ID)
}

// After a boot no process is in a namespace, whatever the records say, and a container has others.
func TestJoinOfAnotherBoot(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	web, side := n.webAndSide()
	n.attach(web.ID, Wanted{Name: web.Name})
	n.joinSide(web)
	if err := unix.Unmount(n.Namespaces.Path(web.ID), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	n.boot()
	n.Recover(sideID, side)
	if err := n.Connected(web); !errors.Is(err, ErrNotConnected) {
		t.Errorf("found %v; want that web is not connected yet", err)
	}
	n.attach(web.ID, Wanted{Name: web.Name})
	n.joinSide(web)
	n.detach(sideID)
	n.detach(web.ID)
}

// A container that is in another one's namespace gets one of its own, or the node's.
func TestJoinNoMore(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	web, side := n.webAndSide()
	n.attach(web.ID, Wanted{Name: web.Name, None: true})
	for range 2 {
		n.joinSide(web)
		n.attach(sideID, Wanted{Name: "default/side"})
	}
	if got := n.pinned(); len(got) != 2 {
		t.Errorf("found the namespaces %q; want one each", got)
	}
	n.joinSide(web)
	if err := n.AttachToNode(t.Context(), sideID, side, Wanted{Name: "default/side"}); err != nil {
		t.Fatal(err)
	}
	n.detach(web.ID)
	n.detach(sideID)
}

// A container whose record is lost while it is in the namespace of another one leaves that, too: the
// other one can be removed without a new agent.
func TestLeaveWithoutARecord(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	web, side := n.webAndSide()
	for name, lose := range map[string]func() error{
		"gone":       func() error { return os.Remove(side.File(recordFile)) },
		"unreadable": func() error { return os.WriteFile(side.File(recordFile), []byte("{"), 0o600) },
	} {
		n.attach(web.ID, Wanted{Name: web.Name, None: true})
		n.joinSide(web)
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Leave(sideID, side); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		n.detach(sideID)
		if err := n.Detach(t.Context(), web.ID, web.Files); err != nil {
			t.Errorf("%s: found %v; want that web has no members", name, err)
		}
	}
}
