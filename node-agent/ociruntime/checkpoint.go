// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/criu"
	"github.com/berth-run/berth/node-agent/scoped"
)

// CheckpointOptions say how to dump a container to files.
type CheckpointOptions struct {
	CriuOptions
	// ParentPath is the directory of an earlier pre-dump, relative to ImagePath.
	ParentPath string
	// LeaveRunning lets the container go on, PreDump writes its memory alone and lets it go on.
	LeaveRunning, PreDump bool
	// TCPSkipInFlight leaves out connections that are being established; LinkRemap gives files
	// without a name a temporary one.
	TCPSkipInFlight, LinkRemap bool
	// StatusFD is a descriptor that gets a zero byte once lazy pages are available; -1 is none.
	StatusFD int
	// PageServer is the ADDRESS:PORT that gets the memory in place of ImagePath; empty is none.
	PageServer string
	// NetworkLock is crun's: how the network is locked.
	NetworkLock string
}

// Checkpoint writes a running container to files. Without LeaveRunning and PreDump its processes
// end, and it is removed. With LazyPages it returns once all memory has been fetched, and the
// container can be killed and deleted while it waits.
func (r *Runtime) Checkpoint(ctx context.Context, id string, o CheckpointOptions) error {
	rec, unlock, err := r.loadLocked(id)
	if err != nil {
		return err
	}
	defer func() { unlock() }()
	if status := r.status(rec); status != specs.StateRunning && status != StatusPaused {
		return fmt.Errorf("container cannot be checkpointed in %s state", status)
	}
	spec, err := r.loadConfig(id)
	if err != nil {
		return err
	}
	if err := checkNetDevices(spec); err != nil {
		return err
	}
	c, err := r.dumpCall(ctx, rec, spec, o)
	if err != nil {
		return err
	}
	defer c.close()
	kind := rpc.CriuReqType_DUMP
	if o.PreDump {
		kind = rpc.CriuReqType_PRE_DUMP
	} else if err := writeDescriptors(rec.PID, o.ImagePath); err != nil {
		return err
	}
	call := criu.Call{Request: &rpc.CriuReq{Type: &kind, Opts: c.opts}}
	released := false
	call.Notify = func(n *rpc.CriuNotify, _ int) error {
		if n.GetScript() != "status-ready" {
			return nil
		}
		if o.LazyPages && !released {
			// criu serves the memory from here on, for as long as its receiver needs.
			unlock()
			unlock, released = func() {}, true
		}
		if o.StatusFD < 0 {
			return nil
		}
		return reportReady(o.StatusFD)
	}
	if _, err := call.Do(ctx); err != nil {
		return withLog(fmt.Errorf("checkpoint container %s: %w", id, err), c.logDir, dumpLog)
	}
	if o.LeaveRunning || o.PreDump {
		return nil
	}
	if released {
		if unlock, rec, err = r.lockAgain(rec); err != nil || rec == nil {
			return err
		}
	}
	return r.destroy(ctx, rec)
}

// lockAgain locks a container whose lock was released for a time and reads its record; nil if the
// container was deleted since, even if another has its id by now. The returned function is never
// nil.
func (r *Runtime) lockAgain(before *record) (func(), *record, error) {
	unlock, err := r.lock(before.ID)
	if errors.Is(err, ErrNotExist) {
		return func() {}, nil, nil
	}
	if err != nil {
		return func() {}, nil, err
	}
	rec, err := r.load(before.ID)
	if err == nil && !rec.Created.Equal(before.Created) {
		rec = nil
	}
	return unlock, rec, err
}

// dumpCall builds the request of a checkpoint.
func (r *Runtime) dumpCall(ctx context.Context, rec *record, spec *specs.Spec,
	o CheckpointOptions,
) (_ *criuCall, err error) {
	version, err := criu.Version(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.ImagePath, 0o700); err != nil {
		return nil, fmt.Errorf("--image-path: %w", err)
	}
	c, err := newCriuCall(o.CriuOptions, rec.Annotations, dumpLog)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.opts.Pid, c.opts.Root = ptr(int32(rec.PID)), &rec.Rootfs
	c.opts.LeaveRunning, c.opts.TcpSkipInFlight, c.opts.LinkRemap = &o.LeaveRunning,
		&o.TCPSkipInFlight, &o.LinkRemap
	if c.opts.NetworkLock, err = networkLock(o.NetworkLock); err != nil {
		return nil, err
	}
	if err := c.addExternalNamespaces(spec); err != nil {
		return nil, err
	}
	r.setFreezer(c, rec, version)
	if err := requireFeatures(ctx, o); err != nil {
		return nil, err
	}
	if err := c.addPageServer(o.PageServer); err != nil {
		return nil, err
	}
	if err := c.addParent(o); err != nil {
		return nil, err
	}
	if o.PreDump {
		return c, nil
	}
	if err := r.addDumpedMounts(c, rec, spec); err != nil {
		return nil, err
	}
	return c, nil
}

// addExternalNamespaces names the namespaces that the container has joined and that criu does not
// dump.
func (c *criuCall) addExternalNamespaces(spec *specs.Spec) error {
	for _, n := range spec.Linux.Namespaces {
		key := namespaceKey(n.Type)
		if n.Path == "" || key == "" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(n.Path, &st); err != nil {
			return fmt.Errorf("linux.namespaces (%s, %s): %w", n.Type, n.Path, err)
		}
		c.opts.External = append(c.opts.External, fmt.Sprintf("%s[%d]:%s", criuNamespaceType(n.Type),
			st.Ino, key))
	}
	return nil
}

// setFreezer lets criu stop all processes at once by the freezer; ptrace has to catch each thread.
// criu knows the freezer of cgroup v2 from version 3.14 on.
func (r *Runtime) setFreezer(c *criuCall, rec *record, version int) {
	if dir := rec.Cgroups["freezer"]; dir != "" {
		c.opts.FreezeCgroup = &dir
	} else if dir := rec.Cgroups[""]; dir != "" && version >= 31400 {
		if host, err := r.Host(); err == nil && host.Cgroup.Unified {
			c.opts.FreezeCgroup = &dir
		}
	}
}

// requireFeatures fails if criu does not support a feature that a checkpoint needs.
func requireFeatures(ctx context.Context, o CheckpointOptions) error {
	features := &rpc.CriuFeatures{}
	if o.PreDump {
		features.MemTrack = ptr(true)
	}
	if o.LazyPages {
		features.LazyPages = ptr(true)
		if o.StatusFD >= 0 {
			if flags, err := unix.FcntlInt(uintptr(o.StatusFD), unix.F_GETFL, 0); err != nil ||
				flags&unix.O_ACCMODE == unix.O_RDONLY {
				return fmt.Errorf("--status-fd: found %d; allowed is a descriptor open for writing", o.StatusFD)
			}
		}
	}
	if o.PreDump || o.LazyPages {
		return criu.Require(ctx, features)
	}
	return nil
}

// addPageServer makes criu send memory to ADDRESS:PORT, unless that is empty.
func (c *criuCall) addPageServer(server string) error {
	if server == "" {
		return nil
	}
	address, port, err := net.SplitHostPort(server)
	n, numErr := strconv.ParseUint(port, 10, 16)
	if err != nil || numErr != nil || address == "" {
		return fmt.Errorf("--page-server: found %q; allowed is ADDRESS:PORT", server)
	}
	c.opts.Ps = &rpc.CriuPageServerInfo{Address: &address, Port: ptr(int32(n))}
	return nil
}

// addParent names the images of an earlier pre-dump, if there are any.
func (c *criuCall) addParent(o CheckpointOptions) error {
	if o.ParentPath == "" {
		return nil
	}
	if filepath.IsAbs(o.ParentPath) {
		return fmt.Errorf("--parent-path: found %s; allowed is a path relative to --image-path",
			o.ParentPath)
	}
	if st, err := os.Stat(filepath.Join(o.ImagePath, o.ParentPath)); err != nil || !st.IsDir() {
		return fmt.Errorf("--parent-path: found %s, which is no directory below --image-path",
			o.ParentPath)
	}
	c.opts.ParentImg, c.opts.TrackMem = &o.ParentPath, ptr(true)
	return nil
}

// addDumpedMounts names the mounts that criu does not dump but finds again: external ones, and the
// host's /dev/null on masked files. A masked directory is a filesystem that criu can create.
func (r *Runtime) addDumpedMounts(c *criuCall, rec *record, spec *specs.Spec) error {
	group, err := rec.cgroup()
	if err != nil {
		return err
	}
	external, err := r.externalMounts(spec, group.HostPaths())
	if err != nil {
		return err
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", rec.PID), unix.O_PATH|unix.O_DIRECTORY|
		unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("container %s: open its root: %w", rec.ID, err)
	}
	defer unix.Close(root)
	for _, m := range external {
		destination := followed(root, m.destination)
		c.opts.ExtMnt = append(c.opts.ExtMnt, &rpc.ExtMountMap{Key: &destination, Val: &m.name})
	}
	for _, path := range spec.Linux.MaskedPaths {
		fd, err := scoped.Open(root, strings.TrimLeft(path, "/"), unix.O_PATH, unix.RESOLVE_IN_ROOT|
			unix.RESOLVE_NO_MAGICLINKS)
		if err != nil {
			continue // there is no such file, and so no mask
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			c.opts.ExtMnt = append(c.opts.ExtMnt,
				&rpc.ExtMountMap{Key: ptr(followed(root, filepath.Clean("/"+path))), Val: ptr("/dev/null")})
		}
	}
	return nil
}

// reportReady writes a zero byte to --status-fd and closes it.
func reportReady(fd int) error {
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte{0}); err != nil {
		return fmt.Errorf("--status-fd: %w", err)
	}
	return nil
}
