// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/criu"
)

// CriuOptions are the options that checkpoint and restore share; criu(8) explains them.
type CriuOptions struct {
	// ImagePath is the directory of the image files. WorkPath is that of logs; empty is ImagePath.
	ImagePath, WorkPath string
	// TCPEstablished allows connections that are established, and ExtUnixSockets those to unix
	// sockets outside.
	TCPEstablished, ExtUnixSockets bool
	// ShellJob allows a process in a session that began outside; FileLocks allows file locks.
	ShellJob, FileLocks bool
	// ManageCgroups is soft, full, strict or ignore; empty is soft.
	ManageCgroups string
	// AutoDedup drops memory from an image once it is in a later one; LazyPages brings memory over
	// when it is used.
	AutoDedup, LazyPages bool
	// EmptyNS are the CLONE_NEW* flags of namespaces to create and to leave empty.
	EmptyNS uint32
}

// The names of our files among the images, and of criu's logs.
const (
	descriptorsFile = "descriptors.json"
	dumpLog         = "dump.log"
	restoreLog      = "restore.log"
	restoreRoot     = "criu-root"
)

// The annotation org.criu.config names a file with options for criu that come before ours
// (criu(8)).
const (
	criuNote       = "org.criu.config"
	criuConfigFile = "/etc/criu/runc.conf"
)

func ptr[T any](v T) *T { return &v }

// criuCall is a request and the files that are open until it is over.
type criuCall struct {
	opts *rpc.CriuOpts
	// files are passed to criu; closes are the directories of the images and, if it is set, of the
	// logs.
	files, closes []*os.File
	logDir        string
}

func (c *criuCall) close() {
	for _, f := range append(c.files, c.closes...) {
		f.Close()
	}
}

// newCriuCall opens the directories and sets the options that checkpoint and restore share.
func newCriuCall(o CriuOptions, annotations map[string]string, log string) (c *criuCall,
	err error,
) {
	modes := map[string]rpc.CriuCgMode{
		"": rpc.CriuCgMode_DEFAULT, "soft": rpc.CriuCgMode_SOFT, "full": rpc.CriuCgMode_FULL,
		"strict": rpc.CriuCgMode_STRICT, "ignore": rpc.CriuCgMode_IGNORE,
	}
	mode, ok := modes[o.ManageCgroups]
	if !ok {
		return nil, fmt.Errorf("--manage-cgroups-mode: found %q; allowed are soft, full, strict, ignore",
			o.ManageCgroups)
	}
	c = &criuCall{logDir: o.ImagePath}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	// The names are absolute, since they are opened again from another mount namespace.
	if o.ImagePath, err = filepath.Abs(o.ImagePath); err != nil {
		return nil, fmt.Errorf("--image-path: %w", err)
	}
	images, err := os.Open(o.ImagePath)
	if err != nil {
		return nil, fmt.Errorf("--image-path: %w", err)
	}
	c.closes = append(c.closes, images)
	c.opts = &rpc.CriuOpts{
		ImagesDirFd: ptr(int32(images.Fd())), LogLevel: ptr(int32(4)), LogFile: &log,
		ManageCgroups: ptr(true), ManageCgroupsMode: &mode, NotifyScripts: ptr(true),
		ShellJob: &o.ShellJob, TcpEstablished: &o.TCPEstablished, ExtUnixSk: &o.ExtUnixSockets,
		FileLocks: &o.FileLocks,
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

// networkLock returns criu's value of --network-lock.
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

// namespaceKey returns criu's key of a network or pid namespace that the container has joined.
func namespaceKey(t specs.LinuxNamespaceType) string {
	return map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "extRootNetNS",
		specs.PIDNamespace:     "extRootPidNS",
	}[t]
}

// criuNamespaceType returns the name of a namespace for criu and in /proc/PID/ns.
func criuNamespaceType(t specs.LinuxNamespaceType) string {
	switch t {
	case specs.NetworkNamespace:
		return "net"
	case specs.MountNamespace:
		return "mnt"
	}
	return string(t)
}

// withLog adds the errors of criu's log to an error.
func withLog(err error, dir, log string) error {
	lines := criu.Complaints(dir, log)
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w; %s has: %s", err, filepath.Join(dir, log), strings.Join(lines, "; "))
}

// enter mounts a directory of this mount namespace at place in criu's own, and reopens the
// directories of the request there. criu wants the root that it restores to be a mount; in its own
// namespace the mount goes when criu goes, and nobody removes files through it.
func (c *criuCall) enter(pid int, directory, place string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, directory, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|
		unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("root.path: open_tree %s: %w", directory, err)
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
			if err := unix.MoveMount(tree, "", unix.AT_FDCWD, place,
				unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return fmt.Errorf("root.path: move_mount to %s: %w", place, err)
			}
			// criu mounts below them, which is only possible on mounts of its own namespace.
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
