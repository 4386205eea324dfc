// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespaces are pinned network namespaces: each is a bind mount in Dir, under the name of its
// container. Its methods look at what exists, and may be called again after the agent was killed.
type Namespaces struct {
	// Dir is an absolute path that does not outlive a boot.
	Dir string
}

// Path returns the path of a container's namespace, whether it exists or not.
func (n Namespaces) Path(id string) string { return filepath.Join(n.Dir, id) }

// Exists reports whether a container's namespace is pinned.
func (n Namespaces) Exists(id string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(n.Path(id), &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("network namespace: %w", &fs.PathError{
			Op: "statfs", Path: n.Path(id),
			Err: err,
		})
	}
	return st.Type == unix.NSFS_MAGIC, nil
}

// Ensure pins a new network namespace, in which loopback is up, unless the container has one. It
// returns the path.
func (n Namespaces) Ensure(id string) (string, error) {
	path := n.Path(id)
	if exists, err := n.Exists(id); exists || err != nil {
		return path, err
	}
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return path, fmt.Errorf("network namespace: %w", err)
	}
	// An agent that was killed here leaves the file without a mount.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return path, fmt.Errorf("network namespace: %w", err)
	}
	f.Close()
	if err := pinNew(path); err != nil {
		os.Remove(path)
		return path, fmt.Errorf("network namespace: %w", err)
	}
	return path, nil
}

// Remove unpins a container's namespace. The kernel destroys it once no process is in it. It is no
// error if there is none.
func (n Namespaces) Remove(id string) error {
	path := n.Path(id)
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	// EINVAL: it is no mount.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("network namespace: %w", &fs.PathError{Op: "unmount", Path: path, Err: err})
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network namespace: %w", err)
	}
	return nil
}

// List returns the ids of the containers that have a namespace, or the file of one.
func (n Namespaces) List() ([]string, error) {
	entries, err := os.ReadDir(n.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// pinNew creates a network namespace and mounts it at path. A thread enters it for that time.
func pinNew(path string) error {
	runtime.LockOSThread()
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return &fs.PathError{Op: "open", Path: "/proc/thread-self/ns/net", Err: err}
	}
	defer unix.Close(own)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("unshare", err)
	}
	err = loopbackUp()
	if err == nil {
		if err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			err = &fs.PathError{Op: "mount", Path: path, Err: err}
		}
	}
	if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked and ends with the goroutine: no other may run in this namespace.
		return errors.Join(err, os.NewSyscallError("setns", back))
	}
	runtime.UnlockOSThread()
	return err
}

// loopbackUp brings lo up in the network namespace of the thread.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return fmt.Errorf("flags of lo: %w", err)
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}
