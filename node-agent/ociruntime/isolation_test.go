// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/procfs"
)

func TestNamespaces(t *testing.T) {
	w := newWorld(t)
	s := w.start(w.spec("/bin/sleep", "1000"))
	link := func(pid any, ns string) string {
		target, err := os.Readlink(fmt.Sprintf("/proc/%v/ns/%s", pid, ns))
		w.must(err)
		return target
	}
	for _, ns := range []string{"pid", "net", "ipc", "uts", "mnt", "cgroup"} {
		if link("self", ns) == link(s.PID, ns) {
			t.Errorf("the container has the %s namespace of the host", ns)
		}
	}
	if link("self", "user") != link(s.PID, "user") {
		t.Error("the container has a user namespace that it has not asked for")
	}
}

func TestJoinedNamespaces(t *testing.T) {
	w := newWorld(t)
	first := w.start(w.spec("/bin/sleep", "1000"))
	spec := w.sh(`readlink /proc/self/ns/net; hostname; ls -d /proc/1 && cat /proc/1/comm`)
	spec.Linux.CgroupsPath += "-2"
	for i, n := range spec.Linux.Namespaces {
		if n.Type == "network" {
			spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/net", first.PID)
		}
		if n.Type == "pid" {
			spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", first.PID)
		}
	}
	network, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", first.PID))
	w.must(err)
	second := &world{t: t, dir: w.dir, rt: w.rt, id: w.id + "-2", cgroup: w.cgroup + "-2"}
	second.prints(spec, network+"\ntested\n/proc/1\nsleep\n")
	spec.Linux.Namespaces[0].Path = "/proc/self/ns/uts"
	second.fails(spec, "linux.namespaces (pid, /proc/self/ns/uts): setns: invalid argument")
	spec.Linux.Namespaces[0].Path = ""
	spec.Linux.Namespaces[1].Path = "/does/not/exist"
	second.fails(spec, "linux.namespaces[1] (network): openat2: no such file or directory")
}

// TestWaitingChildIsClosed: a child that waits for start in a shared pid namespace shows its
// descriptors and memory to nobody in it.
func TestWaitingChildIsClosed(t *testing.T) {
	w := newWorld(t)
	s := w.create(w.sh("true"))
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.PID))
	w.must(err)
	for _, fd := range fds {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", s.PID, fd.Name()))
		if st, err := os.Stat(fmt.Sprintf("/proc/%d/fd/%s", s.PID, fd.Name())); err == nil &&
			st.IsDir() && !strings.HasPrefix(target, "/") {
			t.Errorf("descriptor %s is the directory %s", fd.Name(), target)
		}
	}
	// A process of the same user with the same capabilities may look into another (ptrace(2),
	// Ptrace access mode checking), unless that cannot be dumped.
	second := &world{t: t, dir: w.dir, rt: w.rt, id: w.id + "-2", cgroup: w.cgroup + "-2"}
	spec := second.sh(
		`readlink /proc/1/fd/0 >/dev/null || cat /proc/1/environ >/dev/null 2>&1 && echo open || echo closed`)
	spec.Linux.CgroupsPath = second.cgroup
	spec.Linux.Namespaces[0].Path = fmt.Sprintf("/proc/%d/ns/pid", s.PID)
	second.prints(spec, "closed\n")
}

func TestCgroup(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("/bin/sleep", "1000")
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
	spec.Linux.Resources.CPU = &specs.LinuxCPU{
		Shares: ptr(uint64(512)), Quota: ptr(int64(50000)),
		Period: ptr(uint64(100000)),
	}
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(33))}
	s := w.start(spec)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.PID))
	w.must(err)
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if _, path, _ := strings.Cut(line[strings.Index(line, ":")+1:], ":"); path != w.cgroup {
			t.Errorf("in %s; want %s in every hierarchy", line, w.cgroup)
		}
	}
	is := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %s; want %s", what, got, want)
		}
	}
	is("the memory limit", w.cgroupFile("memory", "memory.limit_in_bytes", "memory.max"), "67108864")
	is("the limit of processes", w.cgroupFile("pids", "pids.max", "pids.max"), "33")
	if unified() {
		is("the share of time", w.cgroupFile("", "", "cpu.max"), "50000 100000")
		if weight := w.cgroupFile("", "", "cpu.weight"); weight == "100" || weight == "" {
			t.Errorf("cpu.weight is %s, which is the default", weight)
		}
	} else {
		is("the quota", w.cgroupFile("cpu", "cpu.cfs_quota_us", ""), "50000")
		is("the period", w.cgroupFile("cpu", "cpu.cfs_period_us", ""), "100000")
		is("the shares", w.cgroupFile("cpu", "cpu.shares", ""), "512")
	}
}

// TestDeviceRules: by default a container opens the default devices and no other.
func TestDeviceRules(t *testing.T) {
	w := newWorld(t)
	spec := w.sh(
		`echo x > /dev/null && dd if=/dev/zero of=/dev/null count=1 2>/dev/null; (exec 3< /dev/other) 2>/dev/null && echo open || echo refused`)
	// loop-control
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/other", Type: "c", Major: 10, Minor: 237}}
	w.prints(spec, "refused\n")
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices,
		specs.LinuxDeviceCgroup{
			Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(237)),
			Access: "rwm",
		})
	out, _, err := w.try(spec)
	if err != nil || out != "open\n" {
		// The node may be there and the driver not: then open(2) fails later, with another errno
		// than EPERM.
		spec.Process.Args[2] = `cat /dev/other 2>&1; true`
		if out := w.run(spec); strings.Contains(out, "Operation not permitted") {
			t.Errorf("a device that is allowed: %s", out)
		}
	}
}

// TestMemoryLimitOfOneMiB: a container's own making costs it no more memory than that.
func TestMemoryLimitOfOneMiB(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("echo started")
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(1 << 20))}
	for range 5 {
		w.prints(spec, "started\n")
	}
	spec = w.spec("sleep", "1000")
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(1 << 20))}
	w.start(spec)
	if got := w.cgroupFile("memory", "memory.limit_in_bytes", "memory.max"); got != "1048576" {
		t.Errorf("the limit is %s", got)
	}
	w.execPrints(ExecOptions{Process: &specs.Process{
		Args: []string{"/bin/busybox", "echo", "joined"},
		Cwd:  "/",
	}}, "joined\n")
}

// TestKilledOrEnded: Start distinguishes a program that the kernel has killed, maybe while loading
// it, from one that has run and ended of itself, as a shell does whose command was killed: that is
// its exit status, and no failure to start.
func TestKilledOrEnded(t *testing.T) {
	leaktest.Check(t)
	for script, want := range map[string]bool{
		"kill -KILL $$": true, "exit 137": false,
		"exit 9": false, "kill -TERM $$": false,
	} {
		cmd := exec.Command("sh", "-c", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		rec := &record{PID: cmd.Process.Pid, Boot: bootID()}
		rec.StartTime = startTime(rec.PID)
		for rec.alive() {
			goruntime.Gosched()
		}
		if got := rec.killed(); got != want {
			t.Errorf("%s: killed is %v, want %v", script, got, want)
		}
		_ = cmd.Wait()
		if rec.killed() {
			t.Errorf("%s: killed, though it has been reaped", script)
		}
	}
}

func TestMemoryLimitTooLow(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("true")
	// With 40 KiB, the program begins now and then, and is killed then.
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(12 << 10))}
	w.fails(spec, "linux.resources.memory.limit", "memory limit too low?")
	w.save(spec)
	s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
	if err == nil { // it sufficed for the plan: then it is execve that it does not suffice for
		err = w.rt.Start(background, w.id)
		w.end(w.id, s.PID)
	}
	if err == nil || !strings.Contains(err.Error(), "linux.resources.memory.limit") {
		t.Errorf("create and start: %v", err)
	}
}

func TestProcessAttributes(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("/bin/sleep", "1000")
	spec.Process.OOMScoreAdj = ptr(500)
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: "SCMP_ACT_ALLOW", Architectures: []specs.Arch{
			"SCMP_ARCH_X86_64",
			"SCMP_ARCH_AARCH64",
		},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"ptrace"}, Action: "SCMP_ACT_ERRNO"}},
	}
	s := w.start(spec)
	w.awaitProgram(s.PID, "sleep")
	const three = "0000000000000421" // CHOWN 0, KILL 5, NET_BIND_SERVICE 10
	for key, want := range map[string]string{
		"CapInh": "0000000000000000", "CapPrm": three, "CapEff": three, "CapBnd": three,
		"CapAmb":     "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2", "Groups": "", "Uid": "0\t0\t0\t0",
		"SigBlk": "0000000000000000", "SigIgn": "0000000000000000",
	} {
		if got := statusLine(t, s.PID, key); got != want {
			t.Errorf("%s is %q; want %q", key, got, want)
		}
	}
	if adj, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.PID)); err != nil ||
		string(adj) != "500\n" {
		t.Errorf("oom_score_adj is %q, %v", adj, err)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.PID))
	if err != nil || len(fds) != 3 {
		t.Errorf("the program has %d descriptors, %v; want 3", len(fds), err)
	}
}

func TestUser(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("id -u; id -g; id -G; umask; grep -E 'CapEff|CapAmb' /proc/self/status")
	caps := []string{"CAP_KILL"}
	spec.Process.User = specs.User{
		UID: 1234, GID: 2345, AdditionalGids: []uint32{10, 20},
		Umask: ptr(uint32(0o077)),
	}
	spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: caps, Effective: caps,
		Permitted: caps, Inheritable: caps, Ambient: caps,
	}
	w.prints(spec,
		"1234\n2345\n2345 10 20\n0077\nCapEff:\t0000000000000020\nCapAmb:\t0000000000000020\n")

	// What the kernel does not grant is left out with a warning (config.md, Linux Process): buildah
	// asks for such ambient ones.
	both := []string{"CAP_CHOWN", "CAP_KILL"}
	spec = w.sh("grep -E 'CapPrm|CapEff|CapAmb' /proc/self/status")
	spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: both, Effective: both,
		Permitted: caps, Inheritable: caps, Ambient: both,
	}
	w.prints(spec, "CapPrm:\t0000000000000020\nCapEff:\t0000000000000020\nCapAmb:\t0000000000000020\n")

	spec = w.sh("umask; grep -E 'NoNewPrivs|CapEff' /proc/self/status")
	spec.Process.NoNewPrivileges, spec.Process.Capabilities = false, nil
	w.prints(spec, "0022\nCapEff:\t0000000000000000\nNoNewPrivs:\t0\n")
}

// TestSeccompFiltersAreKept: the second container has its filter from the first, and a damaged one
// is not used.
func TestSeccompFiltersAreKept(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("mkdir /x 2>&1; true")
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: "SCMP_ACT_ALLOW",
		Syscalls: []specs.LinuxSyscall{
			{
				Names: []string{"mkdir", "mkdirat"}, Action: "SCMP_ACT_ERRNO",
				ErrnoRet: ptr(uint(unix.ENOSPC)),
			},
		},
	}
	const denied = "mkdir: can't create directory '/x': No space left on device\n"
	w.prints(spec, denied)
	dir := filepath.Join(w.dir, "run", filterDir)
	kept, err := os.ReadDir(dir)
	w.must(err)
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 || len(kept) != 1 {
		t.Fatalf("kept %v in %v, %v", kept, st, err)
	}
	file := filepath.Join(dir, kept[0].Name())
	first, err := os.ReadFile(file)
	w.must(err)
	w.prints(spec, denied)
	w.must(os.WriteFile(file, append([]byte("damaged"), first[7:]...), 0o600))
	w.prints(spec, denied)
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, first) {
		t.Errorf("the damaged filter was not replaced, %v", err)
	}
	if all, err := w.rt.List(background); err != nil || len(all) != 0 || len(w.warned) != 0 {
		t.Errorf("List takes the directory for a container: %v, %v, %q", all, err, w.warned)
	}
}

// TestSeccompWithoutNoNewPrivileges: the filter is there before privileges go, and the rest of the
// plan works under it.
func TestSeccompWithoutNoNewPrivileges(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("grep Seccomp: /proc/self/status; mkdir /x 2>&1; mkdir /y 2>&1")
	spec.Process.NoNewPrivileges, spec.Process.User.UID = false, 0
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: "SCMP_ACT_ALLOW", Architectures: []specs.Arch{
			"SCMP_ARCH_X86_64",
			"SCMP_ARCH_AARCH64",
		},
		Syscalls: []specs.LinuxSyscall{{
			Names: []string{"mkdir", "mkdirat"}, Action: "SCMP_ACT_ERRNO",
			ErrnoRet: ptr(uint(28)),
		}},
	}
	out, _, err := w.try(spec)
	w.must(err)
	if !strings.HasPrefix(out, "Seccomp:\t2\n") || strings.Count(out, "No space left on device") != 2 {
		t.Errorf("found %q", out)
	}
}

// TestCapabilitiesThatTheHostLacks are left out with a warning, as the spec asks.
func TestCapabilitiesThatTheHostLacks(t *testing.T) {
	w := newWorld(t)
	host, err := w.rt.Host()
	w.must(err)
	spec := w.sh("grep CapPrm /proc/self/status")
	spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding:  allCapabilities,
		Effective: allCapabilities, Permitted: allCapabilities,
	}
	w.prints(spec, fmt.Sprintf("CapPrm:\t%016x\n", host.Permitted&(1<<41-1)))
	if lacks := host.Permitted&(1<<41-1) != 1<<41-1; lacks != (len(w.warned) > 0) {
		t.Errorf("the host can grant %x; warnings: %q", host.Permitted, w.warned)
	}
}

// TestCapabilitiesThatTheKernelRefuses: no capability that cannot be granted is a reason to fail
// (config.md, Linux Process).
func TestCapabilitiesThatTheKernelRefuses(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("grep Cap /proc/self/status")
	kill, both := []string{"CAP_KILL"}, []string{"CAP_KILL", "CAP_CHOWN"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: kill, Effective: both,
		Permitted: both, Inheritable: both, Ambient: both,
	}
	// Root gets what its permitted set and the bounding set have in common (capabilities(7),
	// execve).
	w.prints(spec,
		"CapInh:\t0000000000000020\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\nCapBnd:\t0000000000000020\nCapAmb:\t0000000000000020\n")
}

func TestRlimits(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -s")
	spec.Process.Rlimits = []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200},
		{Type: "RLIMIT_CORE"},
		{Type: "RLIMIT_STACK", Soft: 4 << 20, Hard: 8 << 20},
	}
	w.prints(spec, "100\n200\n0\n4096\n")
	// So few that the plan's own descriptors are above them.
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 4, Hard: 4}}
	w.prints(spec, "4\n4\n"+w.run(w.sh("ulimit -c; ulimit -s")))
	w.save(spec)
	s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
	w.must(err)
	w.must(w.rt.Start(background, w.id))
	w.end(w.id, s.PID)
	// An address space too small for the runtime itself.
	spec = w.sh("ulimit -v")
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS", Soft: 64 << 20, Hard: 64 << 20}}
	w.prints(spec, "65536\n")

	spec = w.sh("true")
	var limit unix.Rlimit
	w.must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	spec.Process.Rlimits = []specs.POSIXRlimit{{
		Type: "RLIMIT_NOFILE", Soft: limit.Max + 1,
		Hard: limit.Max + 1,
	}}
	if host, err := w.rt.Host(); err == nil && host.Permitted>>unix.CAP_SYS_RESOURCE&1 == 0 {
		w.fails(spec, "process.rlimits[0] (RLIMIT_NOFILE): prlimit64: operation not permitted")
	}
}

func TestFilesystem(t *testing.T) {
	w := newWorld(t)
	w.must(os.MkdirAll(filepath.Join(w.dir, "source/sub"), 0o755))
	w.must(os.WriteFile(filepath.Join(w.dir, "source/file"), []byte("from the host\n"), 0o644))
	w.write("/etc/masked", "secret\n", 0o644)
	w.write("/etc/folder/masked", "secret\n", 0o644)
	w.write("/etc/folder2/masked", "secret\n", 0o644)
	w.write("/etc/folder3/masked", "secret\n", 0o644)
	w.write("/etc/readonly/file", "data\n", 0o644)
	source := filepath.Join(w.dir, "source")
	bind := func(spec *specs.Spec, from, to string, options ...string) *specs.Spec {
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: to, Type: "bind", Source: from,
			Options: append(options, "rbind"),
		})
		return spec
	}
	for name, c := range map[string]struct {
		spec *specs.Spec
		want string
	}{
		"hostname": {w.sh("hostname"), "tested\n"},
		"read-only path that is the root": {func() *specs.Spec {
			spec := w.sh("touch /made 2>&1; touch /dev/made && echo made")
			spec.Linux.ReadonlyPaths = []string{"/"}
			return spec
		}(), "touch: /made: Read-only file system\nmade\n"},
		"devices": {w.sh(
			"for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$d; done; for l in ptmx fd stdin; do readlink /dev/$l; done"), "/dev/null character special file 1:3 666\n/dev/zero character special file 1:5 666\n/dev/full character special file 1:7 666\n/dev/random character special file 1:8 666\n/dev/urandom character special file 1:9 666\n/dev/tty character special file 5:0 666\npts/ptmx\n/proc/self/fd\n/proc/self/fd/0\n"},
		"devpts": {w.sh("stat -c %a /dev/pts/ptmx; exec 3<>/dev/ptmx && ls /dev/pts"), "666\n0\nptmx\n"},
		"shm": {
			w.sh(
				"grep ' /dev/shm ' /proc/self/mountinfo | grep -o size=[0-9]*k; stat -c %a /dev/shm"),
			"size=1024k\n1777\n",
		},
		"mqueue": {w.sh("touch /dev/mqueue/q && ls /dev/mqueue"), "q\n"},
		"read-only": {func() *specs.Spec {
			s := w.sh("touch /x 2>&1; touch /dev/shm/x && echo ok")
			s.Root.Readonly = true
			return s
		}(), "touch: /x: Read-only file system\nok\n"},
		"cwd is made": {func() *specs.Spec {
			s := w.sh("pwd; stat -c %a .")
			s.Process.Cwd = "/made/for/me"
			return s
		}(), "/made/for/me\n755\n"},
		"bind file": {bind(w.sh("cat /new/name; echo more >> /new/name; tail -n 1 /new/name"), source+
			"/file", "/new/name"), "from the host\nmore\n"},
		"bind folder": {bind(w.sh("ls /deep/er"), source, "/deep/er"), "file\nsub\n"},
		"bind ro": {
			bind(w.sh("cat /ro/sub 2>/dev/null; touch /ro/x 2>&1"), source, "/ro", "ro"),
			"touch: /ro/x: Read-only file system\n",
		},
		"bind rro": {
			bind(w.sh("touch /rro/x 2>&1"), source, "/rro", "rro"),
			"touch: /rro/x: Read-only file system\n",
		},
		"bind noexec": {bind(w.sh("grep ' /ne ' /proc/self/mountinfo | cut -d' ' -f6"), source, "/ne",
			"noexec", "nosuid", "nodev", "noatime"), "rw,nosuid,nodev,noexec,noatime\n"},
		"masked": {func() *specs.Spec {
			s := w.sh("cat /etc/masked; for f in folder folder2 folder3; do ls -A /etc/$f; touch /etc/$f/x 2>&1; done; stat -c %t:%T /etc/masked")
			s.Linux.MaskedPaths = []string{
				"/etc/masked", "/etc/folder", "/nonexistent", "/etc/masked/x",
				"/etc/folder2", "/etc/folder3",
			}
			return s
		}(), "touch: /etc/folder/x: Read-only file system\ntouch: /etc/folder2/x: Read-only file system\ntouch: /etc/folder3/x: Read-only file system\n1:3\n"},
		"one masked": {func() *specs.Spec {
			s := w.sh("cat /proc/version")
			s.Linux.MaskedPaths = []string{"/proc/version"}
			return s
		}(), ""},
		"readonly": {func() *specs.Spec {
			s := w.sh("cat /etc/readonly/file; touch /etc/readonly/x 2>&1; touch /etc/x && echo ok; echo 1 2>&1 > /proc/sys/kernel/msgmax")
			s.Linux.ReadonlyPaths = []string{"/etc/readonly", "/nonexistent", "/proc/sys"}
			s.Process.Args[2] += "; true"
			return s
		}(), "data\ntouch: /etc/readonly/x: Read-only file system\nok\n/bin/sh: can't create /proc/sys/kernel/msgmax: Read-only file system\n"},
		"home": {w.sh("echo $HOME"), "/\n"},
		"home in env": {func() *specs.Spec {
			s := w.sh("echo $HOME")
			s.Process.Env = append(s.Process.Env, "HOME=/h")
			return s
		}(), "/h\n"},
		"sysctl": {func() *specs.Spec {
			s := w.sh("cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start")
			s.Linux.Sysctl = map[string]string{
				"kernel.msgmax":                       "4242",
				"net.ipv4.ip_unprivileged_port_start": "80",
			}
			return s
		}(), "4242\n80\n"},
		"device": {func() *specs.Spec {
			s := w.sh("stat -c '%F %t:%T %a %u:%g' /dev/deep/x /dev/p")
			s.Linux.Devices = []specs.LinuxDevice{
				{
					Path: "/dev/deep/x", Type: "c", Major: 10, Minor: 229,
					FileMode: ptr(os.FileMode(0o640)), UID: ptr(uint32(5)), GID: ptr(uint32(6)),
				},
				{Path: "/dev/p", Type: "p"},
			}
			return s
		}(), "character special file a:e5 640 5:6\nfifo 0:0 666 0:0\n"},
		"read-only dev": {func() *specs.Spec {
			s := w.sh("echo x > /dev/null; touch /dev/x 2>&1; stat -c %t:%T /dev/null")
			s.Mounts[1].Options = append(s.Mounts[1].Options, "ro")
			return s
		}(), "touch: /dev/x: Read-only file system\n1:3\n"},
		"other dev": {func() *specs.Spec {
			s := w.sh("ls /dev")
			s.Mounts[1] = specs.Mount{
				Destination: "/dev", Type: "bind", Source: source,
				Options: []string{"rbind"},
			}
			s.Mounts = append(s.Mounts[:2], s.Mounts[5:]...)
			return s
		}(), "file\nsub\n"},
		"personality": {func() *specs.Spec {
			s := w.sh("cat /proc/self/personality")
			s.Linux.Personality = &specs.LinuxPersonality{Domain: "LINUX32"}
			return s
		}(), "00000008\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := *w
			s.t = t
			out, _, err := s.try(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			if strings.ReplaceAll(out, "/bin/sh: can't", "sh: can't") != strings.ReplaceAll(c.want,
				"/bin/sh: can't", "sh: can't") {
				t.Errorf("it printed:\n%s\nwant:\n%s", out, c.want)
			}
		})
	}
	var host [2]string
	for i, f := range []string{"kernel/msgmax", "net/ipv4/ip_unprivileged_port_start"} {
		data, err := os.ReadFile("/proc/sys/" + f)
		w.must(err)
		host[i] = strings.TrimSpace(string(data))
	}
	if host[0] == "4242" || host[1] == "80" {
		t.Errorf("the host's own parameters have changed: %q", host)
	}
}

func TestHomeOfUser(t *testing.T) {
	w := newWorld(t)
	w.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\nu:x:77:7::/home/u:/bin/sh\n", 0o644)
	spec := w.sh("echo $HOME")
	spec.Process.User.UID = 77
	w.prints(spec, "/home/u\n")
	for _, env := range [][]string{{"HOME="}, {"HOME=/other", "HOME="}} {
		spec.Process.Env = env
		w.prints(spec, "/home/u\n")
	}
}

// TestEnvironmentTwice: of a name that comes twice the last holds, though programs look for the
// first.
func TestEnvironmentTwice(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("cat", "/proc/self/environ")
	spec.Process.Env = []string{"PATH=/none", "A=1", "HOME=/a", "B=", "A=2=3", "HOME=/b", "PATH=/bin"}
	w.prints(spec, "B=\x00A=2=3\x00HOME=/b\x00PATH=/bin\x00")
}

// TestCgroupMount shows a container its own cgroup, and lets it write to none.
func TestCgroupMount(t *testing.T) {
	for _, c := range []struct{ namespace, writable bool }{
		{true, false},
		{true, true},
		{false, false},
		{false, true},
	} {
		t.Run(fmt.Sprintf("namespace=%v,writable=%v", c.namespace, c.writable), func(t *testing.T) {
			w := newWorld(t)
			dir := "/sys/fs/cgroup"
			if !unified() {
				dir += "/memory"
			}
			spec := w.sh("grep -c . " + dir + "/cgroup.procs; mkdir " + dir + "/x 2>&1 && rmdir " + dir +
				"/x; ls -d " + dir + w.cgroup + " 2>/dev/null; true")
			if !c.namespace {
				spec.Linux.Namespaces = spec.Linux.Namespaces[:5]
			}
			want := "mkdir: can't create directory '" + dir + "/x': Read-only file system\n"
			if c.writable {
				// As docker and podman write for --privileged.
				spec.Mounts[6].Options, want = []string{"nosuid", "rw"}, "\n"
			}
			out := w.run(spec)
			if !strings.HasSuffix(out, want) || strings.Count(out, "\n") > 2 || out[0] < '1' ||
				out[0] > '3' {
				t.Errorf("it printed:\n%s", out)
			}
		})
	}
}

func TestUserNamespace(t *testing.T) {
	w := newWorld(t)
	const base = 100000
	w.must(filepath.WalkDir(w.file("/"), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, base, base)
	}))
	spec := w.sh(
		"id -u; id -g; cat /proc/self/uid_map | tr -s ' '; echo x > /dev/null; stat -c %t:%T /dev/null; touch /made; stat -c %u /made; readlink /proc/self/fd/1 >/dev/null; echo again > /dev/stdout")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: 65536}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = []string{"/proc/kcore", "/sys/firmware"},
		[]string{"/proc/sys"}
	spec.Process.Capabilities.Bounding = append(spec.Process.Capabilities.Bounding, "CAP_SYS_RESOURCE")
	w.prints(spec, "0\n0\n 0 100000 65536\n1:3\n0\nagain\n")
	for _, warning := range w.warned {
		if strings.Contains(warning, "CAP_SYS_RESOURCE") {
			t.Errorf("in a user namespace of its own it can be granted: %s", warning)
		}
	}
	var raw unix.Stat_t
	w.must(unix.Stat(w.file("/made"), &raw))
	if raw.Uid != base {
		t.Errorf("the file is %d's on the host; want %d", raw.Uid, base)
	}
	spec.Process.User.UID, spec.Process.User.GID = 1000, 1000
	spec.Process.Args[2] = "id -u; id -g; echo again > /dev/stdout"
	w.prints(spec, "1000\n1000\nagain\n")
}

// TestUserNamespaceJoinsOthers: namespaces that belong to the host's user namespace are joined all
// the same with a new user namespace and with one that is there already, and the runtime's own
// thread is where it was afterwards.
func TestUserNamespaceJoinsOthers(t *testing.T) {
	w := newWorld(t)
	const base = 100000
	w.must(filepath.WalkDir(w.file("/"), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, base, base)
	}))
	kinds := map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "uts": "uts"}
	others := exec.Command(busybox, "sleep", "1000")
	others.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUTS}
	w.must(others.Start())
	defer func() { _ = others.Process.Kill(); _ = others.Wait() }()
	ns := func(pid any, kind string) string {
		link, err := os.Readlink(fmt.Sprintf("/proc/%v/ns/%s", pid, kind))
		w.must(err)
		return link
	}
	own := map[string]string{}
	for _, kind := range kinds {
		own[kind] = ns("self", kind)
	}
	spec := w.sh("for k in net ipc uts; do readlink /proc/self/ns/$k; done")
	spec.Hostname = ""
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool {
		return m.Type == "mqueue" || m.Type == "sysfs" || m.Type == "cgroup"
	})
	for i, n := range spec.Linux.Namespaces {
		if kind := kinds[n.Type]; kind != "" {
			spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", others.Process.Pid, kind)
		}
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: 65536}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
	want := ns(others.Process.Pid, "net") + "\n" + ns(others.Process.Pid, "ipc") + "\n" +
		ns(others.Process.Pid, "uts") + "\n"
	w.prints(spec, want)

	// The user namespace is another's as well.
	user := exec.Command(busybox, "sleep", "1000")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: base, Size: 65536}}
	user.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids,
		GidMappings: ids,
	}
	w.must(user.Start())
	defer func() { _ = user.Process.Kill(); _ = user.Wait() }()
	spec.Linux.Namespaces[len(spec.Linux.Namespaces)-1].Path = fmt.Sprintf("/proc/%d/ns/user",
		user.Process.Pid)
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = nil, nil
	w.prints(spec, want)
	for kind, link := range own {
		if now := ns("self", kind); now != link {
			t.Errorf("the runtime's own %s namespace is %s now; it was %s", kind, now, link)
		}
	}
}

// TestTerminal makes one, sends its master through the console socket, and gives it the size that
// is asked for.
func TestTerminal(t *testing.T) {
	w := newWorld(t)
	socket := filepath.Join(w.dir, "console.sock")
	if len(socket) > 100 {
		t.Fatal("the temporary folder's path is too long for a socket")
	}
	listener, err := net.Listen("unix", socket)
	w.must(err)
	defer listener.Close()
	spec := w.sh(
		`tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo console > /dev/console; stat -c '%u' /dev/pts/0; read x; echo "got $x"`)
	spec.Process.Terminal, spec.Process.ConsoleSize = true, &specs.Box{Width: 91, Height: 37}
	spec.Process.User.UID, spec.Process.User.GID = 7, 5
	w.save(spec)
	fds := received(t, listener)
	s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle(), ConsoleSocket: socket})
	w.must(err)
	master := os.NewFile(uintptr(<-fds), "ptmx")
	defer master.Close()
	w.must(w.rt.Start(background, w.id))
	_, err = master.WriteString("input\n")
	w.must(err)
	var out bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			break // EIO: the last process has gone
		}
	}
	for _, want := range []string{
		"/dev/pts/0\r\n", "37 91\r\n", "all\r\n", "console\r\n", "7\r\n",
		"got input\r\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("found %q; want it to have %q", out.String(), want)
		}
	}
	w.end(w.id, s.PID)

	_, err = w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
	if err == nil || !strings.Contains(err.Error(), "process.terminal: ") {
		t.Errorf("without a console socket: %v", err)
	}
	_, err = w.rt.Create(background, w.id, CreateOptions{
		Bundle:        w.bundle(),
		ConsoleSocket: "/nonexistent",
	})
	if err == nil || !strings.Contains(err.Error(), "--console-socket: ") {
		t.Errorf("with a socket that is not there: %v", err)
	}
}

// TestPropagation: a bind mount that is to be shared with the host is; nothing else that the
// container mounts or unmounts, the host's old root least of all, shows there.
func TestPropagation(t *testing.T) {
	w := newWorld(t)
	source := filepath.Join(w.dir, "source")
	w.must(os.MkdirAll(filepath.Join(source, "sub"), 0o755))
	done := make(chan struct{})
	onThread(func() {
		defer close(done)
		// A thread with a mount namespace of its own stands for the host.
		for _, err := range []error{
			unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""),
			unix.Mount("tmpfs", source, "tmpfs", 0, ""), os.Mkdir(filepath.Join(source, "sub"), 0o755),
		} {
			if err != nil {
				t.Error(err)
				return
			}
		}
		mounts := func() string {
			data, err := os.ReadFile("/proc/thread-self/mountinfo")
			if err != nil {
				t.Error(err)
			}
			return string(data)
		}
		for _, c := range []struct {
			root, volume string
			seen         bool
		}{
			{"rshared", "rshared", true},
			{"shared", "shared", true},
			{"rslave", "rslave", false},
			{"", "", false},
			{"rprivate", "rprivate", false},
			{"rshared", "rprivate", false},
		} {
			before := mounts()
			spec := w.sh(
				"mkdir -p /other && mount -t tmpfs none /other && mount -t tmpfs none /volume/sub && grep ' /volume ' /proc/self/mountinfo | grep -c shared: ; true")
			spec.Process.Capabilities = &specs.LinuxCapabilities{
				Bounding:  []string{"CAP_SYS_ADMIN"},
				Effective: []string{"CAP_SYS_ADMIN"}, Permitted: []string{"CAP_SYS_ADMIN"},
			}
			spec.Linux.RootfsPropagation = c.root
			options := []string{"rbind"}
			if c.volume != "" {
				options = append(options, c.volume)
			}
			spec.Mounts = append(spec.Mounts, specs.Mount{
				Destination: "/volume", Type: "bind",
				Source: source, Options: options,
			})
			out, _, err := w.try(spec)
			if err != nil {
				t.Errorf("%+v: %v", c, err)
				continue
			}
			after := mounts()
			added := strings.Count(after, "\n") - strings.Count(before, "\n")
			want := 0
			if c.seen {
				want = 1
			}
			if added != want || !strings.HasPrefix(after,
				before[:strings.LastIndexByte(strings.TrimSpace(before), '\n')]) {
				t.Errorf("%+v (printed %q): the host has %d mounts more; want %d\nbefore:\n%s\nafter:\n%s", c,
					out, added, want, before, after)
			}
			if c.seen {
				if err := unix.Unmount(filepath.Join(source, "sub"), 0); err != nil {
					t.Errorf("%+v: %v", c, err)
				}
			}
		}
	})
	<-done
}

// onThread calls f on a thread that ends with it, and is not the process's first: that is what
// /proc/self shows.
func onThread(f func()) {
	go func() {
		goruntime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		defer goruntime.UnlockOSThread()
		ended := make(chan struct{})
		// not here, since this goroutine holds the first thread
		onThread(func() { defer close(ended); f() })
		<-ended
	}()
}

// TestRootIsASymbolicLink: root.path is the host's, whose links count.
func TestRootIsASymbolicLink(t *testing.T) {
	w := newWorld(t)
	w.must(os.Symlink("rootfs", filepath.Join(w.bundle(), "link")))
	spec := w.sh("echo in $(readlink /bin/sh)")
	spec.Root.Path = "link"
	w.prints(spec, "in busybox\n")
}

// received accepts one connection and returns the descriptor that it sends.
func received(t *testing.T, listener net.Listener) <-chan int {
	fds := make(chan int, 1)
	go func() {
		defer close(fds)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		oob := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 128), oob)
		conn.Close() // before the test goes on, which counts descriptors at its end
		if err != nil {
			t.Error(err)
			return
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(messages) != 1 {
			t.Errorf("%d messages, %v", len(messages), err)
			return
		}
		rights, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(rights) != 1 {
			t.Errorf("%d descriptors, %v", len(rights), err)
			return
		}
		fds <- rights[0]
	}()
	return fds
}

// TestPidfdSocket: who listens gets a pidfd of the container's first process.
func TestPidfdSocket(t *testing.T) {
	w := newWorld(t)
	socket := filepath.Join(w.dir, "pidfd.sock")
	listener, err := net.Listen("unix", socket)
	w.must(err)
	defer listener.Close()
	w.save(w.sh("true"))
	fds := received(t, listener)
	s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle(), PidfdSocket: socket})
	w.must(err)
	fd := <-fds
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	w.must(err)
	if want := fmt.Sprintf("Pid:\t%d\n", s.PID); !strings.Contains(string(info), want) {
		t.Errorf("found %q; want it to have %q", info, want)
	}
	w.must(w.rt.Start(background, w.id))
	w.end(w.id, s.PID)
	w.must(unix.Close(fd))
	if _, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle(), PidfdSocket: socket +
		"-none"}); err == nil || !strings.Contains(err.Error(), "--pidfd-socket") {
		t.Errorf("without a listener: %v", err)
	}
}

// TestLoopback: in a network namespace of its own a container can reach itself; in one that it
// joins nothing is changed.
func TestLoopback(t *testing.T) {
	w := newWorld(t)
	const upAndLoopback = "0x9\n" // IFF_UP|IFF_LOOPBACK
	w.prints(w.sh("cat /sys/class/net/lo/flags"), upAndLoopback)
}

// TestCommandOfTheWaitingProcess: by its name Start knows whether a process that was killed had
// become its program.
func TestCommandOfTheWaitingProcess(t *testing.T) {
	w := newWorld(t)
	s := w.create(w.spec("/bin/sleep", "1000"))
	rec := &record{PID: s.PID}
	if got := rec.command(); got == "" || got == "sleep\n" {
		t.Errorf("before start: %q", got)
	}
	w.must(w.rt.Start(background, w.id))
	w.must(unix.Kill(s.PID, unix.SIGKILL))
	w.await("it has ended", func() bool { st, _ := procfs.ReadStat(s.PID); return st.State == 'Z' })
	if got := rec.command(); got != "sleep\n" {
		t.Errorf("after it was killed: %q", got)
	}
}
