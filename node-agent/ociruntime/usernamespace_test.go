// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
)

// mappedBase is the host's id of root in a user namespace of mapped.
const mappedBase = 100000

func (w *world) inUserNamespace(spec *specs.Spec) *specs.Spec {
	w.mapped(spec)
	return spec
}

// TestUserNamespaceBehindClosedDirectories: the bundle and a volume lie in a directory that is root's
// alone, which the container's root is not on the host.
func TestUserNamespaceBehindClosedDirectories(t *testing.T) {
	w := newWorld(t)
	volume := filepath.Join(w.dir, "closed/volume")
	w.must(os.MkdirAll(volume, 0o755))
	w.must(os.Chown(volume, mappedBase+1000, mappedBase+1000))
	w.must(os.WriteFile(filepath.Join(w.dir, "closed/secret"), []byte("root's"), 0o644))
	spec := w.inUserNamespace(w.sh("stat -c %u:%g /volume; touch /volume/made 2>&1; id -u"))
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/volume", Type: "bind", Source: volume,
		Options: []string{"rbind", "rw"},
	})
	w.must(os.Chmod(filepath.Join(w.dir, "closed"), 0o700))
	w.must(os.Chmod(w.dir, 0o700))
	w.prints(spec, "1000:1000\ntouch: /volume/made: Permission denied\n0\n")
	w.must(os.Chown(volume, mappedBase, mappedBase))
	w.prints(spec, "0:0\n0\n")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(volume, "made"), &st); err != nil || st.Uid != mappedBase {
		t.Errorf("the file that the container's root has made: %+v, %v", st, err)
	}
}

// TestUserNamespaceOwnersDirectory mounts a directory that its owner alone may search, and whose group
// has no id in the container, so that the capabilities of the container's root do not count there.
// It is the working directory of its owner.
func TestUserNamespaceOwnersDirectory(t *testing.T) {
	w := newWorld(t)
	private := filepath.Join(w.dir, "private")
	w.must(os.Mkdir(private, 0o700))
	w.must(os.Chown(private, mappedBase+1000, 0))
	spec := w.inUserNamespace(w.sh("pwd; touch made; id -u"))
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/new/place", Type: "bind",
		Source: private, Options: []string{"rbind", "rw"},
	})
	spec.Process.User, spec.Process.Cwd = specs.User{UID: 1000, GID: 1000}, "/new/place"
	w.prints(spec, "/new/place\n1000\n")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(private, "made"), &st); err != nil || st.Uid != mappedBase+1000 {
		t.Errorf("the file that the container has made: %+v, %v", st, err)
	}
	spec.Process.User = specs.User{UID: 1001, GID: 1001}
	w.save(spec)
	if p, err := w.rt.Run(background, w.id, CreateOptions{Bundle: w.bundle()}); err == nil {
		p.Wait()
		t.Error("another user got into the folder of its owner")
	} else if !strings.Contains(err.Error(), "process.cwd") || !strings.Contains(err.Error(),
		"permission denied") {
		t.Errorf("found the error %v", err)
	}
}

// TestUserNamespaceBehindAnotherUsersDirectories: the bundle and volumes lie in a directory of mode 0700
// that is another user's, so that the runtime may pass it by its capabilities alone, which it does
// not have in the container's user namespace. A link on the way is followed, a link that is the
// source itself with src-nofollow is not.
func TestUserNamespaceBehindAnotherUsersDirectories(t *testing.T) {
	for _, joined := range []bool{false, true} {
		t.Run(fmt.Sprintf("joined=%v", joined), func(t *testing.T) {
			w := newWorld(t)
			ns := specs.LinuxNamespace{Type: specs.UserNamespace}
			if joined {
				first := w.start(w.inUserNamespace(w.spec("sleep", "1000")))
				ns.Path = fmt.Sprintf("/proc/%d/ns/user", first.PID)
				id := w.id
				w.id += "-2"
				defer func() { w.id = id }()
			}
			closed := filepath.Join(w.dir, "closed")
			w.must(os.MkdirAll(filepath.Join(closed, "volume/below"), 0o755))
			w.must(os.Chown(filepath.Join(closed, "volume"), mappedBase, mappedBase))
			w.must(os.WriteFile(filepath.Join(closed, "file"), []byte("file\n"), 0o644))
			w.must(os.Symlink(closed, filepath.Join(w.dir, "link")))
			w.must(os.Symlink("nowhere", filepath.Join(closed, "dangling")))
			w.must(unix.Mount("tmpfs", filepath.Join(closed, "volume/below"), "tmpfs", unix.MS_NOSUID,
				"mode=755"))
			defer func() { w.must(unix.Unmount(filepath.Join(closed, "volume/below"), unix.MNT_DETACH)) }()
			spec := w.sh(
				"cat /f; touch /volume/made; stat -c %u /volume/made; mount -o remount,bind,suid /volume/below 2>&1 | grep -c denied; umount /volume/below 2>&1 | grep -c Invalid; readlink /l")
			spec.Process.Capabilities.Bounding = append(spec.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
			spec.Process.Capabilities.Effective,
				spec.Process.Capabilities.Permitted = spec.Process.Capabilities.Bounding,
				spec.Process.Capabilities.Bounding
			if !joined {
				w.mapped(spec)
			} else {
				spec.Linux.Namespaces = []specs.LinuxNamespace{
					{Type: "pid"},
					{Type: "mount"},
					{Type: "uts"},
					{Type: "ipc"},
					ns,
				}
				spec.Linux.CgroupsPath, spec.Mounts = "/"+w.id, spec.Mounts[:4]
			}
			spec.Mounts = append(spec.Mounts,
				specs.Mount{Destination: "/ok", Type: "bind", Source: "/etc", Options: []string{"rbind", "ro"}},
				specs.Mount{
					Destination: "/f", Type: "bind", Source: filepath.Join(w.dir, "link/file"),
					Options: []string{"rbind"},
				},
				specs.Mount{
					Destination: "/l", Type: "bind", Source: filepath.Join(closed, "dangling"),
					Options: []string{"rbind", "src-nofollow", "dest-nofollow"},
				},
				specs.Mount{
					Destination: "/volume", Type: "bind", Source: filepath.Join(closed, "volume"),
					Options: []string{"rbind", "rw"},
				})
			w.must(os.Symlink("elsewhere", w.file("l")))
			w.must(os.Chown(closed, 1234, 1234))
			w.must(os.Chmod(closed, 0o700))
			const want = "file\n0\n1\n1\nnowhere\n"
			w.prints(spec, want)
			w.must(os.Remove(filepath.Join(closed, "volume/made")))
			// The root filesystem as well.
			w.must(os.Chown(w.dir, 1234, 1234))
			w.must(os.Chmod(w.dir, 0o700))
			w.prints(spec, want)
			spec.Mounts[len(spec.Mounts)-1].Source = filepath.Join(closed, "missing")
			w.fails(spec, fmt.Sprintf("mounts[%d] (/volume): open %s/missing: no such file or directory",
				len(spec.Mounts)-1, closed))
		})
	}
}

// TestOOMScoreInUserNamespace: the parent has the right to set it, the child no longer.
func TestOOMScoreInUserNamespace(t *testing.T) {
	w := newWorld(t)
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	w.must(err)
	spec := w.inUserNamespace(w.sh("cat /proc/self/oom_score_adj"))
	spec.Process.OOMScoreAdj = ptr(1)
	if strings.TrimSpace(string(data)) != "0" {
		t.Skipf("needs an oom_score_adj of 0; found %s", data)
	}
	w.prints(spec, "1\n")
}

// TestJoinUserNamespace: what is new in a container that joins another's user namespace belongs to
// that, or its root could mount nothing; what is another's of that user namespace can be joined.
func TestJoinUserNamespace(t *testing.T) {
	w := newWorld(t)
	first := w.start(w.inUserNamespace(w.spec("sleep", "1000")))
	ns := func(kind specs.LinuxNamespaceType) specs.LinuxNamespace {
		return specs.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%d/ns/%s", first.PID,
			strings.TrimSuffix(string(kind), "work"))}
	}
	second := w.id + "-2"
	for name, c := range map[string]struct {
		namespaces []specs.LinuxNamespace
		want       string
	}{
		"new": {[]specs.LinuxNamespace{
			{Type: "pid"},
			{Type: "mount"},
			{Type: "uts"},
			{Type: "ipc"},
			ns("user"), ns("network"),
		}, "1\n0\nmounted\n"},
		"joined": {[]specs.LinuxNamespace{
			{Type: "mount"},
			{Type: "uts"},
			ns("user"), ns("network"),
			ns("ipc"), ns("pid"),
		}, "0\nmounted\n"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := w.sh(
				"id -u; mkdir -p /x; mount -t tmpfs x /x && echo mounted; cut -d' ' -f4 /proc/self/stat >/dev/null")
			if name == "new" {
				spec.Process.Args[2] = "echo $$; " + spec.Process.Args[2]
			}
			spec.Process.Capabilities.Bounding = append(spec.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
			spec.Process.Capabilities.Effective,
				spec.Process.Capabilities.Permitted = spec.Process.Capabilities.Bounding,
				spec.Process.Capabilities.Bounding
			spec.Linux.Namespaces, spec.Linux.CgroupsPath = c.namespaces, "/"+second
			spec.Mounts = spec.Mounts[:6]
			id := w.id
			w.id = second
			defer func() { w.id = id }()
			w.prints(spec, c.want)
		})
	}
	// A namespace of the host's is joined before the user namespace is entered, which would have no
	// right to.
	spec := w.inUserNamespace(w.sh("readlink /proc/self/ns/net"))
	path := fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
	host, err := os.Readlink(path)
	w.must(err)
	spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: "pid"},
		{Type: "mount"},
		{Type: "user"},
		{Type: "network", Path: path},
	}
	spec.Linux.CgroupsPath, spec.Mounts, spec.Hostname = "/"+second, spec.Mounts[:4], ""
	id := w.id
	w.id = second
	defer func() { w.id = id }()
	w.prints(spec, host+"\n")
}

// TestMappingsOfAJoinedUserNamespace: a container that joins a user namespace has its mappings.
// Mappings in the document must be equal, and the streams of the process, and of later ones, belong
// to the mapped user.
func TestMappingsOfAJoinedUserNamespace(t *testing.T) {
	w := newWorld(t)
	first := w.start(w.inUserNamespace(w.spec("sleep", "1000")))
	id := w.id
	w.id += "-2"
	defer func() { w.id = id }()
	spec := w.sh("echo again > /proc/self/fd/1; stat -L -c %u:%F /proc/self/fd/1")
	spec.Process.User.UID = 7
	spec.Linux.CgroupsPath, spec.Mounts = "/"+w.id, spec.Mounts[:4]
	spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: "pid"},
		{Type: "mount"},
		{Type: "uts"},
		{Type: "user", Path: fmt.Sprintf("/proc/%d/ns/user", first.PID)},
	}
	w.prints(spec, "again\n7:fifo\n")
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: mappedBase, Size: 65536}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
	w.prints(spec, "again\n7:fifo\n")
	spec.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: mappedBase + 1, Size: 65536}}
	w.fails(spec,
		"linux.gidMappings: found [{0 100001 65536}]; the user namespace of linux.namespaces[3].path has [{0 100000 65536}]")
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = nil, nil
	spec.Process.Args, spec.Process.User.UID = []string{"sleep", "1000"}, 0
	second := w.start(spec)
	w.execPrints(ExecOptions{Process: &specs.Process{Args: []string{
		"/bin/sh", "-c",
		"echo again > /proc/self/fd/1; id -u",
	}, Cwd: "/", User: specs.User{UID: 9}}}, "again\n9\n")
	w.end(w.id, second.PID)
}

// TestUserNamespaceWithoutMappings runs and executes processes in a new user namespace that the
// document has no mappings for: their user is the caller, as with crun, and a warning says so.
func TestUserNamespaceWithoutMappings(t *testing.T) {
	const mapping = "         0          0          1\n"
	w := newWorld(t)
	spec := w.sh("cat /proc/self/uid_map /proc/self/gid_map; sleep 1000")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace})
	for i := range spec.Mounts {
		notMapped := func(option string) bool { return option == "gid=5" }
		spec.Mounts[i].Options = slices.DeleteFunc(spec.Mounts[i].Options, notMapped)
	}
	state := w.start(spec)
	defer w.end(w.id, state.PID)
	if got := w.execOutput("cat /proc/self/uid_map /proc/self/gid_map; id -u"); got != mapping+
		mapping+"0\n" {
		t.Errorf("the process has %q", got)
	}
	for _, field := range []string{"linux.uidMappings", "linux.gidMappings"} {
		want := field +
			": found nothing; allowed: the mappings of the new user namespace; the process's user is the caller"
		if !slices.Contains(w.warned, want) {
			t.Errorf("warnings %q; want %q", w.warned, want)
		}
	}
}

func TestMapCaller(t *testing.T) {
	leaktest.Check(t)
	given := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	own := []specs.LinuxIDMapping{{ContainerID: 7, HostID: uint32(os.Geteuid()), Size: 1}}
	for name, c := range map[string]struct {
		namespace          specs.LinuxNamespace
		uids, gids         []specs.LinuxIDMapping
		wantUIDs, wantGIDs []specs.LinuxIDMapping
		want               []string
	}{
		"none": {specs.LinuxNamespace{Type: specs.PIDNamespace}, nil, nil, nil, nil, nil},
		"joined": {
			specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/1/ns/user"},
			nil, nil,
			nil, nil, nil,
		},
		"given": {specs.LinuxNamespace{Type: specs.UserNamespace}, given, given, given, given, nil},
		"groups": {
			specs.LinuxNamespace{Type: specs.UserNamespace},
			given, nil, given,
			[]specs.LinuxIDMapping{{ContainerID: 8, HostID: uint32(os.Getegid()), Size: 1}},
			[]string{"linux.gidMappings"},
		},
		"users": {
			specs.LinuxNamespace{Type: specs.UserNamespace},
			nil, given, own, given,
			[]string{"linux.uidMappings"},
		},
	} {
		spec := &specs.Spec{
			Process: &specs.Process{User: specs.User{UID: 7, GID: 8}},
			Linux: &specs.Linux{
				Namespaces: []specs.LinuxNamespace{c.namespace}, UIDMappings: c.uids,
				GIDMappings: c.gids,
			},
		}
		filled := MapCaller(spec)
		var fields []string
		for _, f := range filled.Warnings() {
			fields = append(fields, f.Path)
		}
		if !slices.Equal(fields, c.want) || !slices.Equal(spec.Linux.UIDMappings, c.wantUIDs) ||
			!slices.Equal(spec.Linux.GIDMappings, c.wantGIDs) {
			t.Errorf("%s: filled in %v, mappings %v and %v", name, fields, spec.Linux.UIDMappings,
				spec.Linux.GIDMappings)
		}
	}
}
