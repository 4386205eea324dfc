// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
	"github.com/berth-run/berth/node-agent/scoped"
)

// mountInputs opens on the host what the mounts of a plan need: user namespaces that map ids, the
// trees that they map, host files, copies and device nodes.
type mountInputs struct {
	*session
	spec   *specs.Spec
	cgroup *membership
	// copies and hostFiles are the parent's ends of plan.InputCopyUp and plan.InputHostFiles.
	copies, hostFiles *os.File
}

// open opens the sources that can be opened before the child exists.
func (m *mountInputs) open(ctx context.Context) (err error) {
	namespaces := make([]int, len(m.plan.UserNamespaces))
	for i, ns := range m.plan.UserNamespaces {
		f, err := openUserNamespace(ctx, ns)
		if err != nil {
			return err
		}
		m.closeLater(f)
		namespaces[i] = int(f.Fd())
		m.inputs[plan.InputUserNamespace(i)] = namespaces[i]
	}
	for i, s := range m.plan.Sources {
		f, err := openSource(s, namespaces)
		if err != nil {
			return err
		}
		m.closeLater(f)
		m.inputs[plan.InputSource(i)] = int(f.Fd())
	}
	if m.plan.CopiesUp {
		if m.copies, err = m.openSocket(plan.InputCopyUp); err != nil {
			return fmt.Errorf("mounts: tmpcopyup: %w", err)
		}
	}
	if len(m.plan.HostFiles) > 0 {
		if m.hostFiles, err = m.openSocket(plan.InputHostFiles); err != nil {
			return err
		}
	}
	return m.openNodes()
}

// sendHostFiles opens plan.HostFiles in the child's mount namespace, with the rights that this
// process has on the host, and sends them to the child. A path is walked below the child's root,
// which the child has sent: no symbolic link leads out of it, and no magic link is followed.
func (m *mountInputs) sendHostFiles() error {
	_, roots, err := receiveDescriptors(m.hostFiles, 1)
	if err != nil {
		return fmt.Errorf("root of the container's mount namespace: %w", err)
	}
	defer unix.Close(roots[0])
	for part := range slices.Chunk(m.plan.HostFiles, plan.MaxDescriptors) {
		if err := sendFiles(m.hostFiles, roots[0], part); err != nil {
			return err
		}
	}
	return nil
}

// sendFiles opens files below a root and sends their descriptors.
func sendFiles(socket *os.File, root int, files []plan.HostFile) error {
	fds := make([]int, 0, len(files))
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, f := range files {
		flags := uint64(unix.O_PATH)
		if f.NoFollow {
			flags |= unix.O_NOFOLLOW
		}
		fd, err := scoped.Open(root, "./"+f.Path, flags, unix.RESOLVE_IN_ROOT)
		if err != nil {
			return fmt.Errorf("%s: open %s: %w", f.Field, f.Path, err)
		}
		fds = append(fds, fd)
	}
	err := unix.Sendmsg(int(socket.Fd()), []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("send the sources of mounts: sendmsg: %w", err)
	}
	return nil
}

// receiveDescriptors receives a message with descriptors that has arrived already.
func receiveDescriptors(socket *os.File, want int) (payload []byte, fds []int, err error) {
	payload, control := make([]byte, 64), make([]byte, unix.CmsgSpace(4*want))
	n, k, _, _, err := unix.Recvmsg(int(socket.Fd()), payload, control, unix.MSG_CMSG_CLOEXEC|
		unix.MSG_DONTWAIT)
	if err != nil {
		return nil, nil, fmt.Errorf("recvmsg: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:k])
	if err != nil || len(messages) != 1 {
		return nil, nil, fmt.Errorf("found %d control messages; want 1: %w", len(messages), err)
	}
	if fds, err = unix.ParseUnixRights(&messages[0]); err != nil || len(fds) != want {
		return nil, nil, fmt.Errorf("found %d descriptors; want %d: %w", len(fds), want, err)
	}
	return payload[:n], fds, nil
}

// openUserNamespace opens a user namespace by its path, or makes one with mappings. The caller
// closes it, which ends one that was made.
func openUserNamespace(ctx context.Context, ns plan.UserNamespace) (file *os.File, err error) {
	fail := func(what string, err error) (*os.File, error) {
		return nil, fmt.Errorf("%s: user namespace of its ids: %s: %w", ns.Field, what, err)
	}
	if ns.Path != "" {
		fd, err := unix.Open(ns.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail("open "+ns.Path, err)
		}
		return os.NewFile(uintptr(fd), ns.Path), nil
	}
	spec := &specs.Spec{Linux: &specs.Linux{UIDMappings: ns.UIDs, GIDMappings: ns.GIDs}}
	child, err := launch.Start(launch.Request{
		Plan: plan.BuildUserNamespace(ns.Field), Reserved: 3,
		OnSync: func(_ plan.Sync, pid int) error {
			if err := writeIDMaps(spec, pid); err != nil {
				return err
			}
			name := "/proc/" + strconv.Itoa(pid) + "/ns/user"
			fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open %s: %w", name, err)
			}
			file = os.NewFile(uintptr(fd), name)
			return nil
		},
	})
	if err != nil {
		return fail("make", err)
	}
	if err := child.Follow(ctx, plan.SyncReady); err != nil {
		if file != nil {
			file.Close()
		}
		return fail("make", err)
	}
	child.Wait()
	return file, nil
}

// openSource clones a part of the host's tree, with its ids mapped if need be. The clone is
// attached nowhere and goes with its descriptor.
func openSource(s plan.Source, namespaces []int) (*os.File, error) {
	fail := func(call string, err error, cause string) (*os.File, error) {
		if cause != "" {
			cause = "; likely cause: " + cause
		}
		return nil, fmt.Errorf("%s: %s %s: %w%s", s.Field, call, s.Path, err, cause)
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if s.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	if s.NoFollow {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, s.Path, flags)
	if err != nil {
		return fail("open_tree", err, plan.Cause("mounts", "open_tree", asErrno(err)))
	}
	if s.UserNamespace >= 0 {
		flags := uint(unix.AT_EMPTY_PATH)
		if s.MapAll {
			flags |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(fd, "", flags, &unix.MountAttr{
			Attr_set:  unix.MOUNT_ATTR_IDMAP,
			Userns_fd: uint64(namespaces[s.UserNamespace]),
		}); err != nil {
			unix.Close(fd)
			cause := ""
			if errors.Is(err, unix.EINVAL) {
				cause = "the filesystem cannot be mounted with other ids on this kernel, or it is mapped already"
			}
			return fail("mount_setattr MOUNT_ATTR_IDMAP", err, cause)
		}
	}
	return os.NewFile(uintptr(fd), s.Path), nil
}

func asErrno(err error) (errno unix.Errno) {
	errors.As(err, &errno)
	return errno
}
