// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// WithRootless reports whether cgroups are those that a plain user may make: where he may not, a
// container without limits is made without a cgroup. Unless this is said it is so for every user
// but the host's root.
func WithRootless(rootless bool) Option { return func(r *Runtime) { r.rootless = &rootless } }

// WithStickyRoot sets the sticky bit of the root directory, which keeps it from being pruned where
// it lies in $XDG_RUNTIME_DIR (XDG Base Directory Specification).
func WithStickyRoot() Option { return func(r *Runtime) { r.sticky = true } }

// isRootless reports whether this process may lack the right to create cgroups.
func (r *Runtime) isRootless(host plan.Host) bool {
	if r.rootless != nil {
		return *r.rootless
	}
	return host.PlainUser || host.UserNamespace
}

// makeRoot creates the root directory.
func (r *Runtime) makeRoot() error {
	if err := os.MkdirAll(r.root, 0o700); err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	if err := CheckRoot(r.root); err != nil {
		return err
	}
	if r.sticky {
		if err := os.Chmod(r.root, 0o700|os.ModeSticky); err != nil {
			return fmt.Errorf("--root: %w", err)
		}
	}
	return nil
}

// CheckRoot refuses a root directory in which another user could exchange this user's files.
func CheckRoot(dir string) error {
	// of a symbolic link and of what it leads to
	for _, stat := range []func(string, *unix.Stat_t) error{unix.Lstat, unix.Stat} {
		var st unix.Stat_t
		if err := stat(dir, &st); err != nil {
			return fmt.Errorf("--root: %w", &os.PathError{Op: "stat", Path: dir, Err: err})
		}
		if own := uint32(os.Geteuid()); st.Uid != own && st.Uid != 0 {
			return fmt.Errorf("--root: %s belongs to user %d; allowed is a directory of user %d or of root",
				dir, st.Uid, own)
		}
		strangers := st.Mode&0o002 != 0 || st.Mode&0o020 != 0 && st.Gid != uint32(os.Getegid()) &&
			st.Gid != 0
		if st.Mode&unix.S_IFMT == unix.S_IFDIR && strangers && st.Mode&unix.S_ISVTX == 0 {
			return fmt.Errorf(
				"--root: others may write to %s (mode %#o); allowed is a directory that only its owner may write to, or one with the sticky bit", dir, st.Mode&0o7777)
		}
	}
	return nil
}

// InUserNamespace reports whether this process is in a user namespace other than the host's, which
// maps every id to itself (user_namespaces(7)).
func InUserNamespace() bool {
	in, _ := inUserNamespace() // where it cannot be read, what depends on it fails of itself
	return in
}

func inUserNamespace() (bool, error) {
	data, err := os.ReadFile("/proc/self/uid_map")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a kernel without user namespaces
	}
	return err == nil && !slices.Equal(strings.Fields(string(data)), []string{"0", "0", "4294967295"}),
		err
}

// UserRoot returns the directory in which the containers of this process's user are recorded:
// DefaultRoot for the host's root, $XDG_RUNTIME_DIR/berth, with xdg, for others. It fails if there
// is none. Root of a user namespace counts as the plain user who has created it, unless $USER says
// otherwise, as for runc.
func UserRoot() (dir string, xdg bool, err error) {
	if os.Geteuid() == 0 && (!InUserNamespace() || os.Getenv("USER") == "root") {
		return DefaultRoot, false, nil
	}
	if runDir := os.Getenv("XDG_RUNTIME_DIR"); runDir != "" {
		return filepath.Join(runDir, filepath.Base(DefaultRoot)), true, nil
	}
	if os.Geteuid() == 0 {
		return DefaultRoot, false, nil
	}
	return DefaultRoot, false,
		errors.New("--root: found nothing, and XDG_RUNTIME_DIR is not set; for who is not root one of the two has to name a directory of his own")
}

// checkUser refuses options that only root can use.
func checkUser(spec *specs.Spec) error {
	if os.Geteuid() == 0 {
		return nil
	}
	if !slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.UserNamespace
	}) {
		return errors.New(
			"linux.namespaces: found none of type user; who is not root needs one, with linux.uidMappings and linux.gidMappings, as `berth spec --rootless` writes")
	}
	return nil
}

// pids returns the container's processes, as this process's pid namespace numbers them: those of
// its cgroup or, without one, of its pid namespace.
func (rec *record) pids() ([]int, error) {
	if len(rec.Cgroups) > 0 {
		g, err := cgroup.Open(rec.Cgroups)
		if err != nil {
			return nil, err
		}
		return g.Pids()
	}
	if !rec.alive() {
		return nil, nil
	}
	namespace, _ := os.Readlink(pidNamespace(rec.PID))
	if namespace == "" || !rec.OwnPIDs {
		return []int{rec.PID}, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if link, err := os.Readlink(pidNamespace(pid)); err == nil && link == namespace {
			out = append(out, pid)
		}
	}
	return out, nil
}

func pidNamespace(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/ns/pid" }

// signalAll sends a signal to every process of a container without a cgroup.
func (rec *record) signalAll(sig unix.Signal) error {
	pids, err := rec.pids()
	if err != nil {
		return err
	}
	namespace, _ := os.Readlink(pidNamespace(rec.PID))
	for _, pid := range pids {
		fd, gone := unix.PidfdOpen(pid, 0)
		if gone != nil {
			continue
		}
		// The pid may be another's by now.
		if link, _ := os.Readlink(pidNamespace(pid)); link == namespace {
			if e := unix.PidfdSendSignal(fd, sig, nil, 0); e != nil && !errors.Is(e, unix.ESRCH) {
				err = errors.Join(err, fmt.Errorf("kill %d: %w", pid, e))
			}
		}
		unix.Close(fd)
	}
	return err
}
