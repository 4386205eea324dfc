// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/runtime/criu"
	"github.com/berth-run/berth/node-agent/runtime/launch"
	"github.com/berth-run/berth/node-agent/runtime/plan"
	"github.com/berth-run/berth/node-agent/scoped"
)

// CriuOptions are what checkpoint and restore have in common; criu(8) has the meanings.
type CriuOptions struct {
	// ImagePath is the folder of the image files; WorkPath that of logs, ImagePath where it is empty.
	ImagePath, WorkPath string
	// TCPEstablished allows connections that are established, and ExtUnixSockets those to unix sockets outside.
	TCPEstablished, ExtUnixSockets bool
	// ShellJob allows a process in a session that began outside; FileLocks allows file locks.
	ShellJob, FileLocks bool
	// ManageCgroups is soft, full, strict or ignore; empty is soft.
	ManageCgroups string
	// AutoDedup drops memory from an image once it is in a later one; LazyPages brings memory over when it is used.
	AutoDedup, LazyPages bool
	// EmptyNS are the CLONE_NEW* flags of namespaces to make, and not to fill.
	EmptyNS uint32
}

// CheckpointOptions say how to write a container to files.
type CheckpointOptions struct {
	CriuOptions
	// ParentPath is the folder of an earlier pre-dump, relative to ImagePath.
	ParentPath string
	// LeaveRunning lets the container go on, PreDump writes its memory alone and lets it go on.
	LeaveRunning, PreDump bool
	// TCPSkipInFlight leaves out connections that are being made; LinkRemap gives files without a name one for the time.
	TCPSkipInFlight, LinkRemap bool
	// StatusFD is a descriptor that gets a zero byte once lazy pages can be had; -1 is none.
	StatusFD int
	// PageServer is the ADDRESS:PORT that memory is sent to in place of ImagePath; empty is none.
	PageServer string
	// TCPClose and NetworkLock are crun's: how connections are treated.
	NetworkLock string
}

// RestoreOptions say how to make a container from files. Of CreateOptions, PreserveFDs and NoNewKeyring are not for a
// process that is there already.
type RestoreOptions struct {
	CreateOptions
	CriuOptions
	// TCPClose closes connections that were established.
	TCPClose bool
	// NetworkLock is iptables, nftables or skip; empty is criu's own choice.
	NetworkLock string
	// LSMProfile is TYPE:NAME of an LSM profile other than the one at the checkpoint; LSMMountContext likewise.
	LSMProfile, LSMMountContext string
}

// The files of ours among the images, and criu's logs.
const (
	descriptorsFile = "descriptors.json"
	dumpLog         = "dump.log"
	restoreLog      = "restore.log"
	restoreRoot     = "criu-root"
)

// criuNotes is what the annotation org.criu.config names: a file with options for criu that come before ours (criu(8)).
const (
	criuNote       = "org.criu.config"
	criuConfigFile = "/etc/criu/runc.conf"
)

func ptr[T any](v T) *T { return &v }

// criuCall is a request under way: what has to be open until it is over.
type criuCall struct {
	opts *rpc.CriuOpts
	// files are passed to criu; closes are the folders of the images and, if there is one, of the work files.
	files, closes []*os.File
	logDir        string
}

func (c *criuCall) close() {
	for _, f := range append(c.files, c.closes...) {
		f.Close()
	}
}

// newCriuCall opens the folders and fills in what both directions say alike.
func newCriuCall(o CriuOptions, annotations map[string]string, log string) (c *criuCall, err error) {
	modes := map[string]rpc.CriuCgMode{
		"": rpc.CriuCgMode_DEFAULT, "soft": rpc.CriuCgMode_SOFT, "full": rpc.CriuCgMode_FULL, "strict": rpc.CriuCgMode_STRICT, "ignore": rpc.CriuCgMode_IGNORE,
	}
	mode, ok := modes[o.ManageCgroups]
	if !ok {
		return nil, fmt.Errorf("--manage-cgroups-mode: found %q; allowed are soft, full, strict, ignore", o.ManageCgroups)
	}
	c = &criuCall{logDir: o.ImagePath}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	// With absolute names, since they are opened again from another mount namespace.
	if o.ImagePath, err = filepath.Abs(o.ImagePath); err != nil {
		return nil, fmt.Errorf("--image-path: %w", err)
	}
	images, err := os.Open(o.ImagePath)
	if err != nil {
		return nil, fmt.Errorf("--image-path: %w", err)
	}
	c.closes = append(c.closes, images)
	c.opts = &rpc.CriuOpts{
		ImagesDirFd: ptr(int32(images.Fd())), LogLevel: ptr(int32(4)), LogFile: &log, ManageCgroups: ptr(true), ManageCgroupsMode: &mode, NotifyScripts: ptr(true),
		ShellJob: &o.ShellJob, TcpEstablished: &o.TCPEstablished, ExtUnixSk: &o.ExtUnixSockets, FileLocks: &o.FileLocks,
		AutoDedup: &o.AutoDedup, LazyPages: &o.LazyPages, EmptyNs: &o.EmptyNS, OrphanPtsMaster: ptr(true),
	}
	if o.WorkPath != "" {
		if o.WorkPath, err = filepath.Abs(o.WorkPath); err != nil {
			return nil, fmt.Errorf("--work-path: %w", err)
		}
		if err := os.MkdirAll(o.WorkPath, 0o700); err != nil {
			return nil, fmt.Errorf("--work-path: %w", err)
		}
		work, err := os.Open(o.WorkPath)
		if err != nil {
			return nil, fmt.Errorf("--work-path: %w", err)
		}
		c.closes = append(c.closes, work)
		c.opts.WorkDirFd, c.logDir = ptr(int32(work.Fd())), o.WorkPath
	}
	if config, ok := annotations[criuNote]; !ok {
		c.opts.ConfigFile = ptr(criuConfigFile)
	} else if config != "" {
		c.opts.ConfigFile = &config
	}
	return c, nil
}

func networkLock(name string) (*rpc.CriuNetworkLockMethod, error) {
	switch name {
	case "":
		return nil, nil
	case "iptables":
		return ptr(rpc.CriuNetworkLockMethod_IPTABLES), nil
	case "nftables":
		return ptr(rpc.CriuNetworkLockMethod_NFTABLES), nil
	case "skip":
		return ptr(rpc.CriuNetworkLockMethod_SKIP), nil
	}
	return nil, fmt.Errorf("--network-lock: found %q; allowed are iptables, nftables, skip", name)
}

// namespaceKey is what criu knows a network or pid namespace by that is not the container's own.
func namespaceKey(t specs.LinuxNamespaceType) string {
	return map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "extRootNetNS", specs.PIDNamespace: "extRootPidNS"}[t]
}

// criuNamespaceType is the word of criu, and of /proc/PID/ns, for a namespace.
func criuNamespaceType(t specs.LinuxNamespaceType) string {
	switch t {
	case specs.NetworkNamespace:
		return "net"
	case specs.MountNamespace:
		return "mnt"
	}
	return string(t)
}

// externalMount is a mount that criu does not write down but finds again: its name in the images, the path that it has in the
// container, and its source.
type externalMount struct{ name, destination, source string }

// externalMounts returns the external mounts of a document: bind mounts, by their destination, and cgroup mounts where they are
// bind mounts (see cgroupMount in package plan). groups are the folders of the container's cgroup, as HostPaths returns them.
func (r *Runtime) externalMounts(spec *specs.Spec, groups map[string]string) (out []externalMount, err error) {
	add := func(destination, source string) {
		name := filepath.Clean("/" + destination)
		out = append(out, externalMount{name, name, source})
	}
	host, err := r.Host()
	if err != nil {
		return nil, err
	}
	namespaced, users := false, false
	for _, n := range spec.Linux.Namespaces {
		namespaced = namespaced || n.Type == specs.CgroupNamespace
		users = users || n.Type == specs.UserNamespace
	}
	for _, m := range spec.Mounts {
		bind := m.Type == "bind"
		for _, o := range m.Options {
			bind = bind || o == "bind" || o == "rbind"
		}
		v2, hasV2 := groups[""]
		switch {
		case bind:
			add(m.Destination, m.Source)
		case namespaced:
		case hasV2 && (m.Type == "cgroup2" || m.Type == "cgroup" && host.Cgroup.Unified):
			add(m.Destination, v2)
		case m.Type == "cgroup" && !host.Cgroup.Unified:
			for dir, source := range groups {
				if dir == "" {
					dir = host.Cgroup.Hybrid
				}
				add(filepath.Join(m.Destination, dir), source)
			}
		}
	}
	if users {
		for _, d := range append(plan.DefaultDevices(), spec.Linux.Devices...) {
			add(d.Path, d.Path)
		}
	}
	return out, nil
}

// followed returns the path of a mount in a container whose root is open: the destination may lead through symbolic links, such as
// /var/run of many images, and criu knows a mount by where it lies. A mount on a symbolic link itself lies there.
func followed(root int, destination string) string {
	parent, base := path.Split(destination)
	for _, try := range []struct {
		path, base string
		flags      uint64
	}{{destination, "", unix.O_PATH}, {parent, base, unix.O_PATH}} {
		fd, err := scoped.Open(root, "./"+try.path, try.flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
		if err != nil {
			continue
		}
		at, errAt := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		top, errTop := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", root))
		unix.Close(fd)
		if errAt != nil || errTop != nil {
			continue
		}
		if below, ok := strings.CutPrefix(at, strings.TrimSuffix(top, "/")); ok {
			return filepath.Join("/", below, try.base)
		}
	}
	return destination
}

// Checkpoint writes a running container to files. Without LeaveRunning and PreDump its processes end, and it is removed.
// With LazyPages it returns once all memory has been fetched, and the container can be killed and deleted while it waits.
func (r *Runtime) Checkpoint(ctx context.Context, id string, o CheckpointOptions) error {
	unlock, err := r.lock(id)
	if err != nil {
		return err
	}
	defer func() { unlock() }()
	rec, err := r.load(id)
	if err != nil {
		return err
	}
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
		return tellReady(o.StatusFD)
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

// lockAgain locks a container whose lock was released for a time and reads its record; nil if the container was
// deleted since, even if another has its id by now. The returned function is never nil.
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

func (r *Runtime) dumpCall(ctx context.Context, rec *record, spec *specs.Spec, o CheckpointOptions) (*criuCall, error) {
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
	fail := func(err error) (*criuCall, error) { c.close(); return nil, err }
	c.opts.Pid, c.opts.Root = ptr(int32(rec.PID)), &rec.Rootfs
	c.opts.LeaveRunning, c.opts.TcpSkipInFlight, c.opts.LinkRemap = &o.LeaveRunning, &o.TCPSkipInFlight, &o.LinkRemap
	if c.opts.NetworkLock, err = networkLock(o.NetworkLock); err != nil {
		return fail(err)
	}
	for _, n := range spec.Linux.Namespaces {
		key := namespaceKey(n.Type)
		if n.Path == "" || key == "" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(n.Path, &st); err != nil {
			return fail(fmt.Errorf("linux.namespaces (%s, %s): %w", n.Type, n.Path, err))
		}
		c.opts.External = append(c.opts.External, fmt.Sprintf("%s[%d]:%s", criuNamespaceType(n.Type), st.Ino, key))
	}
	// The freezer stops all at once, where ptrace has to catch each thread; that of v2 is known from criu 3.14 on.
	if dir := rec.Cgroups["freezer"]; dir != "" {
		c.opts.FreezeCgroup = &dir
	} else if dir := rec.Cgroups[""]; dir != "" && version >= 31400 {
		if host, err := r.Host(); err == nil && host.Cgroup.Unified {
			c.opts.FreezeCgroup = &dir
		}
	}
	features := &rpc.CriuFeatures{}
	if o.PreDump {
		features.MemTrack = ptr(true)
	}
	if o.LazyPages {
		features.LazyPages = ptr(true)
		if o.StatusFD >= 0 {
			if flags, err := unix.FcntlInt(uintptr(o.StatusFD), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY {
				return fail(fmt.Errorf("--status-fd: found %d; allowed is a descriptor open for writing", o.StatusFD))
			}
		}
	}
	if o.PreDump || o.LazyPages {
		if err := criu.Require(ctx, features); err != nil {
			return fail(err)
		}
	}
	if o.PageServer != "" {
		address, port, err := net.SplitHostPort(o.PageServer)
		n, numErr := strconv.ParseUint(port, 10, 16)
		if err != nil || numErr != nil || address == "" {
			return fail(fmt.Errorf("--page-server: found %q; allowed is ADDRESS:PORT", o.PageServer))
		}
		c.opts.Ps = &rpc.CriuPageServerInfo{Address: &address, Port: ptr(int32(n))}
	}
	if o.ParentPath != "" {
		if filepath.IsAbs(o.ParentPath) {
			return fail(fmt.Errorf("--parent-path: found %s; allowed is a path relative to --image-path", o.ParentPath))
		}
		if st, err := os.Stat(filepath.Join(o.ImagePath, o.ParentPath)); err != nil || !st.IsDir() {
			return fail(fmt.Errorf("--parent-path: found %s, which is no folder below --image-path", o.ParentPath))
		}
		c.opts.ParentImg, c.opts.TrackMem = &o.ParentPath, ptr(true)
	}
	if o.PreDump {
		return c, nil
	}
	group, err := rec.cgroup()
	if err != nil {
		return fail(err)
	}
	external, err := r.externalMounts(spec, group.HostPaths())
	if err != nil {
		return fail(err)
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", rec.PID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(fmt.Errorf("container %s: open its root: %w", rec.ID, err))
	}
	defer unix.Close(root)
	for _, m := range external {
		destination := followed(root, m.destination)
		c.opts.ExtMnt = append(c.opts.ExtMnt, &rpc.ExtMountMap{Key: &destination, Val: &m.name})
	}
	for _, path := range spec.Linux.MaskedPaths {
		// A masked file is the host's /dev/null mounted on it; a masked folder is a filesystem that criu knows how to make.
		fd, err := scoped.Open(root, strings.TrimLeft(path, "/"), unix.O_PATH, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
		if err != nil {
			continue // there is no such file, and so no mask
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			c.opts.ExtMnt = append(c.opts.ExtMnt, &rpc.ExtMountMap{Key: ptr(followed(root, filepath.Clean("/"+path))), Val: ptr("/dev/null")})
		}
	}
	return c, nil
}

func tellReady(fd int) error {
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte{0}); err != nil {
		return fmt.Errorf("--status-fd: %w", err)
	}
	return nil
}

// withLog adds what criu's log says to an error.
func withLog(err error, dir, log string) error {
	lines := criu.Complaints(dir, log)
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w; %s has: %s", err, filepath.Join(dir, log), strings.Join(lines, "; "))
}

// writeDescriptors notes what the standard streams of a process are, for a restore to give it others in their place.
func writeDescriptors(pid int, dir string) error {
	fds := make([]string, 3)
	for i := range fds {
		fds[i], _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, i)) // one that is closed stays empty
	}
	data, err := json.Marshal(fds)
	if err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(dir, descriptorsFile), data, durable.Options{}); err != nil {
		return fmt.Errorf("--image-path: %w", err)
	}
	return nil
}

// checkImages looks at a folder that criu is to restore from, and whose files may be a stranger's: a symbolic link in it would have criu,
// as root, map a file of the host into the container, or write its log over one.
func checkImages(o CriuOptions) error {
	entries, err := os.ReadDir(o.ImagePath)
	if err != nil {
		return fmt.Errorf("--image-path: %w", err)
	}
	const parent = "parent" // the images of the pre-dump, which criu finds so
	for _, e := range entries {
		if !e.Type().IsRegular() && !e.IsDir() && e.Name() != parent {
			return fmt.Errorf("--image-path: %s: found something other than a regular file", filepath.Join(o.ImagePath, e.Name()))
		}
	}
	// Others have files in the folder of the logs too.
	for _, name := range []string{restoreLog, "stats-restore"} {
		file := filepath.Join(o.WorkPath, name)
		if st, err := os.Lstat(file); o.WorkPath != "" && err == nil && !st.Mode().IsRegular() {
			return fmt.Errorf("--work-path: %s: found something other than a regular file", file)
		}
	}
	return nil
}

// maxDescriptors bounds what is read of descriptorsFile, in bytes.
const maxDescriptors = 1 << 20

// readDescriptors reads what writeDescriptors wrote. The images are data of a stranger.
func readDescriptors(dir string) ([]string, error) {
	file := filepath.Join(dir, descriptorsFile)
	data, err := readBounded(file, maxDescriptors)
	if err != nil {
		return nil, fmt.Errorf("--image-path: %w", err)
	}
	var fds []string
	if err := json.Unmarshal(data, &fds); err != nil || len(fds) != 3 {
		return nil, fmt.Errorf("--image-path: %s: found %.60q; allowed are three strings", file, data)
	}
	return fds, nil
}

// Restore makes a container from what Checkpoint wrote, and from a bundle like the one that it had. On an error nothing is
// left of it.
func (r *Runtime) Restore(ctx context.Context, id string, o RestoreOptions) (_ *Process, err error) {
	if err := checkNewID(id); err != nil {
		return nil, err
	}
	if _, err := criu.Version(ctx); err != nil {
		return nil, err
	}
	m := &maker{r: r, o: o.CreateOptions, inputs: map[plan.Input]int{}}
	defer func() {
		m.letGo()
		for _, f := range m.close {
			f.Close()
		}
		if err == nil && m.devices != nil {
			m.devices.Close()
		}
		if err != nil {
			for i := len(m.undo) - 1; i >= 0; i-- {
				m.undo[i]()
			}
		}
	}()
	for _, step := range []func(context.Context) error{
		func(context.Context) error { return m.readConfig(nil) },
		func(context.Context) error { return m.withoutProcess(true) }, // refuses it
		func(context.Context) error { return m.reserve(id) },
		m.restoreNetDevices,
		func(context.Context) error { return m.findCgroup(id) },
		func(context.Context) error { return m.record() },
		func(context.Context) error { return m.makeCgroup() },
		func(context.Context) error { return m.makeResctrl(id) },
		m.makeMountpoints,
		func(ctx context.Context) error { return m.restore(ctx, o) },
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return &Process{PID: m.rec.PID, r: r, rec: m.rec, child: m.child}, nil
}

// makeMountpoints has a child make in the root filesystem what a container's creation makes there.
func (m *maker) makeMountpoints(ctx context.Context) error {
	host, err := m.r.Host()
	if err != nil {
		return err
	}
	dangling, err := danglingDestinations(m.rec.Rootfs, m.spec.Mounts)
	if err != nil {
		return err
	}
	p, err := plan.BuildMountpoints(m.spec, host, plan.Options{ID: m.rec.ID, Bundle: m.o.Bundle, Rootfs: m.rec.Rootfs, Dangling: dangling})
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

func (m *maker) restore(ctx context.Context, o RestoreOptions) error {
	c, err := m.restoreCall(o)
	if err != nil {
		return err
	}
	defer c.close()
	place := filepath.Join(m.r.dir(m.rec.ID), restoreRoot)
	if err := os.Mkdir(place, 0o700); err != nil {
		return fmt.Errorf("restore container %s: %w", m.rec.ID, err)
	}
	defer os.Remove(place)
	c.opts.Root = &place

	kind := rpc.CriuReqType_RESTORE
	call := criu.Call{Request: &rpc.CriuReq{Type: &kind, Opts: c.opts}, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Files: c.files}
	call.Started = func(pid int) error {
		// criu makes the processes, and so they are in its cgroup and its resctrl group.
		if err := errors.Join(m.group.Add(pid), m.r.joinResctrl(m.rec, pid)); err != nil {
			return err
		}
		roots, err := cgroupsOf(pid)
		if err != nil {
			return err
		}
		for controllers, path := range roots {
			c.opts.CgRoot = append(c.opts.CgRoot, &rpc.CgroupRoot{Ctrl: &controllers, Path: &path})
		}
		return c.enter(pid, m.rec.Rootfs, place)
	}
	call.Notify = func(n *rpc.CriuNotify, fd int) error { return m.restoreNotified(ctx, n, fd) }
	if _, err = call.Do(ctx); err != nil {
		if m.child != nil {
			m.child.Abandon()
		}
		return withLog(fmt.Errorf("restore container %s: %w", m.rec.ID, err), c.logDir, restoreLog)
	}
	if m.child == nil {
		return fmt.Errorf("restore container %s: criu has restored no process", m.rec.ID)
	}
	return nil
}

func (m *maker) restoreCall(o RestoreOptions) (_ *criuCall, err error) {
	if err := checkImages(o.CriuOptions); err != nil {
		return nil, err
	}
	c, err := newCriuCall(o.CriuOptions, m.spec.Annotations, restoreLog)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.opts.EvasiveDevices, c.opts.RstSibling, c.opts.TcpClose = ptr(true), ptr(true), &o.TCPClose
	if c.opts.NetworkLock, err = networkLock(o.NetworkLock); err != nil {
		return nil, err
	}
	if o.LSMProfile != "" {
		c.opts.LsmProfile = &o.LSMProfile
	}
	if o.LSMMountContext != "" {
		c.opts.LsmMountContext = &o.LSMMountContext
	}
	for _, n := range m.spec.Linux.Namespaces {
		if n.Path == "" {
			continue
		}
		kind := criuNamespaceType(n.Type)
		switch n.Type {
		case specs.NetworkNamespace, specs.PIDNamespace:
			f, err := os.Open(n.Path)
			if err != nil {
				return nil, fmt.Errorf("linux.namespaces (%s): %w", n.Type, err)
			}
			fd := int32(criu.FirstFile + len(c.files))
			c.files = append(c.files, f)
			c.opts.InheritFd = append(c.opts.InheritFd, &rpc.InheritFd{Key: ptr(namespaceKey(n.Type)), Fd: &fd})
		case specs.CgroupNamespace, specs.TimeNamespace:
			return nil, fmt.Errorf("linux.namespaces (%s, %s): criu cannot restore into a namespace of this kind that is there already", n.Type, n.Path)
		default:
			c.opts.JoinNs = append(c.opts.JoinNs, &rpc.JoinNamespace{Ns: &kind, NsFile: ptr(n.Path)})
		}
	}
	external, err := m.r.externalMounts(m.spec, m.group.HostPaths())
	if err != nil {
		return nil, err
	}
	for _, e := range external {
		if !filepath.IsAbs(e.source) {
			e.source = filepath.Join(m.o.Bundle, e.source)
		}
		c.opts.ExtMnt = append(c.opts.ExtMnt, &rpc.ExtMountMap{Key: &e.name, Val: &e.source})
	}
	if len(m.spec.Linux.MaskedPaths) > 0 {
		c.opts.ExtMnt = append(c.opts.ExtMnt, &rpc.ExtMountMap{Key: ptr("/dev/null"), Val: ptr("/dev/null")})
	}
	fds, err := readDescriptors(o.ImagePath)
	if err != nil {
		return nil, err
	}
	for i, name := range fds {
		if strings.HasPrefix(name, "pipe:") {
			c.opts.InheritFd = append(c.opts.InheritFd, &rpc.InheritFd{Key: &name, Fd: ptr(int32(i))})
		}
	}
	return c, nil
}

// restoreNotified does what a restore needs of us on its way.
func (m *maker) restoreNotified(ctx context.Context, n *rpc.CriuNotify, fd int) error {
	switch n.GetScript() {
	case "setup-namespaces":
		hooks := m.spec.Hooks
		if hooks == nil {
			return nil
		}
		m.rec.PID = int(n.GetPid())
		if err := m.r.runHooks(ctx, "prestart", hooks.Prestart, m.rec, specs.StateCreating); err != nil { //nolint:staticcheck // deprecated, not gone
			return err
		}
		return m.r.runHooks(ctx, "createRuntime", hooks.CreateRuntime, m.rec, specs.StateCreating)
	case "post-restore":
		// The processes are there and do not run yet.
		child, err := launch.Adopt(int(n.GetPid()))
		if err != nil {
			return err
		}
		m.child = child
		m.rec.PID, m.rec.Created = child.PID, time.Now().UTC()
		m.rec.StartTime = startTime(child.PID)
		if m.rec.TimeNamespace, err = inOtherTimeNamespace(child.PID); err != nil {
			return err
		}
		if err := m.r.save(m.rec); err != nil {
			return err
		}
		if m.o.PidFile != "" {
			if err := writePidFile(m.o.PidFile, child.PID); err != nil {
				return err
			}
			m.undo = append(m.undo, func() { _ = os.Remove(m.o.PidFile) })
		}
		return nil
	case "orphan-pts-master":
		if fd < 0 {
			return errors.New("it came without the terminal")
		}
		return m.sendConsole(ctx, fd)
	}
	return nil
}

// inOtherTimeNamespace reports whether a process is in a time namespace other than this one's. A kernel without them has no such file.
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

// sendConsole sends a terminal's master to whom the caller has named.
func (m *maker) sendConsole(ctx context.Context, master int) error {
	var socket int
	switch {
	case m.o.Console != nil:
		socket = int(m.o.Console.Fd())
	case m.o.ConsoleSocket != "":
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", m.o.ConsoleSocket)
		if err != nil {
			return fmt.Errorf("--console-socket: %w", err)
		}
		defer conn.Close()
		f, err := conn.(*net.UnixConn).File()
		if err != nil {
			return fmt.Errorf("--console-socket: %w", err)
		}
		defer f.Close()
		socket = int(f.Fd())
	default:
		return errors.New("process.terminal: found true; a detached container with a terminal needs --console-socket")
	}
	if err := unix.Sendmsg(socket, []byte("/dev/ptmx"), unix.UnixRights(master), nil, 0); err != nil {
		return fmt.Errorf("--console-socket: %w", err)
	}
	return nil
}

// enter shows a folder of this mount namespace at another place in criu's own, and opens the folders of the request there. criu wants
// the root that it restores to be a mount; in its own namespace that goes when criu goes, and nobody removes through it.
func (c *criuCall) enter(pid int, folder, place string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, folder, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("root.path: open_tree %s: %w", folder, err)
	}
	defer unix.Close(tree)
	namespace, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open criu's mount namespace: %w", err)
	}
	defer unix.Close(namespace)
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // and never unlocked: the thread ends with this function
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("join criu's mount namespace: %w", err)
			}
			if err := unix.MoveMount(tree, "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return fmt.Errorf("root.path: move_mount to %s: %w", place, err)
			}
			// criu mounts below them, which it can only do on mounts of its own namespace.
			for i, f := range c.closes {
				again, err := os.Open(f.Name())
				if err != nil {
					return fmt.Errorf("open in criu's mount namespace: %w", err)
				}
				f.Close()
				c.closes[i] = again
			}
			c.opts.ImagesDirFd = ptr(int32(c.closes[0].Fd()))
			if c.opts.WorkDirFd != nil {
				c.opts.WorkDirFd = ptr(int32(c.closes[1].Fd()))
			}
			return nil
		}()
	}()
	return <-done
}

// cgroupsOf reads /proc/PID/cgroup: the path by the list of controllers (cgroups(7)).
func cgroupsOf(pid int) (map[string]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("read criu's cgroups: %w", err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			out[f[1]] = f[2]
		}
	}
	return out, nil
}
