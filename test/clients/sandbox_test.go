// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideEnv marks the test program that runs in the sandbox; its value is the directory for
// everything that the tests make.
const insideEnv = "BERTH_CLIENTS_INSIDE"

// hidden are the directories in which the clients keep their state: each is an empty tmpfs in the
// sandbox.
var hidden = []string{"/run", "/var/lib"}

// configured are the directories of /etc that the tests fill themselves.
var configured = []string{"/etc/containers", "/etc/containerd", "/etc/cni", "/etc/docker"}

// kept matches what clients leave in place for their next container: it has nothing in it.
var kept = regexp.MustCompile(
	`^(mount /var/lib/containers/storage/overlay|mount /run/netns|cgroup \S+/((libpod_)?parent(/conmon)?|default|docker|k8s\.io))$`)

var (
	berth string // the program under test
	repo  string // the checkout
	work  string // the directory for everything that the tests make
)

// The images, in the directory work: one of busybox as an OCI archive and as docker wants it, and
// one for the first container of a pod, which does nothing.
const (
	busyboxOCI    = "busybox.oci.tar"
	busyboxDocker = "busybox.docker.tar"
	pauseOCI      = "pause.oci.tar"

	busybox = "localhost/busybox:1"
	pause   = "localhost/pause:1"
)

func makeImages() error {
	commands := [][]string{
		{"--tag", busybox, "-o", filepath.Join(work, busyboxOCI)},
		{"--tag", busybox, "--format", "docker-archive", "-o", filepath.Join(work, busyboxDocker)},
		{"--tag", pause, "--cmd", `["sleep", "2147483647"]`, "-o", filepath.Join(work, pauseOCI)},
	}
	for _, args := range commands {
		cmd := exec.Command(filepath.Join(repo, "bin/berth-image"), append([]string{"--busybox"},
			args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			return 1, errors.New("needs root")
		}
		fmt.Println("clients: all tests skipped: they need root")
		return 0, nil
	}
	var err error
	if repo, err = filepath.Abs("../.."); err != nil {
		return 1, err
	}
	berth = filepath.Join(repo, "bin/berth")
	if b := os.Getenv("BERTH"); b != "" {
		berth = b
	}
	if _, err := os.Stat(berth); err != nil {
		return 1, fmt.Errorf("run `make test-clients`: %w", err)
	}
	work = os.Getenv(insideEnv)
	switch {
	case systemd():
		if err := guest(); err != nil {
			return 1, err
		}
		return m.Run(), nil
	case work == "":
		return outside()
	}
	if err := enter(); err != nil {
		return 1, err
	}
	before := leftovers()
	code := m.Run()
	var more []string
	// What has been signalled may take a moment to be gone.
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		more = nil
		for thing := range leftovers() {
			if !before[thing] {
				more = append(more, thing)
			}
		}
		if more == nil {
			return code, nil
		}
	}
	sort.Strings(more)
	return 1, fmt.Errorf("the tests have left over:\n%s", strings.Join(more, "\n"))
}

// systemd says that the tests run in a guest of hack/vm whose pid 1 is systemd. It makes the
// cgroups there, for processes that it knows by their numbers; so the tests run in its own
// namespaces, and the guest is their sandbox.
func systemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil && os.Getenv("BERTH_VM") != ""
}

// unified says that this machine has cgroup version 2.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// guest prepares a guest that ends with the tests: its root is an overlay, on which no client can
// keep images.
func guest() (err error) {
	if work, err = os.MkdirTemp("", "berth-clients-"); err != nil {
		return err
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	if err := makeImages(); err != nil {
		return err
	}
	for _, name := range []string{"containers", "containerd", "docker", "cni"} {
		directory := filepath.Join("/var/lib", name)
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", directory, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", directory, err)
		}
	}
	for _, name := range []string{"tmp", "home"} {
		if err := os.Mkdir(filepath.Join(work, name), 0o755); err != nil {
			return err
		}
	}
	return settle()
}

// settle clears the directories that the tests fill, and sets what they and the clients have as
// their environment.
func settle() error {
	for _, directory := range configured {
		if err := os.RemoveAll(directory); err != nil {
			return err
		}
	}
	for name, value := range map[string]string{
		"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": filepath.Join(work, "tmp"),
		"HOME": filepath.Join(work, "home"), "LANG": "C.UTF-8",
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

// outside runs the tests in a sandbox and removes what that needs on this machine: one directory,
// and one cgroup a hierarchy.
func outside() (code int, err error) {
	if work, err = os.MkdirTemp("", "berth-clients-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(work)
	// A rootless user has to reach the image.
	if err := os.Chmod(work, 0o755); err != nil {
		return 1, err
	}
	if err := makeImages(); err != nil {
		return 1, err
	}
	hierarchies, err := hierarchies()
	if err != nil {
		return 1, err
	}
	var groups []string
	defer func() {
		for _, g := range groups {
			if e := removeCgroup(g); e != nil && err == nil {
				code, err = 1, e
			}
		}
	}()
	for _, h := range hierarchies {
		g := filepath.Join(h, filepath.Base(work))
		if err := os.Mkdir(g, 0o755); err != nil {
			return 1, err
		}
		groups = append(groups, g)
		if err := inheritCpuset(h, g); err != nil {
			return 1, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	// Each group is the root of its hierarchy in the sandbox. Under version 2 the processes go
	// below: a group with processes in it, also with the one that waits for the sandbox, can hand
	// no controller to those below it. Pid 1 of the sandbox is an init that reaps orphans, of which
	// the clients make many.
	const script = `groups=$1; shift; for g in $groups; do echo $$ >"$g/cgroup.procs"; done
exec unshare --cgroup -- sh -ec '
groups=$1; shift
for g in $groups; do
	if test -e "$g/cgroup.controllers"; then mkdir "$g/clients"; echo $$ >"$g/clients/cgroup.procs"; fi
done
exec unshare --mount --pid --fork --kill-child --net --ipc --uts --propagation private -- tini -s -- "$@"' sh "$groups" "$@"`
	cmd := exec.Command("sh", append([]string{"-ec", script, "sh", strings.Join(groups, " "), self},
		os.Args[1:]...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"="+work)
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// hierarchies returns the mount points of cgroups on this machine.
func hierarchies() (found []string, err error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); strings.Contains(line, " - cgroup") &&
			strings.HasPrefix(f[4], "/sys/fs/cgroup") {
			found = append(found, f[4])
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroups are mounted on this machine")
	}
	return found, nil
}

// inheritCpuset gives a new cgroup its parent's processors: without, version 1 lets no process in.
func inheritCpuset(parent, group string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(parent, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not the hierarchy of cpuset, or the root of version 2, where there is no such need
		} else if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(group, name), data, 0); err != nil {
			return err
		}
	}
	return nil
}

func removeCgroup(group string) error {
	var dirs []string
	err := filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		// The last process may be on its way out.
		for range 50 * 60 {
			if err = os.Remove(dirs[i]); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return err
}

// enter completes the sandbox from inside: mounts, which show only what belongs to the new
// namespaces.
func enter() error {
	mount := func(source, target, kind string, flags uintptr, data string) error {
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", kind, target, err)
		}
		return nil
	}
	hierarchies, err := hierarchies()
	if err != nil {
		return err
	}
	kinds := map[string]string{}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		for i := range f {
			if f[i] == "-" {
				kinds[f[4]] = f[i+1] + " " + f[i+3]
			}
		}
	}
	const locked = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("proc", "/proc", "proc", locked, ""); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", locked, ""); err != nil {
		return err
	}
	if hierarchies[0] != "/sys/fs/cgroup" {
		if err := mount("cgroup", "/sys/fs/cgroup", "tmpfs", locked, "mode=755"); err != nil {
			return err
		}
	}
	for _, h := range hierarchies {
		if err := os.MkdirAll(h, 0o755); err != nil {
			return err
		}
		kind, options, _ := strings.Cut(kinds[h], " ")
		if kind == "cgroup2" {
			options = ""
		} else {
			options = strings.TrimPrefix(strings.TrimPrefix(options, "rw"), ",")
		}
		if err := mount("cgroup", h, kind, locked, options); err != nil {
			return err
		}
	}
	for _, directory := range hidden {
		if err := mount("tmpfs", directory, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
			return err
		}
	}
	for _, name := range []string{"tmp", "home", "etc"} {
		directory := filepath.Join(work, name)
		if err := os.Mkdir(directory, 0o755); err != nil {
			return err
		}
		if err := mount("tmpfs", directory, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	upper, scratch := filepath.Join(work, "etc/upper"), filepath.Join(work, "etc/work")
	for _, directory := range []string{upper, scratch} {
		if err := os.Mkdir(directory, 0o755); err != nil {
			return err
		}
	}
	if err := mount("etc", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+upper+",workdir="+
		scratch); err != nil {
		return err
	}
	if err := settle(); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}

// leftovers returns the things that a container or a daemon may leave behind: mounts, cgroups,
// processes.
func leftovers() map[string]bool {
	things := map[string]bool{}
	add := func(format string, args ...any) {
		if thing := fmt.Sprintf(format, args...); !kept.MatchString(thing) {
			things[thing] = true
		}
	}
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		add("mount %s", strings.Fields(line)[4])
	}
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			add("cgroup %s", path)
		}
		return nil
	})
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range pids {
		if name, err := os.ReadFile(p + "/cmdline"); err == nil {
			if len(name) == 0 { // a zombie, or one that is on its way out
				name, _ = os.ReadFile(p + "/stat")
			}
			add("process %s %s", filepath.Base(p), strings.ReplaceAll(string(name), "\x00", " "))
		}
	}
	return things
}
