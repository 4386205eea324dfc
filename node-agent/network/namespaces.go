// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/userns"
)

// Namespaces are pinned network namespaces: each is a bind mount in Dir, under the name of its
// container. A container with mapped ids also has its user namespace pinned, which owns the other
// one. Its methods look at what exists, and may be called again after the agent was killed.
type Namespaces struct {
	// Dir is an absolute path that does not outlive a boot.
	Dir string
}

// Path returns the path of a container's namespace, whether it exists or not.
func (n Namespaces) Path(id string) string { return filepath.Join(n.Dir, id) }

// usersDir has the user namespaces.
func (n Namespaces) usersDir() string { return n.Dir + "-users" }

// UsersPath returns the path of a container's user namespace, whether it exists or not.
func (n Namespaces) UsersPath(id string) string { return filepath.Join(n.usersDir(), id) }

// Exists reports whether a container's namespace is pinned.
func (n Namespaces) Exists(id string) (bool, error) { return isPinned(n.Path(id)) }

func isPinned(path string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("network namespace: %w", &fs.PathError{
			Op: "statfs", Path: path,
			Err: err,
		})
	}
	return st.Type == unix.NSFS_MAGIC, nil
}

// Ensure pins a new network namespace, in which loopback is up, unless the container has one. It
// returns the path. users is the first id of the container's range of ids, which a user namespace
// maps that owns the other one; 0 for the node's own ids.
func (n Namespaces) Ensure(id string, users uint32) (string, error) {
	path := n.Path(id)
	if exists, err := n.Exists(id); exists || err != nil {
		return path, err
	}
	if err := n.removeUsers(id); err != nil { // of an agent that was killed below
		return path, err
	}
	pin := func() error { return pinNew(path) }
	if users != 0 {
		if err := mountPoint(n.UsersPath(id)); err != nil {
			return path, err
		}
		pin = func() error { return pinOwned(path, n.UsersPath(id), users) }
	}
	if err := mountPoint(path); err != nil {
		return path, err
	}
	if err := pin(); err != nil {
		os.Remove(path)
		return path, errors.Join(fmt.Errorf("network namespace: %w", err), n.removeUsers(id))
	}
	return path, nil
}

// mountPoint creates the file that a namespace is mounted on. An agent that was killed leaves it
// without a mount.
func mountPoint(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	f.Close()
	return nil
}

// SameUsers reports whether a container's network namespace, if it has one, belongs to a user
// namespace of its own or not, as mapped says.
func (n Namespaces) SameUsers(id string, mapped bool) (bool, error) {
	exists, err := n.Exists(id)
	if err != nil || !exists {
		return true, err
	}
	users, err := isPinned(n.UsersPath(id))
	return users == mapped, err
}

// Remove unpins a container's namespace. The kernel destroys it once no process is in it. It is no
// error if there is none.
func (n Namespaces) Remove(id string) error {
	if err := unpin(n.Path(id)); err != nil {
		return err
	}
	return n.removeUsers(id)
}

func (n Namespaces) removeUsers(id string) error { return unpin(n.UsersPath(id)) }

func unpin(path string) error {
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
	ids := map[string]bool{}
	for _, dir := range []string{n.Dir, n.usersDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list network namespaces: %w", err)
		}
		for _, e := range entries {
			ids[e.Name()] = true
		}
	}
	return slices.Sorted(maps.Keys(ids)), nil
}

// pinOwned creates a user namespace and a network namespace that belongs to it, and mounts both.
// The network namespace is last: with it the container has both.
func pinOwned(path, usersPath string, first uint32) error {
	return userns.Create(first, unix.CLONE_NEWNET, func(pid int) error {
		net, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			return err
		}
		defer net.Close()
		if err := insideOf(net, loopbackUp); err != nil {
			return err
		}
		for _, pin := range [][2]string{{"user", usersPath}, {"net", path}} {
			source := fmt.Sprintf("/proc/%d/ns/%s", pid, pin[0])
			if err := unix.Mount(source, pin[1], "", unix.MS_BIND, ""); err != nil {
				return &fs.PathError{Op: "mount", Path: pin[1], Err: err}
			}
		}
		return nil
	})
}

// insideOf calls f in a network namespace, by a thread of its own.
func insideOf(net *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Setns(int(net.Fd()), unix.CLONE_NEWNET)
		if err != nil {
			err = os.NewSyscallError("setns", err)
		} else {
			err = f()
		}
		done <- err
	}()
	return <-done
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
