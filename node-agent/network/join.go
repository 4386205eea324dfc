// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Neighbour is a container whose network namespace another one joins.
type Neighbour struct {
	// ID of the container, and Name of its Container, for people.
	ID, Name string
	// Files of the container.
	Files Files
}

// ErrNotConnected is for a neighbour without a network namespace to be joined: it is not connected
// yet, or is being disconnected.
var ErrNotConnected = errors.New("it is not connected to its network")

// ErrJoined is for a container that cannot lose its namespace, since others are in it.
var ErrJoined = errors.New("its network is also that of")

// join is the membership of a container in the namespace of another one.
type join struct {
	// ID of the other container, and Name of its Container.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Namespace is the inode of its network namespace. The kernel gives it to no other namespace for
	// as long as a process is in this one.
	Namespace uint64 `json:"namespace"`
	// Addresses are the other container's.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// joinTable has the containers that are in the namespace of another one.
type joinTable struct {
	mu sync.Mutex
	// members are the names of those that are in a container's namespace, by its id and theirs.
	members map[string]map[string]string
	// leaving are the containers that are to lose their namespace once nobody else is in it.
	leaving map[string]bool
}

// add notes a member. t.mu is held.
func (t *joinTable) add(owner, id, name string) {
	t.remove(id)
	if t.members == nil {
		t.members = map[string]map[string]string{}
	}
	if t.members[owner] == nil {
		t.members[owner] = map[string]string{}
	}
	t.members[owner][id] = name
}

// remove forgets a member. t.mu is held.
func (t *joinTable) remove(id string) {
	for owner, members := range t.members {
		delete(members, id)
		if len(members) == 0 {
			delete(t.members, owner)
		}
	}
}

// leave has nobody join a container any more, and returns ErrJoined while somebody is in its
// namespace.
func (t *joinTable) leave(owner string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leaving == nil {
		t.leaving = map[string]bool{}
	}
	t.leaving[owner] = true
	if members := t.members[owner]; len(members) > 0 {
		return fmt.Errorf("%w %s, which has to end first", ErrJoined,
			strings.Join(slices.Sorted(maps.Values(members)), ", "))
	}
	return nil
}

// stay takes leave back.
func (t *joinTable) stay(owner string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.leaving, owner)
}

// Connected returns nil if a container's namespace can be joined, else ErrNotConnected or why it is
// not known.
func (n *Networks) Connected(other Neighbour) error {
	n.joins.mu.Lock()
	defer n.joins.mu.Unlock()
	_, err := n.joinable(other)
	return err
}

// joinable returns the membership that a container would have. n.joins.mu is held.
func (n *Networks) joinable(other Neighbour) (*join, error) {
	if n.joins.leaving[other.ID] {
		return nil, ErrNotConnected
	}
	inode, err := n.Namespaces.inode(other.ID)
	if err != nil {
		return nil, err
	}
	r, err := readRecord(other.Files.File(recordFile))
	if err != nil {
		return nil, err
	}
	// Without a record, the namespace has loopback alone, and that is all it is to have.
	if inode == 0 || r != nil && (!r.Done || len(r.List) == 0) {
		return nil, ErrNotConnected
	}
	j := &join{ID: other.ID, Name: other.Name, Namespace: inode}
	j.Addresses, err = Addresses(other.Files)
	return j, err
}

// Join puts a container into the namespace of another one, and returns the path of that. It
// disconnects the container from a network of its own.
//
// The other one keeps its namespace until the container has left.
func (n *Networks) Join(ctx context.Context, id string, f Files, name string, other Neighbour,
) (string, error) {
	r, err := readRecord(f.File(recordFile))
	if err != nil {
		return "", err
	}
	if r == nil || r.Joined == nil {
		if err := n.Detach(ctx, id, f); err != nil {
			return "", err
		}
	}
	n.joins.mu.Lock()
	defer n.joins.mu.Unlock()
	j, err := n.joinable(other)
	if err != nil {
		return "", err
	}
	if err := (&record{Name: name, Joined: j}).write(f); err != nil {
		return "", err
	}
	n.joins.add(other.ID, id, name)
	return n.Namespaces.Path(other.ID), nil
}

// Membership returns the id of the container whose namespace a container has joined, and whether
// that still has the namespace and is to keep it; "" if it has joined none.
func (n *Networks) Membership(f Files) (id string, stays bool, err error) {
	r, err := readRecord(f.File(recordFile))
	if err != nil || r == nil || r.Joined == nil {
		return "", false, err
	}
	n.joins.mu.Lock()
	leaving := n.joins.leaving[r.Joined.ID]
	n.joins.mu.Unlock()
	inode, err := n.Namespaces.inode(r.Joined.ID)
	return r.Joined.ID, inode == r.Joined.Namespace && !leaving, err
}

// Leave ends the membership of a container whose processes have ended, and returns the name of the
// Container in whose namespace it was; "" if it was in none.
func (n *Networks) Leave(id string, f Files) (string, error) {
	r, err := readRecord(f.File(recordFile))
	name := ""
	if err == nil && r != nil && r.Joined != nil {
		if err := os.Remove(f.File(recordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		name = r.Joined.Name
	}
	// Also if the record is gone, or cannot be read, which Detach deals with.
	n.joins.mu.Lock()
	defer n.joins.mu.Unlock()
	n.joins.remove(id)
	return name, nil
}

// recoverJoin notes a membership of an earlier agent, unless the namespace went with a boot.
func (n *Networks) recoverJoin(id, name string, j *join) {
	inode, err := n.Namespaces.inode(j.ID)
	if err != nil {
		n.Log.Error("cannot look at the network namespace of a container", "id", j.ID, "error", err)
	}
	if err != nil || inode != j.Namespace {
		return
	}
	n.joins.mu.Lock()
	defer n.joins.mu.Unlock()
	n.joins.add(j.ID, id, name)
}

// inode returns the inode of a container's namespace, or 0 if none is pinned.
func (n Namespaces) inode(id string) (uint64, error) {
	if exists, err := n.Exists(id); !exists || err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Stat(n.Path(id), &st); err != nil {
		return 0, fmt.Errorf("network namespace: %w", &fs.PathError{
			Op: "stat", Path: n.Path(id), Err: err,
		})
	}
	return st.Ino, nil
}
