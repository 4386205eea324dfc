// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/containerid"
)

// State holds the spec's state of a container (runtime.md, State) and what clients of runc read
// besides.
type State struct {
	OCIVersion  string               `json:"ociVersion"`
	ID          string               `json:"id"`
	PID         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
	// Cgroups are the container's cgroup directories by controller, "" for the unified hierarchy.
	Cgroups map[string]string `json:"-"`
	// OOMKills is the number of its processes that the out-of-memory killer has ended so far.
	OOMKills uint64 `json:"-"`
}

// State returns the state of a container, or ErrNotExist.
func (r *Runtime) State(_ context.Context, id string) (*State, error) {
	rec, err := r.load(id)
	if err != nil {
		return nil, err
	}
	s := r.state(rec)
	if g, err := rec.cgroup(); err == nil {
		s.OOMKills = g.OOMKills()
	}
	return s, nil
}

// List returns all containers below the root, by id. An unreadable record causes a warning.
func (r *Runtime) List(context.Context) ([]*State, error) {
	entries, err := os.ReadDir(r.root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []*State
	for _, e := range entries {
		if !e.IsDir() || containerid.Check(e.Name()) != nil {
			continue
		}
		rec, err := r.load(e.Name())
		if errors.Is(err, ErrNotExist) {
			continue // being made or removed, or no container at all
		}
		if err != nil {
			r.warn(err.Error())
			continue
		}
		s := r.state(rec)
		s.Owner = ownerName(rec.Owner)
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

// status works out where a container stands.
func (r *Runtime) status(rec *record) specs.ContainerState {
	switch {
	case rec.PID == 0:
		return specs.StateCreating
	case !rec.alive():
		return specs.StateStopped
	}
	// As in runc, paused goes before created: Start would wait for a process that cannot move.
	if g, err := rec.cgroup(); err == nil && g.Frozen() {
		return StatusPaused
	}
	// The first process waits for Start while it reads the fifo. One that is left without a reader
	// is of a Start that was killed after it had let the process go.
	fifo, err := unix.Open(filepath.Join(r.dir(rec.ID), startFIFO), unix.O_WRONLY|unix.O_CLOEXEC|
		unix.O_NONBLOCK, 0)
	if err == nil {
		unix.Close(fifo)
		return specs.StateCreated
	}
	if _, err := os.Lstat(filepath.Join(r.dir(rec.ID), newFIFO)); err == nil {
		return specs.StateCreating
	}
	// One that was killed before Start loses its descriptors before it is a zombie.
	if _, err := os.Lstat(filepath.Join(r.dir(rec.ID), startFIFO)); err == nil && rec.ending() {
		return specs.StateStopped
	}
	return specs.StateRunning
}

func (r *Runtime) state(rec *record) *State {
	s := &State{
		OCIVersion: rec.OCIVersion, ID: rec.ID, PID: rec.PID, Status: r.status(rec), Bundle: rec.Bundle,
		Rootfs:  rec.Rootfs,
		Created: rec.Created, Annotations: rec.Annotations, Cgroups: rec.Cgroups,
	}
	if s.Status == specs.StateStopped || s.Status == specs.StateCreating {
		s.PID = 0
	}
	return s
}

func ownerName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "#" + strconv.Itoa(uid)
}

// ociState returns the state (runtime.md, State) for hooks and seccomp agents.
func (rec *record) ociState(status specs.ContainerState) specs.State {
	s := specs.State{
		Version: rec.OCIVersion, ID: rec.ID, Status: status, Bundle: rec.Bundle,
		Annotations: rec.Annotations,
	}
	if status != specs.StateStopped { // whose pid may be another's by now
		s.Pid = rec.PID
	}
	return s
}
