// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

const (
	// maxCopied is the greatest number of files that tmpcopyup copies. The tmpfs and the
	// container's memory limit their content; the runtime must limit their list.
	maxCopied = 100_000
	// copiedAtOnce is the number of files that one child copies.
	copiedAtOnce = 1024
)

// copyUp fills a tmpfs with the content of the directory that it will cover. This process, whose
// user may not be the files' owner, makes the list; a second child in the container's cgroup and
// user namespace copies.
func (m *mountInputs) copyUp(ctx context.Context) error {
	field, from, to, err := m.receiveCopy()
	if err != nil {
		return fmt.Errorf("mounts: tmpcopyup: %w", err)
	}
	defer from.Close()
	defer to.Close()
	l := lister{top: int(from.Fd())}
	if slices.ContainsFunc(m.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.UserNamespace
	}) {
		for _, f := range []struct {
			name string
			into *[]specs.LinuxIDMapping
		}{{"uid_map", &l.uids}, {"gid_map", &l.gids}} {
			if *f.into, err = readIDMap(fmt.Sprintf("/proc/%d/%s", m.child.PID, f.name)); err != nil {
				return fmt.Errorf("%s: tmpcopyup: %w", field, err)
			}
		}
	}
	if err := l.list(ctx); err != nil {
		return fmt.Errorf("%s: tmpcopyup: %w", field, err)
	}
	inputs := map[plan.Input]int{
		plan.InputCopySource: int(from.Fd()),
		plan.InputCopyTarget: int(to.Fd()), plan.InputContainer: m.child.PIDFD,
	}
	m.cgroup.addTo(inputs)
	o := plan.Options{Cgroups: m.cgroup.hierarchies, CgroupByParent: m.cgroup.byManager}
	for part := range slices.Chunk(l.entries, copiedAtOnce) {
		child, err := launch.Start(launch.Request{
			Plan:   plan.BuildCopy(m.spec, field, o, part),
			Inputs: inputs, Cgroup: m.cgroup.unified, Reserved: 3, OnSync: m.cgroup.attach,
			Deadline: m.r.deadline,
		})
		if err != nil {
			return fmt.Errorf("%s: tmpcopyup: %w", field, err)
		}
		if err := child.Follow(ctx, plan.SyncReady); err != nil {
			return err // names the field and the file
		}
		child.Wait()
	}
	return nil
}

// receiveCopy receives the child's message: the index of a mount, a clone of the directory that it
// covers, and the tmpfs.
func (m *mountInputs) receiveCopy() (field plan.Field, from, to *os.File, err error) {
	payload, fds, err := receiveDescriptors(m.copies, 2)
	if err != nil {
		return field, nil, nil, err
	}
	from, to = os.NewFile(uintptr(fds[0]), "source"), os.NewFile(uintptr(fds[1]), "tmpfs")
	field = plan.Field{Path: "mounts", Index: -1}
	if i, err := strconv.Atoi(string(payload)); err == nil && i >= 0 && i < len(m.spec.Mounts) {
		field.Index, field.Note = i, m.spec.Mounts[i].Destination
	}
	return field, from, to, nil
}

// readIDMap reads a file such as /proc/PID/uid_map (user_namespaces(7)).
func readIDMap(name string) (out []specs.LinuxIDMapping, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var m specs.LinuxIDMapping
		if _, err := fmt.Sscan(lines.Text(), &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// lister lists the files below a directory. Each directory is opened below the first, without
// symbolic links, and each file is looked at in its directory.
type lister struct {
	top int
	// uids and gids are those of the user namespace that the owners are for; nil is this process's
	// own.
	uids, gids []specs.LinuxIDMapping
	entries    []plan.CopyEntry
}

func (l *lister) list(ctx context.Context) error {
	if err := l.add(l.top, "", "."); err != nil {
		return err
	}
	for i := 0; i < len(l.entries); i++ {
		if l.entries[i].Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.folder(l.entries[i].Path); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) folder(dir string) error {
	fd, err := unix.Openat2(l.top, dir, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH |
			unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	names, err := f.Readdirnames(maxCopied - len(l.entries) + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := l.add(fd, dir, name); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) add(dirfd int, dir, name string) error {
	var st unix.Stat_t
	flags := unix.AT_SYMLINK_NOFOLLOW
	if dir == "" {
		flags |= unix.AT_EMPTY_PATH
		name = ""
	}
	if err := unix.Fstatat(dirfd, name, &st, flags); err != nil {
		return fmt.Errorf("stat %s: %w", path.Join(dir, name), err)
	}
	e := plan.CopyEntry{Path: path.Join(dir, name), Mode: st.Mode, Size: st.Size, Device: st.Rdev}
	if dir == "" {
		e.Path = "."
	}
	var ok bool
	if e.UID, ok = inNamespace(l.uids, st.Uid); !ok {
		return fmt.Errorf(
			"%s belongs to user %d of the host, whom the container's user namespace does not map", e.Path,
			st.Uid)
	}
	if e.GID, ok = inNamespace(l.gids, st.Gid); !ok {
		return fmt.Errorf(
			"%s belongs to group %d of the host, which the container's user namespace does not map", e.Path,
			st.Gid)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dirfd, name, target)
		if err != nil {
			return fmt.Errorf("readlink %s: %w", e.Path, err)
		}
		e.Target = string(target[:n])
	}
	if len(l.entries) == maxCopied {
		return fmt.Errorf("found more than %d files", maxCopied)
	}
	l.entries = append(l.entries, e)
	return nil
}

// inNamespace returns the number that an id of this process's user namespace has in another one
// with these mappings.
func inNamespace(mappings []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	if mappings == nil {
		return id, true
	}
	for _, m := range mappings {
		if id >= m.HostID && id-m.HostID < m.Size {
			return m.ContainerID + (id - m.HostID), true
		}
	}
	return math.MaxUint32, false
}
