// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/ociruntime/resctrl"
)

func (r *Runtime) resctrlFS() (*resctrl.FS, error) {
	if r.resctrl != nil {
		return r.resctrl, nil
	}
	return resctrl.Find()
}

// createResctrl creates the groups of linux.intelRdt. As with cgroups, the record is written
// before.
func (c *newContainer) createResctrl() error {
	rdt := c.spec.Linux.IntelRdt
	if rdt == nil {
		return nil
	}
	fs, err := c.r.resctrlFS()
	if err != nil {
		return err
	}
	c.rec.Resctrl = fs.Group(rdt, c.id)
	if err := c.r.save(c.rec); err != nil {
		return err
	}
	c.onFailure(func() error { return c.r.removeResctrl(c.rec) })
	return fs.Create(c.rec.Resctrl, rdt)
}

// joinResctrl puts a process that has one thread and is not its program yet into the container's
// groups.
func (r *Runtime) joinResctrl(rec *record, pid int) error {
	if rec.Resctrl == nil {
		return nil
	}
	fs, err := r.resctrlFS()
	if err != nil {
		return err
	}
	return fs.Join(rec.Resctrl, pid)
}

func (r *Runtime) removeResctrl(rec *record) error {
	if rec.Resctrl == nil {
		return nil
	}
	fs, err := r.resctrlFS()
	if err != nil {
		return nil //nolint:nilerr // it has been unmounted, and its groups went with it
	}
	return fs.Remove(rec.Resctrl)
}

// UpdateIntelRdt writes the schemas of a container's resctrl group: `update --l3-cache-schema` and
// `--mem-bw-schema`. An empty one stays as it is. A container without a group gets one of its own.
func (r *Runtime) UpdateIntelRdt(id, l3CacheSchema, memBwSchema string) error {
	rec, unlock, err := r.loadLocked(id)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = r.updateIntelRdt(rec, l3CacheSchema, memBwSchema)
	return err
}

// updateIntelRdt does the work of UpdateIntelRdt for a record. undo restores the old values; after
// an error they are restored already.
func (r *Runtime) updateIntelRdt(rec *record, l3CacheSchema, memBwSchema string) (undo func() error,
	err error,
) {
	fs, err := r.resctrlFS()
	if err != nil {
		return nil, err
	}
	if rec.Resctrl != nil {
		return fs.Update(rec.Resctrl, l3CacheSchema, memBwSchema)
	}
	rdt := &specs.LinuxIntelRdt{L3CacheSchema: l3CacheSchema, MemBwSchema: memBwSchema}
	rec.Resctrl = fs.Group(rdt, rec.ID)
	if err := r.save(rec); err != nil {
		return nil, err
	}
	undo = func() error {
		err := fs.Remove(rec.Resctrl) // its tasks are the root group's again
		rec.Resctrl = nil
		return errors.Join(err, r.save(rec))
	}
	err = fs.Create(rec.Resctrl, rdt)
	if err == nil {
		err = joinAll(fs, rec)
	}
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// joinAll moves every thread of a running container. A process that is forked at the same time is
// in its parent's group: all are moved once a round finds no thread that has not been.
func joinAll(fs *resctrl.FS, rec *record) error {
	g, err := rec.cgroup()
	if err != nil {
		return err
	}
	for moved := map[string]bool{}; ; {
		pids, err := g.Pids()
		if err != nil {
			return err
		}
		before := len(moved)
		for _, pid := range pids {
			threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			if err != nil {
				continue // it has ended
			}
			for _, thread := range threads {
				tid, err := strconv.Atoi(thread.Name())
				if err != nil || moved[thread.Name()] {
					continue
				}
				moved[thread.Name()] = true
				if err := fs.Join(rec.Resctrl, tid); err != nil && threadExists(pid, tid) {
					return err
				}
			}
		}
		if len(moved) == before {
			return nil
		}
	}
}

func threadExists(pid, tid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", pid, tid))
	return err == nil
}

// IntelRdtStats returns the figures of a container's resctrl group, for `events`; nil without a
// group.
func (r *Runtime) IntelRdtStats(id string) (*resctrl.Stats, error) {
	rec, err := r.load(id)
	if err != nil || rec.Resctrl == nil {
		return nil, err
	}
	fs, err := r.resctrlFS()
	if err != nil {
		return nil, err
	}
	return fs.Stats(rec.Resctrl)
}
