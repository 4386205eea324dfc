// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/resctrl"
)

// uptime returns the first number of /proc/uptime: CLOCK_BOOTTIME as its reader's time namespace
// has it.
func uptime(t *testing.T, text string) float64 {
	t.Helper()
	first, _, _ := strings.Cut(text, " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		t.Fatalf("/proc/uptime: %q", text)
	}
	return v
}

func hostUptime(t *testing.T) float64 {
	t.Helper()
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	return uptime(t, string(data))
}

func timeNamespace(spec *specs.Spec, path string,
	offsets map[string]specs.LinuxTimeOffset,
) *specs.Spec {
	spec.Linux.Namespaces = append(spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.TimeNamespace, Path: path})
	spec.Linux.TimeOffsets = offsets
	return spec
}

// mapUsers gives a container a user namespace, and its root filesystem to the namespace's root.
func (w *world) mapUsers(spec *specs.Spec) {
	w.t.Helper()
	const base = 100000
	w.must(filepath.WalkDir(w.file("/"), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, base, base)
	}))
	spec.Linux.Namespaces = append(spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace})
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: base, Size: 65536}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
}

func TestTimeNamespace(t *testing.T) {
	const script = `cat /proc/uptime; readlink /proc/self/ns/time; readlink /proc/self/ns/time_for_children; cat /proc/self/timens_offsets`
	offsets := map[string]specs.LinuxTimeOffset{
		"boottime":  {Secs: 86400, Nanosecs: 250},
		"monotonic": {Secs: -1, Nanosecs: 500000000},
	}
	host, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*world, *specs.Spec){
		"":     func(*world, *specs.Spec) {},
		"user": (*world).mapUsers,
	} {
		t.Run("new"+name, func(t *testing.T) {
			w := newWorld(t)
			spec := timeNamespace(w.sh(script), "", offsets)
			change(w, spec)
			before := hostUptime(t)
			lines := strings.Split(w.run(spec), "\n")
			if at := uptime(t, lines[0]); at < before+86399 || at > before+86400+60 {
				t.Errorf("the container's boot is %f s ago, the host's %f s; want a day more", at, before)
			}
			if lines[1] == host || lines[1] != lines[2] {
				t.Errorf("the time namespaces are %v and for children %v; the host's is %s", lines[1],
					lines[2], host)
			}
			found := strings.Join(strings.Fields(strings.Join(lines[3:], " ")), " ")
			if found != "monotonic -1 500000000 boottime 86400 250" {
				t.Errorf("/proc/self/timens_offsets: %s", found)
			}
		})
	}
	t.Run("joined", func(t *testing.T) {
		w := newWorld(t)
		first := w.start(timeNamespace(w.spec("/bin/sleep", "1000"), "", offsets))
		path := fmt.Sprintf("/proc/%d/ns/time", first.PID)
		link, err := os.Readlink(path)
		w.must(err)
		second := &world{t: t, dir: w.dir, rt: w.rt, id: w.id + "-2", cgroup: w.cgroup + "-2"}
		spec := timeNamespace(w.sh(`readlink /proc/self/ns/time`), path, nil)
		spec.Linux.CgroupsPath += "-2"
		second.prints(spec, link+"\n")
	})
	t.Run("out of range", func(t *testing.T) {
		w := newWorld(t)
		// Before the boot: the kernel's clocks do not go below zero.
		spec := timeNamespace(w.spec("/bin/true"), "",
			map[string]specs.LinuxTimeOffset{"monotonic": {Secs: -1 << 40}})
		w.fails(spec, "linux.timeOffsets", "numerical result out of range")
	})
}

func TestScheduler(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("/bin/sleep", "1000")
	spec.Process.Scheduler = &specs.Scheduler{
		Policy: specs.SchedBatch, Nice: 7,
		Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork},
	}
	spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	// It is for exec only (config.md, Linux Process): the first process may run everywhere.
	spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
	s := w.start(spec)
	attr, err := unix.SchedGetAttr(s.PID, 0)
	w.must(err)
	if attr.Policy != unix.SCHED_BATCH || attr.Nice != 7 ||
		attr.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
		t.Errorf("sched_getattr: %+v", attr)
	}
	prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(s.PID), 0)
	if errno != 0 || prio != 2<<13|6 {
		t.Errorf("ioprio_get: %#x, %v", prio, errno)
	}
	if own, now := statusLine(t, os.Getpid(), "Cpus_allowed_list"),
		statusLine(t, s.PID, "Cpus_allowed_list"); own != now {
		t.Errorf("the first process may run on %s, this one on %s", now, own)
	}
}

func TestRealtimeScheduler(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("/bin/sleep", "1000")
	spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedRR, Priority: 3}
	if !unified() { // a v1 group has no time for such policies of its own (sched-rt-group.rst)
		w.fails(spec, "process.scheduler: sched_setattr: operation not permitted", "realtimeRuntime")
		spec.Linux.Resources.CPU = &specs.LinuxCPU{
			RealtimePeriod:  ptr[uint64](1000000),
			RealtimeRuntime: ptr[int64](10000),
		}
	}
	s := w.start(spec)
	attr, err := unix.SchedGetAttr(s.PID, 0)
	w.must(err)
	if attr.Policy != unix.SCHED_RR || attr.Priority != 3 {
		t.Errorf("sched_getattr: %+v", attr)
	}
}

func TestDeadlineScheduler(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("/bin/sleep", "1000")
	spec.Process.Scheduler = &specs.Scheduler{
		Policy: specs.SchedDeadline, Runtime: 1000000,
		Deadline: 20000000, Period: 30000000,
	}
	s := w.start(spec)
	attr, err := unix.SchedGetAttr(s.PID, 0)
	w.must(err)
	if attr.Policy != unix.SCHED_DEADLINE || attr.Runtime != 1000000 || attr.Deadline != 20000000 ||
		attr.Period != 30000000 {
		t.Errorf("sched_getattr: %+v", attr)
	}
}

func TestSchedulerRefused(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("/bin/true")
	w.mapUsers(spec)
	spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: -5}
	w.fails(spec, "process.scheduler: sched_setattr: operation not permitted", "CAP_SYS_NICE")
}

func TestMemoryPolicy(t *testing.T) {
	for _, c := range []struct {
		policy specs.LinuxMemoryPolicy
		want   string // as numa_maps prints it (numa(7))
	}{
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}, "bind:0"},
		{specs.LinuxMemoryPolicy{
			Mode: specs.MpolInterleave, Nodes: "0",
			Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes},
		}, "interleave=static:0"},
		{specs.LinuxMemoryPolicy{
			Mode: specs.MpolPreferred, Nodes: "0",
			Flags: []specs.MemoryPolicyFlagType{specs.MpolFRelativeNodes},
		}, "prefer=relative:0"},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolPreferredMany, Nodes: "0"}, "prefer (many):0"},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolLocal}, "local"},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolDefault}, "default"},
	} {
		t.Run(string(c.policy.Mode), func(t *testing.T) {
			w := newWorld(t)
			spec := w.sh(`grep heap /proc/self/numa_maps`)
			spec.Linux.MemoryPolicy = &c.policy
			if out := w.run(spec); !strings.Contains(out, " "+c.want+" heap") {
				t.Errorf("numa_maps: %s; want %s", out, c.want)
			}
		})
	}
	t.Run("no such node", func(t *testing.T) {
		w := newWorld(t)
		spec := w.spec("/bin/true")
		spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "1000"}
		w.fails(spec, "linux.memoryPolicy: set_mempolicy: invalid argument",
			"/sys/devices/system/node/online")
	})
}

func TestPersonality(t *testing.T) {
	for domain, want := range map[specs.LinuxPersonalityDomain]string{
		specs.PerLinux:   "00000000",
		specs.PerLinux32: "00000008",
	} {
		t.Run(string(domain), func(t *testing.T) {
			w := newWorld(t)
			spec := w.sh(`cat /proc/self/personality`)
			spec.Linux.Personality = &specs.LinuxPersonality{Domain: domain}
			w.prints(spec, want+"\n")
		})
	}
}

func TestUmask(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		umask *uint32
		want  string
	}{{nil, "0022\n"}, {ptr[uint32](0o77), "0077\n"}, {ptr[uint32](0), "0000\n"}} {
		spec := w.sh(`umask`)
		spec.Process.User.Umask = c.umask
		w.prints(spec, c.want)
	}
}

func TestAdditionalGroups(t *testing.T) {
	w := newWorld(t)
	for _, user := range []bool{false, true} {
		spec := w.sh(`id -u; id -g; grep Groups /proc/self/status`)
		spec.Process.User = specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{7, 65535}}
		if user {
			w.mapUsers(spec)
		}
		w.prints(spec, "1000\n2000\nGroups:\t7 65535 \n")
	}
	spec := w.spec("/bin/true")
	w.mapUsers(spec)
	spec.Process.User = specs.User{UID: 65536, GID: 70000, AdditionalGids: []uint32{1, 65536}}
	w.fails(spec, "process.user.uid: found 65536", "process.user.gid: found 70000",
		"process.user.additionalGids[1]: found 65536")
}

// TestLimitsBeyondOurs: without CAP_SYS_RESOURCE, a limit that needs it fails with the field's name
// and says so.
func TestLimitsBeyondOurs(t *testing.T) {
	w := newWorld(t)
	var now unix.Rlimit
	w.must(unix.Getrlimit(unix.RLIMIT_MEMLOCK, &now))
	limit := specs.POSIXRlimit{Type: "RLIMIT_MEMLOCK", Soft: 1 << 20, Hard: now.Max + 4096}
	if now.Max == unix.RLIM_INFINITY {
		t.Log("the hard limit is infinite already")
		limit.Hard = now.Max
	}
	raise := w.sh(`ulimit -Hl`)
	raise.Process.Rlimits = []specs.POSIXRlimit{limit}
	lower := w.sh(`cat /proc/self/oom_score_adj`)
	lower.Process.OOMScoreAdj = ptr(-10)
	host, err := w.rt.Host()
	w.must(err)
	if host.Permitted>>unix.CAP_SYS_RESOURCE&1 == 0 {
		if limit.Hard != now.Max {
			w.fails(raise, "process.rlimits[0] (RLIMIT_MEMLOCK): prlimit64: operation not permitted",
				"CAP_SYS_RESOURCE")
		}
		w.fails(lower, "process.oomScoreAdj: write: permission denied", "CAP_SYS_RESOURCE")
		return
	}
	if out := strings.TrimSpace(w.run(raise)); out != "unlimited" &&
		out != fmt.Sprint(limit.Hard/1024) {
		t.Errorf("ulimit -Hl: %s", out)
	}
	w.prints(lower, "-10\n")
	w.mapUsers(raise)
	if out := strings.TrimSpace(w.run(raise)); out != "unlimited" &&
		out != fmt.Sprint(limit.Hard/1024) {
		t.Errorf("in a user namespace, ulimit -Hl: %s", out)
	}
	w.mapUsers(lower)
	w.prints(lower, "-10\n")
}

// TestHungMount: a bind source that does not answer is named when the deadline has passed, and
// nothing is left of the container.
func TestHungMount(t *testing.T) {
	w := newWorld(t)
	w.rt.deadline = 3 * time.Second // for each phase of the launch, on a busy machine too
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		if os.Getenv("CI") != "" && os.Getenv("BERTH_VM") == "" { // the guest's kernel has no modules
			t.Fatalf("needs /dev/fuse: %v", err)
		}
		t.Skipf("needs /dev/fuse: %v", err)
	}
	dead := filepath.Join(w.dir, "dead")
	w.must(os.Mkdir(dead, 0o755))
	// A filesystem whose server answers nothing.
	w.must(unix.Mount("dead", dead, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0",
		fuse)))
	defer func() {
		unix.Close(fuse)
		w.must(unix.Unmount(dead, unix.MNT_DETACH))
	}()
	spec := w.spec("/bin/true")
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/dead", Type: "bind",
		Source: filepath.Join(dead, "volume"), Options: []string{"bind"},
	})
	before := w.leftovers()
	w.fails(spec, "mounts[7] (/dead): open_tree has not returned", "deadline of 3s",
		filepath.Join(dead, "volume"), "fuse")
	if after := w.leftovers(); after != before {
		t.Errorf("left over, before:\n%s\nand after:\n%s", before, after)
	}
}

// TestHungStart: a created container that does not become its program is ended, and start says what
// the kernel does.
func TestHungStart(t *testing.T) {
	w := newWorld(t)
	s := w.create(w.spec("/bin/sleep", "1000"))
	w.must(unix.Kill(s.PID, unix.SIGSTOP))
	w.await("it has stopped", func() bool { st, _ := procfs.ReadStat(s.PID); return st.State == 'T' })
	w.rt.deadline = 300 * time.Millisecond
	err := w.rt.Start(background, w.id)
	var hung *launch.HungError
	if !errors.As(err, &hung) || hung.Wchan == "" || hung.PID != s.PID ||
		!strings.Contains(err.Error(), "process.args: execve has not returned") {
		t.Errorf("found %v (%+v)", err, hung)
	}
	w.await("its end", func() bool { return w.status() == "stopped" })
}

// TestSysctlOfEveryNamespace has a parameter of each namespace that has any.
func TestSysctlOfEveryNamespace(t *testing.T) {
	w := newWorld(t)
	spec := w.sh(
		`cd /proc/sys; cat kernel/shmmni kernel/msgmax kernel/sem fs/mqueue/msg_max net/ipv4/ip_forward net/ipv4/conf/lo/rp_filter kernel/domainname kernel/hostname`)
	spec.Domainname = "example.test"
	spec.Linux.Sysctl = map[string]string{
		"kernel.shmmni": "1234", "kernel.msgmax": "4321", "kernel.sem": "32000\t1024000000\t500\t31999",
		"fs.mqueue.msg_max":   "17",
		"net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/rp_filter": "2",
		"kernel.domainname": "example.test",
	}
	w.prints(spec, "1234\n4321\n32000\t1024000000\t500\t31999\n17\n1\n2\nexample.test\ntested\n")
	spec = w.sh(`cat /proc/sys/user/max_mnt_namespaces`)
	w.mapUsers(spec)
	spec.Linux.Sysctl = map[string]string{"user.max_mnt_namespaces": "99"}
	w.prints(spec, "99\n")
	spec.Linux.Sysctl = map[string]string{"net.ipv4.no_such_thing": "1"}
	w.fails(spec, "linux.sysctl.net.ipv4.no_such_thing: openat2: no such file or directory")
	spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "word"}
	w.fails(spec, "linux.sysctl.net.ipv4.ip_forward: write: invalid argument")
}

// TestSysctlInTheHostsPIDNamespace: in a user namespace with the host's pid namespace the kernel
// mounts no procfs. The image and the document have none of the files that are written, whatever
// they put in the place of /proc.
func TestSysctlInTheHostsPIDNamespace(t *testing.T) {
	w := newWorld(t)
	fake := filepath.Join(w.dir, "fake")
	w.must(os.MkdirAll(filepath.Join(fake, "net/ipv4"), 0o755))
	w.must(os.WriteFile(filepath.Join(fake, "net/ipv4/ip_unprivileged_port_start"),
		[]byte("untouched"), 0o666))
	host, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	w.must(err)
	for _, path := range []string{"", "/proc/self/ns/pid"} {
		spec := w.sh(
			"cat /real/sys/net/ipv4/ip_unprivileged_port_start /real/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start")
		w.mapped(spec)
		without(specs.PIDNamespace)(spec)
		if path != "" {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces,
				specs.LinuxNamespace{Type: specs.PIDNamespace, Path: path})
		}
		for i := range spec.Mounts {
			if spec.Mounts[i].Destination == "/proc" {
				spec.Mounts[i] = specs.Mount{
					Destination: "/proc", Type: "bind", Source: "/proc",
					Options: []string{"rbind"},
				}
			}
		}
		spec = mounted(spec, specs.Mount{
			Destination: "/real", Type: "bind", Source: "/proc",
			Options: []string{"rbind"},
		},
			specs.Mount{Destination: "/proc/sys", Type: "bind", Source: fake, Options: []string{"rbind"}})
		spec.Linux.Sysctl = map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "77",
			"net.ipv4.ping_group_range":           "0 0",
		}
		w.prints(spec, "77\n0\t0\nuntouched")
		if now, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err != nil ||
			string(now) != string(host) {
			t.Errorf("the host's is %q, %v; it was %q", now, err, host)
		}
	}
}

// fakeResctrl returns a directory in place of resctrl: there is no processor with it here.
func (w *world) fakeResctrl() (root string) {
	w.t.Helper()
	root = filepath.Join(w.dir, "fake-resctrl")
	w.must(os.MkdirAll(filepath.Join(root, "gold"), 0o755))
	w.must(os.WriteFile(filepath.Join(root, "gold/schemata"), []byte("L3:0=f\n"), 0o600))
	w.rt.resctrl = resctrl.Fake(root)
	return root
}

func (w *world) read(parts ...string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	w.must(err)
	return string(data)
}

func (w *world) missing(path string) {
	w.t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		w.t.Errorf("%s is there: %v", path, err)
	}
}

func TestIntelRdt(t *testing.T) {
	w := newWorld(t)
	root := w.fakeResctrl()
	spec := w.spec("/bin/sleep", "1000")
	spec.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=3", EnableMonitoring: true}
	s := w.start(spec)
	own, pid := filepath.Join(root, w.id), fmt.Sprintln(s.PID)
	if got := w.read(own, "schemata"); got != "L3:0=3\n" {
		t.Errorf("schemata: %q", got)
	}
	if got := w.read(own, "tasks") + w.read(own, "mon_groups", w.id, "tasks"); got != pid+pid {
		t.Errorf("tasks: %q; want %q of both groups", got, pid)
	}
	w.must(w.rt.UpdateIntelRdt(w.id, "", "MB:0=50"))
	stats, err := w.rt.IntelRdtStats(w.id)
	w.must(err)
	if stats.L3CacheSchema != "L3:0=3" || stats.MemBwSchema != "MB:0=50" {
		t.Errorf("stats: %+v", stats)
	}
	// A limit that cannot be set takes the schemas back.
	failing := Update{
		Resources:     &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "9999"}},
		L3CacheSchema: "L3:0=1", MemBwSchema: "MB:0=10",
	}
	if err := w.rt.Update(background, w.id, failing); err == nil || !strings.Contains(err.Error(),
		"linux.resources.cpu.cpus") {
		t.Errorf("an update of a processor that there is not: %v", err)
	}
	if stats, err := w.rt.IntelRdtStats(w.id); err != nil || stats.L3CacheSchema != "L3:0=3" ||
		stats.MemBwSchema != "MB:0=50" {
		t.Errorf("stats after an update that failed: %+v, %v", stats, err)
	}
	x, err := w.rt.Exec(background, w.id,
		ExecOptions{Process: &specs.Process{
			Args: []string{"/bin/true"}, Cwd: "/",
			NoNewPrivileges: true,
		}})
	w.must(err)
	x.Wait()
	if got := w.read(own, "tasks"); got != pid+fmt.Sprintln(x.PID) {
		t.Errorf("tasks after exec: %q", got)
	}
	w.end(w.id, s.PID)
	w.missing(own)

	spec.Linux.IntelRdt = nil
	s = w.start(spec)
	if err := w.rt.Update(background, w.id, failing); err == nil {
		t.Error("an update of a processor that there is not is none")
	}
	w.missing(filepath.Join(root, w.id))
	if rec, err := w.rt.load(w.id); err != nil || rec.Resctrl != nil {
		t.Errorf("the group that an update made and removed is recorded: %+v, %v", rec.Resctrl, err)
	}
	w.end(w.id, s.PID)
}

// TestSysctlOfTheHost: a namespace that is joined by its path may be the host's.
func TestSysctlOfTheHost(t *testing.T) {
	w := newWorld(t)
	for kind, key := range map[string]string{
		"net": "net.ipv4.ip_forward", "ipc": "kernel.msgmax",
		"uts": "kernel/domainname",
	} {
		spec := w.sh("true")
		for i, n := range spec.Linux.Namespaces {
			if strings.HasPrefix(string(n.Type), kind) {
				spec.Linux.Namespaces[i].Path = "/proc/self/ns/" + kind
			}
		}
		if kind == "uts" {
			spec.Hostname = ""
		}
		file := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
		data, err := os.ReadFile(file)
		w.must(err)
		spec.Linux.Sysctl = map[string]string{key: strings.TrimSpace(string(data))}
		w.fails(spec, fmt.Sprintf("linux.sysctl[%q]: found a parameter of the host's", key))
		if kind == "net" {
			// of another, which is the container's own
			spec.Linux.Sysctl = map[string]string{"kernel.msgmax": "4242"}
			spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool {
				return m.Type == "sysfs" || m.Type == "cgroup"
			})
			spec.Process.Args[2] = "cat /proc/sys/kernel/msgmax"
			w.prints(spec, "4242\n")
		}
	}
}

// TestDevicesInUserNamespace: devices have the document's name, mode and owner, none of which the
// host's node has.
func TestDevicesInUserNamespace(t *testing.T) {
	for _, joined := range []bool{false, true} {
		t.Run(fmt.Sprintf("joined=%v", joined), func(t *testing.T) {
			w := newWorld(t)
			spec := w.sh(
				`stat -c '%n %F %t:%T %a %u:%g' /dev/own /dev/default /data/disk /data/fifo; head -c 1 /dev/own | tr '\0' 0; echo; head -c 1 /dev/default 2>&1; chmod 777 /dev/own && echo its owner; for f in /proc/[0-9]*/fd/*; do test -e $f/0 && echo $f; done; grep -c berth-devices /proc/self/mountinfo`)
			spec.Process.User.UID = 5
			spec.Process.Capabilities.Effective = nil
			device := func(path, kind string, minor int64, mode os.FileMode, uid,
				gid uint32,
			) specs.LinuxDevice {
				return specs.LinuxDevice{
					Path: path, Type: kind, Major: 1, Minor: minor, FileMode: &mode,
					UID: &uid, GID: &gid,
				}
			}
			spec.Linux.Devices = []specs.LinuxDevice{
				device("/dev/own", "c", 5, 0o640, 5, 6),
				{Path: "/dev/default", Type: "u", Major: 1, Minor: 7},
				device("/data/disk", "b", 200, 0o600, 0, 70000), device("/data/fifo", "p", 0, 0o604, 7, 8),
			}
			allow := true
			spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{
				Allow:  allow,
				Access: "rwm",
			}}}
			if joined {
				first := w.start(w.inUserNamespace(w.spec("sleep", "1000")))
				id := w.id
				w.id += "-2"
				defer func() { w.id = id }()
				spec.Linux.Namespaces = []specs.LinuxNamespace{
					{Type: "pid"},
					{Type: "mount"},
					{Type: "uts"},
					{Type: "ipc"},
					{Type: "user", Path: fmt.Sprintf("/proc/%d/ns/user", first.PID)},
				}
				spec.Linux.CgroupsPath, spec.Mounts = "/"+w.id, spec.Mounts[:4]
			} else {
				w.mapped(spec)
			}
			w.prints(spec,
				"/dev/own character special file 1:5 640 5:6\n/dev/default character special file 1:7 666 0:0\n/data/disk block special file 1:c8 600 0:65534\n/data/fifo fifo 0:0 604 7:8\n"+
					"0\n\x00its owner\n3\n")
			if len(w.warned) != 1 || !strings.Contains(w.warned[0],
				"linux.devices[2].gid: found 70000, which the container's user namespace does not map") {
				t.Errorf("warned: %q", w.warned)
			}
		})
	}
}

// TestDevicesElsewhere: devices that cannot be created as documented fail or cause a warning.
func TestDevicesElsewhere(t *testing.T) {
	w := newWorld(t)
	device := func(path string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{
			Path: path, Type: "c", Major: major, Minor: minor,
			FileMode: ptr(os.FileMode(0o600)),
		}
	}
	// In a user namespace it is the host's node that is shown, where the runtime may make none.
	host, err := w.rt.Host()
	w.must(err)
	unable := host
	unable.Permitted &^= 1 << unix.CAP_MKNOD
	w.rt.host.host = &unable
	spec := w.inUserNamespace(w.sh("stat -c %t:%T /dev/full"))
	spec.Linux.Devices = []specs.LinuxDevice{device("/dev/full", 1, 7)}
	w.prints(spec, "1:7\n")
	if !slices.ContainsFunc(w.warned, func(s string) bool {
		return strings.Contains(s, "linux.devices[0]: in a user namespace the host's /dev/full is shown")
	}) {
		t.Errorf("warned: %q", w.warned)
	}
	spec.Linux.Devices = []specs.LinuxDevice{device("/dev/full", 1, 5)}
	w.fails(spec, "linux.devices[0] (/dev/full)",
		"in a user namespace what the host has there, is another file")
	w.rt.host.host = &host
	// A /dev that is bind mounted is another's to fill.
	dev := filepath.Join(w.dir, "dev")
	w.must(os.Mkdir(dev, 0o755))
	spec = w.sh("ls /dev; stat -c %t:%T:%a /x/device")
	spec.Mounts[1] = specs.Mount{
		Destination: "/dev", Type: "bind", Source: dev,
		Options: []string{"bind"},
	}
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool {
		return strings.HasPrefix(m.Destination, "/dev/")
	})
	spec.Linux.Devices = []specs.LinuxDevice{
		device("/dev/a", 1, 3), device("/x/device", 1, 5),
		device("/dev/b", 1, 7),
	}
	w.prints(spec, "1:5:600\n")
	if !slices.ContainsFunc(w.warned, func(s string) bool {
		return strings.Contains(s, "linux.devices: 2 of them are below /dev")
	}) {
		t.Errorf("warned: %q", w.warned)
	}
}

// TestIntelRdtUndone: where the launch fails, the groups go; one that a closID names stays.
func TestIntelRdtUndone(t *testing.T) {
	w := newWorld(t)
	root := w.fakeResctrl()
	spec := w.spec("/does/not/exist")
	spec.Linux.IntelRdt = &specs.LinuxIntelRdt{MemBwSchema: "MB:0=20", EnableMonitoring: true}
	w.fails(spec, "/does/not/exist")
	w.missing(filepath.Join(root, w.id))
	spec.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}
	w.fails(spec, "/does/not/exist")
	if got := w.read(root, "gold/tasks"); strings.TrimSpace(got) == "" {
		t.Error("it was not in its group")
	}
	w.missing(filepath.Join(root, "gold/mon_groups", w.id))
	spec.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "none"}
	w.fails(spec, `linux.intelRdt.closID: found "none"`)
	w.rt.resctrl = nil
	if _, err := resctrl.Find(); err != nil {
		w.fails(spec, "linux.intelRdt: found no resctrl filesystem")
	}
}

// TestIntelRdtLater: a container that had no group gets one by update, with all its processes.
func TestIntelRdtLater(t *testing.T) {
	w := newWorld(t)
	root := w.fakeResctrl()
	s := w.start(w.sh("sleep 1000 & sleep 1000"))
	processes := func() []string {
		return strings.Fields(w.cgroupFile("pids", "cgroup.procs", "cgroup.procs"))
	}
	w.await("two processes", func() bool { return len(processes()) >= 2 })
	w.must(w.rt.UpdateIntelRdt(w.id, "L3:0=3", ""))
	tasks := strings.Fields(w.read(root, w.id, "tasks"))
	all := processes()
	slices.Sort(tasks)
	slices.Sort(all)
	if !slices.Equal(tasks, all) {
		t.Errorf("tasks: %v; the container's processes are %v", tasks, all)
	}
	w.end(w.id, s.PID)
	w.missing(filepath.Join(root, w.id))
}

// TestRestoredFields: restore refuses fields that it cannot honour, and removes everything after a
// failure.
func TestRestoredFields(t *testing.T) {
	needs.Program(t, "criu")
	w := newWorld(t)
	root := w.fakeResctrl()
	images := filepath.Join(w.dir, "images")
	w.must(os.Mkdir(images, 0o700))
	restore := func(change func(*specs.Spec)) error {
		spec := w.spec("/bin/true")
		change(spec)
		w.save(spec)
		_, err := w.rt.Restore(background, w.id,
			RestoreOptions{
				CreateOptions: CreateOptions{Bundle: w.bundle()},
				CriuOptions:   CriuOptions{ImagePath: images},
			})
		return err
	}
	err := restore(func(s *specs.Spec) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth9": {}}
	})
	if err == nil || !strings.Contains(err.Error(), "linux.netDevices: found devices") {
		t.Errorf("with network devices: %v", err)
	}
	err = restore(func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "none"} })
	if err == nil || !strings.Contains(err.Error(), "linux.intelRdt.closID") {
		t.Errorf("with a closID that does not exist: %v", err)
	}
	err = restore(func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} })
	if err == nil || strings.Contains(err.Error(), "linux.intelRdt") {
		t.Errorf("from images that are none: %v", err)
	}
	w.missing(filepath.Join(root, w.id))
}

// TestConsoleSize: the terminal has its size before the program sees it.
func TestConsoleSize(t *testing.T) {
	w := newWorld(t)
	spec := w.sh(`stty size`)
	spec.Process.Terminal = true
	spec.Process.ConsoleSize = &specs.Box{Height: 31, Width: 97}
	w.save(spec)
	ours, theirs := socketPair(t)
	p, err := w.rt.Run(background, w.id, CreateOptions{Bundle: w.bundle(), Console: theirs})
	w.must(err)
	oob := make([]byte, 64)
	_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), make([]byte, 64), oob, unix.MSG_CMSG_CLOEXEC)
	w.must(err)
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	w.must(err)
	fds, err := unix.ParseUnixRights(&messages[0])
	w.must(err)
	master := os.NewFile(uintptr(fds[0]), "ptmx")
	defer master.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(master) // ends with EIO when the last user of the terminal is gone
	p.Wait()
	w.must(p.Delete(background))
	if got := strings.TrimSpace(b.String()); got != "31 97" {
		t.Errorf("stty size: %q", got)
	}
}

func socketPair(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}
