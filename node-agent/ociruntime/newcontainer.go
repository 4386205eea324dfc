// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/netdev"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
	"github.com/berth-run/berth/node-agent/ociruntime/seccomp"
)

// newContainer is a container on its way into being, by creation or by restoration: its document,
// its record and its cgroup.
type newContainer struct {
	*session
	id   string
	o    CreateOptions
	spec *specs.Spec
	// config is the document as it was read, with the mappings that it leaves out.
	config []byte
	rec    *record
	cgroup membership
	// devices are linux.netDevices once they have been moved.
	devices *netdev.Moved
}

func (r *Runtime) newContainer(id string, o CreateOptions) *newContainer {
	return &newContainer{session: r.newSession(), id: id, o: o}
}

// end ends the session. Network devices that were moved stay moved if there is no error.
func (c *newContainer) end(err error) {
	c.session.end(err)
	if err == nil && c.devices != nil {
		c.devices.Close()
	}
}

// draft is a document that is decoded and not checked yet.
type draft struct {
	*document.Document[specs.Spec]
	file string
	// mapped warns of the mappings that the document leaves out and that were filled in.
	mapped document.Faults
}

// read decodes the document and fills in the mappings that it leaves out.
func (c *newContainer) read() (*draft, error) {
	bundle, err := filepath.Abs(c.o.Bundle)
	if err != nil {
		return nil, fmt.Errorf("--bundle %s: %w", c.o.Bundle, err)
	}
	c.o.Bundle = bundle
	d := &draft{file: c.o.Config}
	if d.file == "" {
		d.file = "config.json"
	}
	if !filepath.IsAbs(d.file) {
		d.file = filepath.Join(bundle, d.file)
	}
	if c.config, err = ReadConfig(d.file); err != nil {
		return nil, err
	}
	d.Document = document.Decode(c.config)
	if d.Value != nil {
		d.mapped = MapCaller(d.Value)
	}
	return d, nil
}

// check validates the document.
func (c *newContainer) check(d *draft) error {
	spec, faults := validate.Document(d.Document, validate.Options{
		Bundle: c.o.Bundle, Systemd: c.r.manager == cgroup.Systemd, KnownSyscall: seccomp.KnownSyscall,
	})
	for _, w := range append(d.mapped, faults.Warnings()...) {
		// podman and docker write rprivate into every document.
		if w.Path != "linux.rootfsPropagation" {
			c.r.warn(w.Error())
		}
	}
	if err := faults.Err(); err != nil {
		if spec != nil {
			err = explainMemoryPolicyFault(spec.Linux, ExplainProcessFault(spec.Process, err))
		}
		return fmt.Errorf("%s: %w", d.file, err)
	}
	if spec.Linux == nil {
		return fmt.Errorf("%s: %w", d.file, plan.ErrNoLinux)
	}
	if len(d.mapped) > 0 {
		var err error
		if c.config, err = json.Marshal(spec); err != nil {
			return fmt.Errorf("%s: %w", d.file, err)
		}
	}
	c.spec = spec
	if c.o.PidfdSocket == "" {
		c.o.PidfdSocket = c.spec.Annotations["run.oci.pidfd_receiver"]
	}
	c.r.debugf("%s: read %d bytes, ociVersion %s", d.file, len(c.config), c.spec.Version)
	return checkUser(c.spec)
}

// reserve takes the id by creating its directory, which only one caller can, and begins the record.
func (c *newContainer) reserve() error {
	if err := c.r.makeRoot(); err != nil {
		return err
	}
	err := os.Mkdir(c.r.dir(c.id), 0o700)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("container %s: %w", c.id, ErrExist)
	}
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	c.onFailure(ignoring(func() error { return c.r.removeDir(c.id) }))
	root := c.spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(c.o.Bundle, root)
	}
	st, err := os.Stat(root)
	switch {
	case err != nil:
		return fmt.Errorf("root.path: %w", err)
	case !st.IsDir():
		return fmt.Errorf("root.path: found %s, which is not a directory", root)
	}
	c.rec = &record{
		OCIVersion: c.spec.Version, ID: c.id, Bundle: c.o.Bundle, Rootfs: filepath.Clean(root),
		Created: time.Now().UTC(), Boot: bootID(), Owner: os.Geteuid(),
		Annotations: c.spec.Annotations, Hooks: c.spec.Hooks, NoNewKeyring: c.o.NoNewKeyring,
		IgnoreMissingLSM: c.r.ignoreMissingLSM, NoProgram: len(c.spec.Process.Args) == 0,
	}
	for _, n := range c.spec.Linux.Namespaces {
		if n.Type == specs.PIDNamespace && n.Path == "" {
			c.rec.OwnPIDs = true
		}
	}
	return nil
}

// chooseCgroup determines the container's cgroup and writes the record, so that Delete finds all
// that a process that is killed from here on leaves.
func (c *newContainer) chooseCgroup() error {
	host, err := c.r.Host()
	if err != nil {
		return err
	}
	group, err := c.r.newCgroup(c.spec, c.id, host)
	if err != nil {
		return err
	}
	c.cgroup.group = group
	c.rec.Cgroups, c.rec.CgroupManager, c.rec.Unit = group.Paths(), c.r.manager, group.Unit()
	if c.rec.Resources, err = encodeLimits(c.spec.Linux.Resources); err != nil {
		return err
	}
	if err := c.r.save(c.rec); err != nil {
		return err
	}
	file := filepath.Join(c.r.dir(c.id), configFile)
	if err := durable.Create(file, c.config, durable.Options{}); err != nil {
		return fmt.Errorf("write the state of container %s: %w", c.id, err)
	}
	return nil
}

// createCgroup creates the cgroup and sets its limits.
func (c *newContainer) createCgroup() error {
	group := c.cgroup.group
	if err := c.createGroup(); err != nil {
		return err
	}
	if w := group.Rounded(c.spec.Linux.Resources); w != "" {
		c.r.warn(w)
	}
	c.rec.Cgroups = group.Paths() // empty if a plain user may not create any
	c.r.debugf("container %s: made its cgroups %v", c.id, c.rec.Cgroups)
	c.onFailure(func() error {
		if !c.rec.OwnPIDs {
			_ = group.Kill()
		}
		return group.Destroy()
	})
	return nil
}

// createGroup creates the cgroup in all hierarchies. systemd creates a scope only with a process in
// it, and the container's first process is created inside of its cgroup: until then a process that
// waits holds the scope.
func (c *newContainer) createGroup() error {
	group := c.cgroup.group
	if group.Unit() == nil {
		return group.Create()
	}
	holder, err := launch.Start(launch.Request{Plan: plan.Hold(), Reserved: 3})
	if err != nil {
		return fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	c.closeLater(closerFunc(holder.Abandon))
	return group.CreateUnit(holder.PID)
}

// recordProcess records the container's first process.
func (c *newContainer) recordProcess(pid int) error {
	c.rec.PID, c.rec.StartTime = pid, startTime(pid)
	return c.r.save(c.rec)
}

// writePidFile writes CreateOptions.PidFile, if it is set, and removes it if the container fails.
func (c *newContainer) writePidFile(pid int) error {
	if c.o.PidFile == "" {
		return nil
	}
	if err := writePidFile(c.o.PidFile, pid); err != nil {
		return err
	}
	c.onFailure(ignoring(func() error { return os.Remove(c.o.PidFile) }))
	return nil
}
