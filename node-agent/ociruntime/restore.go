// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/node-agent/ociruntime/criu"
	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// RestoreOptions say how to create a container from files. Of CreateOptions, PreserveFDs and
// NoNewKeyring do not apply to a process that exists already.
type RestoreOptions struct {
	CreateOptions
	CriuOptions
	// TCPClose closes connections that were established.
	TCPClose bool
	// NetworkLock is iptables, nftables or skip; empty is criu's own choice.
	NetworkLock string
	// LSMProfile is TYPE:NAME of an LSM profile other than the one at the checkpoint;
	// LSMMountContext likewise.
	LSMProfile, LSMMountContext string
}

// Restore creates a container from the images of Checkpoint, and from a bundle like the one that it
// had. On an error nothing is left of it.
func (r *Runtime) Restore(ctx context.Context, id string, o RestoreOptions) (_ *Process,
	err error,
) {
	if err := containerid.CheckNew(id); err != nil {
		return nil, err
	}
	if _, err := criu.Version(ctx); err != nil {
		return nil, err
	}
	c := &restoration{newContainer: r.newContainer(id, o.CreateOptions), options: o}
	defer func() { c.end(err) }()
	for _, step := range []func(context.Context) error{
		c.readDocument, // and check it
		c.reserveID,
		c.restoreNetDevices,
		c.createGroups, // the cgroup and the resctrl group
		c.createMountpoints,
		c.restore,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return &Process{PID: c.rec.PID, r: r, rec: c.rec, child: c.child}, nil
}

// restoration restores a container. criu creates the processes, and the first of them becomes a
// child of this process.
type restoration struct {
	*newContainer
	options RestoreOptions
}

// readDocument reads and validates config.json, which must have a process.
func (c *restoration) readDocument(context.Context) error {
	d, err := c.read()
	if err != nil {
		return err
	}
	if err := c.check(d); err != nil {
		return err
	}
	if c.spec.Process == nil {
		return ErrNoProcess
	}
	return nil
}

func (c *restoration) reserveID(context.Context) error { return c.reserve() }

// createGroups creates the groups that limit the container's resources.
func (c *restoration) createGroups(context.Context) error {
	if err := c.chooseCgroup(); err != nil {
		return err
	}
	if err := c.createCgroup(); err != nil {
		return err
	}
	return c.createResctrl()
}

// createMountpoints lets a child create mount points and devices in the root filesystem, as the
// creation of a container does.
func (c *restoration) createMountpoints(ctx context.Context) error {
	host, err := c.r.Host()
	if err != nil {
		return err
	}
	dangling, err := danglingDestinations(c.rec.Rootfs, c.spec.Mounts)
	if err != nil {
		return err
	}
	p, err := plan.BuildMountpoints(c.spec, host, plan.Options{
		ID: c.id, Bundle: c.o.Bundle,
		Rootfs: c.rec.Rootfs, Dangling: dangling,
	})
	if err != nil {
		return err
	}
	child, err := launch.Start(launch.Request{Plan: p, Reserved: 3})
	if err != nil {
		return err
	}
	if err := child.Follow(ctx, plan.SyncReady); err != nil {
		return fmt.Errorf("make the container's mount points: %w", err)
	}
	child.Wait()
	return nil
}

// restore lets criu restore the processes.
func (c *restoration) restore(ctx context.Context) error {
	call, err := c.restoreCall()
	if err != nil {
		return err
	}
	defer call.close()
	place := filepath.Join(c.r.dir(c.id), restoreRoot)
	if err := os.Mkdir(place, 0o700); err != nil {
		return fmt.Errorf("restore container %s: %w", c.id, err)
	}
	defer os.Remove(place)
	call.opts.Root = &place

	kind := rpc.CriuReqType_RESTORE
	request := criu.Call{
		Request: &rpc.CriuReq{Type: &kind, Opts: call.opts}, Files: call.files,
		Stdin: c.o.Stdin, Stdout: c.o.Stdout, Stderr: c.o.Stderr,
		Started: func(pid int) error { return c.prepareCriu(call, pid, place) },
		Notify:  func(n *rpc.CriuNotify, fd int) error { return c.notified(ctx, n, fd) },
	}
	if _, err = request.Do(ctx); err != nil {
		if c.child != nil {
			c.child.Abandon()
		}
		return withLog(fmt.Errorf("restore container %s: %w", c.id, err), call.logDir, restoreLog)
	}
	if c.child == nil {
		return fmt.Errorf("restore container %s: criu has restored no process", c.id)
	}
	return nil
}

// prepareCriu moves criu into the container's groups, where it creates the processes, and shows it
// the root filesystem at place.
func (c *restoration) prepareCriu(call *criuCall, pid int, place string) error {
	if err := errors.Join(c.cgroup.group.Add(pid), c.r.joinResctrl(c.rec, pid)); err != nil {
		return err
	}
	roots, err := cgrouplayout.MembershipsOf(pid)
	if err != nil {
		return fmt.Errorf("read criu's cgroups: %w", err)
	}
	for _, m := range roots {
		controllers := strings.Join(m.Controllers, ",")
		call.opts.CgRoot = append(call.opts.CgRoot, &rpc.CgroupRoot{Ctrl: &controllers, Path: &m.Path})
	}
	return call.enter(pid, c.rec.Rootfs, place)
}

// restoreCall builds the request of a restore.
func (c *restoration) restoreCall() (_ *criuCall, err error) {
	if err := checkImages(c.options.CriuOptions); err != nil {
		return nil, err
	}
	call, err := newCriuCall(c.options.CriuOptions, c.spec.Annotations, restoreLog)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			call.close()
		}
	}()
	call.opts.EvasiveDevices, call.opts.RstSibling, call.opts.TcpClose = ptr(true), ptr(true),
		&c.options.TCPClose
	if call.opts.NetworkLock, err = networkLock(c.options.NetworkLock); err != nil {
		return nil, err
	}
	if c.options.LSMProfile != "" {
		call.opts.LsmProfile = &c.options.LSMProfile
	}
	if c.options.LSMMountContext != "" {
		call.opts.LsmMountContext = &c.options.LSMMountContext
	}
	for _, n := range c.spec.Linux.Namespaces {
		if n.Path == "" {
			continue
		}
		if err := call.joinNamespace(n); err != nil {
			return nil, err
		}
	}
	if err := c.addMounts(call); err != nil {
		return nil, err
	}
	fds, err := readDescriptors(c.options.ImagePath)
	if err != nil {
		return nil, err
	}
	for i, name := range fds {
		if strings.HasPrefix(name, "pipe:") {
			call.opts.InheritFd = append(call.opts.InheritFd, &rpc.InheritFd{Key: &name, Fd: ptr(int32(i))})
		}
	}
	return call, nil
}

// joinNamespace makes the restored processes join a namespace that exists.
func (c *criuCall) joinNamespace(n specs.LinuxNamespace) error {
	kind := criuNamespaceType(n.Type)
	switch n.Type {
	case specs.NetworkNamespace, specs.PIDNamespace:
		f, err := os.Open(n.Path)
		if err != nil {
			return fmt.Errorf("linux.namespaces (%s): %w", n.Type, err)
		}
		fd := int32(criu.FirstFile + len(c.files))
		c.files = append(c.files, f)
		c.opts.InheritFd = append(c.opts.InheritFd, &rpc.InheritFd{
			Key: ptr(namespaceKey(n.Type)),
			Fd:  &fd,
		})
	case specs.CgroupNamespace, specs.TimeNamespace:
		return fmt.Errorf(
			"linux.namespaces (%s, %s): criu cannot restore into a namespace of this kind that is there already", n.Type, n.Path)
	default:
		c.opts.JoinNs = append(c.opts.JoinNs, &rpc.JoinNamespace{Ns: &kind, NsFile: ptr(n.Path)})
	}
	return nil
}

// addMounts names the sources of the external mounts.
func (c *restoration) addMounts(call *criuCall) error {
	external, err := c.r.externalMounts(c.spec, c.cgroup.group.HostPaths())
	if err != nil {
		return err
	}
	for _, e := range external {
		if !filepath.IsAbs(e.source) {
			e.source = filepath.Join(c.o.Bundle, e.source)
		}
		call.opts.ExtMnt = append(call.opts.ExtMnt, &rpc.ExtMountMap{Key: &e.name, Val: &e.source})
	}
	if len(c.spec.Linux.MaskedPaths) > 0 {
		call.opts.ExtMnt = append(call.opts.ExtMnt, &rpc.ExtMountMap{
			Key: ptr("/dev/null"),
			Val: ptr("/dev/null"),
		})
	}
	return nil
}

// notified carries out the requests of criu during a restore.
func (c *restoration) notified(ctx context.Context, n *rpc.CriuNotify, fd int) error {
	switch n.GetScript() {
	case "setup-namespaces":
		return c.runCreateHooks(ctx, int(n.GetPid()))
	case "post-restore":
		return c.recordRestored(int(n.GetPid()))
	case "orphan-pts-master":
		if fd < 0 {
			return errors.New("it came without the terminal")
		}
		o := c.o.streams()
		return o.sendConsole(ctx, fd)
	}
	return nil
}

// runCreateHooks runs the hooks whose time is before the change of root.
func (c *restoration) runCreateHooks(ctx context.Context, pid int) error {
	hooks := c.spec.Hooks
	if hooks == nil {
		return nil
	}
	c.rec.PID = pid
	if err := c.r.runHooks(ctx, "prestart", hooks.Prestart, c.rec, specs.StateCreating); err != nil { //nolint:staticcheck // deprecated, not gone
		return err
	}
	return c.r.runHooks(ctx, "createRuntime", hooks.CreateRuntime, c.rec, specs.StateCreating)
}

// recordRestored records the first process. The processes exist and do not run yet.
func (c *restoration) recordRestored(pid int) (err error) {
	if c.child, err = launch.Adopt(pid); err != nil {
		return err
	}
	c.rec.Created = time.Now().UTC()
	if c.rec.TimeNamespace, err = inOtherTimeNamespace(pid); err != nil {
		return err
	}
	if err := c.recordProcess(pid); err != nil {
		return err
	}
	return c.writePidFile(pid)
}

// inOtherTimeNamespace reports whether a process is in a time namespace other than this one's. A
// kernel without them has no such file.
func inOtherTimeNamespace(pid int) (bool, error) {
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/time", pid))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("time namespace of the restored container: %w", err)
	}
	ours, err := os.Stat("/proc/self/ns/time")
	if err != nil {
		return false, fmt.Errorf("time namespace of the restored container: %w", err)
	}
	return !os.SameFile(theirs, ours), nil
}
