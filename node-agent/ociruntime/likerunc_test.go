// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The tests of this file hold what users of runc count on and no specification says.

// TestStartContainerHookEnvironment: a startContainer hook that says nothing of its environment has
// that of the container's process.
func TestStartContainerHookEnvironment(t *testing.T) {
	w := newWorld(t)
	hook := func(env []string) *specs.Spec {
		spec := w.sh("cat /told")
		spec.Process.Env = append(spec.Process.Env, "ONE=two")
		w.write("/told", "", 0o644)
		spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{
			Path: "/bin/sh",
			Args: []string{"sh", "-c", "echo ${ONE-none} ${HOME-none} >/told"}, Env: env,
		}}}
		return spec
	}
	w.prints(hook(nil), "two /\n")
	w.prints(hook([]string{"TWO=three"}), "none none\n")
}

// TestForeignDocument: unknown fields of a newer engine's document, or of one written by hand, are
// ignored, with a warning if they ask for something of the kernel.
func TestForeignDocument(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("grep CapBnd /proc/self/status; busybox ionice")
	spec.Version = "1.9.0"
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{
		"CAP_UNKNOWN", "CAP_KILL",
		"cap_chown",
	}}
	spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 7}
	limit := int64(64 << 20)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Kernel: &limit} //nolint:staticcheck // docker run --kernel-memory
	spec.Annotations = map[string]string{"run.oci.systemd.subgroup": "container"}
	w.save(spec)
	file := filepath.Join(w.bundle(), "config.json")
	data, err := os.ReadFile(file)
	w.must(err)
	text := strings.NewReplacer(
		`,"priority":7}`, `}`,
		`"linux":{`, `"future":{"a":[1,{"b":null}]},"linux":{"landlock":{"x":true},`,
		`"process":{`, `"process":{"numa":[0],`,
		`"type":"proc",`, `"type":"proc","fresh":1,`,
	).Replace(string(data))
	w.must(os.WriteFile(file, []byte(text), 0o600))

	out, status, err := w.tryWith(CreateOptions{})
	if err != nil || status != 0 || out != "CapBnd:\t0000000000000020\nbest-effort: prio 0\n" {
		t.Errorf("printed %q, status %d, %v", out, status, err)
	}
	for _, want := range []string{
		`ociVersion: found "1.9.0"`, `process.capabilities.bounding[0]: found "CAP_UNKNOWN"`,
		`process.capabilities.bounding[2]: found "cap_chown"; allowed: a name of capabilities(7); write CAP_CHOWN`,
		`linux.resources.memory.kernel: found 67108864`,
		`annotations["run.oci.systemd.subgroup"]: found "container"`,
	} {
		if !slices.ContainsFunc(w.warned, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("no warning %s in %q", want, w.warned)
		}
	}
	if len(w.warned) != 5 {
		t.Errorf("%d warnings: %q", len(w.warned), w.warned)
	}
}

// TestRuncsWords: words of runc's errors that its clients and tests look for stand beside the path
// of the field.
func TestRuncsWords(t *testing.T) {
	w := newWorld(t)
	policy := func(p specs.LinuxMemoryPolicy) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.MemoryPolicy = &p }
	}
	w.must(os.Symlink("elsewhere", w.file("/link")))
	for words, change := range map[[2]string]func(*specs.Spec){
		{
			"linux.memoryPolicy.mode: found ",
			"invalid memory policy mode",
		}: policy(specs.LinuxMemoryPolicy{Mode: "INTERLEAVE", Nodes: "0"}),
		{
			"linux.memoryPolicy.flags[0]: found ",
			"invalid memory policy flag",
		}: policy(specs.LinuxMemoryPolicy{
			Mode: specs.MpolBind, Nodes: "0",
			Flags: []specs.MemoryPolicyFlagType{"bad"},
		}),
		{
			"linux.memoryPolicy.nodes: found ",
			"invalid memory policy node",
		}: policy(specs.LinuxMemoryPolicy{
			Mode:  specs.MpolBind,
			Nodes: "0-9876543210",
		}),
		{
			"linux.memoryPolicy.nodes: found ",
			"requires 0 nodes but got 8",
		}: policy(specs.LinuxMemoryPolicy{
			Mode:  specs.MpolDefault,
			Nodes: "0-3,4-7",
		}),
		{"mounts[0] (/link): ", "must be mounted on ordinary directory"}: func(s *specs.Spec) {
			s.Mounts[0].Destination = "/link"
		},
		{
			"linux.seccomp: syscalls[0].action: found ",
			"SCMP_ACT_NOTIFY cannot be used for the write syscall",
		}: func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, ListenerPath: "/none",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"write"}, Action: specs.ActNotify}},
			}
		},
		{`linux.resources.unified["memory.min"]: found `, "invalid configuration"}: func(s *specs.Spec) {
			s.Linux.Resources.Unified = map[string]string{"memory.min": "131072"}
		},
		{
			"process.scheduler: sched_setattr: ",
			"process scheduler can't be used together with AllowedCPUs",
		}: func(s *specs.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "0", Mems: "0"}
			s.Process.Scheduler = &specs.Scheduler{
				Policy: specs.SchedDeadline, Runtime: 42000,
				Deadline: 1000000, Period: 1000000,
			}
		},
	} {
		if unified() && words[1] == "invalid configuration" || goruntime.NumCPU() == 1 &&
			strings.Contains(words[1], "AllowedCPUs") {
			continue
		}
		spec := w.sh("true")
		change(spec)
		w.fails(spec, words[0], words[1])
	}

	spec := w.sh("sleep 1000")
	s := w.start(spec)
	for sub, words := range map[string]string{
		"..": ": bad sub cgroup path", "none": "--cgroup: adding pid ",
		"whaaat:/": ": unknown controller whaaat",
	} {
		_, err := w.rt.Exec(background, w.id, ExecOptions{Process: &specs.Process{
			Args: []string{"true"},
			Cwd:  "/",
		}, Cgroups: []string{sub}})
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("exec --cgroup %s: %v; want %q", sub, err, words)
		}
	}
	other := w.sh("true")
	w.save(other)
	if _, err := w.rt.Run(background, w.id+"-other", CreateOptions{Bundle: w.bundle()}); err == nil ||
		!strings.Contains(err.Error(), "container's cgroup is not empty") {
		t.Errorf("in the cgroup of another: %v", err)
	}
	w.end(w.id, s.PID)
}

// TestKillWithoutPIDNamespace: where no kernel ends the others with the first process, SIGKILL is
// for all of them, also when the first has gone before.
func TestKillWithoutPIDNamespace(t *testing.T) {
	for name, gone := range map[string]bool{"with the first": false, "without the first": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write("/go", "", 0o644)
			spec := w.sh("sleep 1000 & sleep 1000 & echo > /go; wait")
			without(specs.PIDNamespace)(spec)
			s := w.start(spec)
			w.await("forked", func() bool { data, _ := os.ReadFile(w.file("/go")); return len(data) > 0 })
			if gone {
				w.must(unix.Kill(s.PID, unix.SIGKILL))
				reap(s.PID)
			}
			processes := func() []int {
				pids, err := w.rt.Processes(background, w.id)
				w.must(err)
				return pids
			}
			if n := len(processes()); n < 2 {
				t.Fatalf("the container has %d processes", n)
			}
			w.must(w.rt.Kill(background, w.id, unix.SIGKILL, false))
			if !gone {
				reap(s.PID)
			}
			w.await("no process left", func() bool { return len(processes()) == 0 })
			if err := w.rt.Kill(background, w.id, unix.SIGKILL, false); !errors.Is(err, ErrNotRunning) {
				t.Errorf("kill without a process: %v", err)
			}
		})
	}
}

// TestFrozenCgroup: a cgroup that somebody has frozen is refused at once, and left as it is. In it
// the first process would never run.
func TestFrozenCgroup(t *testing.T) {
	w := newWorld(t)
	top, file, frozen := "/sys/fs/cgroup/freezer", "freezer.state", "FROZEN"
	if unified() {
		top, file, frozen = "/sys/fs/cgroup", "cgroup.freeze", "1"
	}
	dir := filepath.Join(top, w.cgroup)
	w.must(os.Mkdir(dir, 0o755))
	defer func() { w.must(os.Remove(dir)) }()
	w.must(os.WriteFile(filepath.Join(dir, file), []byte(frozen), 0))
	spec := w.sh("true")
	w.fails(spec, "linux.cgroupsPath: found "+dir+", which is frozen",
		"container's cgroup unexpectedly frozen")
	spec.Linux.CgroupsPath = w.cgroup + "/below"
	w.fails(spec, "linux.cgroupsPath: found "+dir)
}

// TestDeleteFrozenElsewhere: somebody has moved the first process into another cgroup and frozen
// that. On version 1 the process dies only once it is thawed; on version 2 it dies of SIGKILL as it
// is. A frozen cgroup without a process of the container stays frozen.
func TestDeleteFrozenElsewhere(t *testing.T) {
	hierarchy, file, frozen, thawed, after := "/sys/fs/cgroup/freezer", "freezer.state", "FROZEN",
		"THAWED", "THAWED"
	if unified() {
		hierarchy, file, frozen, thawed, after = "/sys/fs/cgroup", "cgroup.freeze", "1", "0", "1"
	}
	w := newWorld(t)
	s := w.start(w.spec("/bin/sleep", "1000"))
	var dirs []string
	for _, name := range []string{"-elsewhere", "-other"} {
		dir := filepath.Join(hierarchy, w.cgroup+name)
		w.must(os.Mkdir(dir, 0o755))
		defer func() { w.must(os.Remove(dir)) }()
		dirs = append(dirs, dir)
	}
	w.must(os.WriteFile(filepath.Join(dirs[0], "cgroup.procs"), []byte(strconv.Itoa(s.PID)), 0))
	for _, dir := range dirs {
		w.must(os.WriteFile(filepath.Join(dir, file), []byte(frozen), 0))
	}
	err := w.rt.Delete(background, w.id, true)
	if state := w.read(dirs[0], file); err != nil || state != after+"\n" {
		t.Errorf("delete: found %v; the process's cgroup is %s", err, state)
		w.must(os.WriteFile(filepath.Join(dirs[0], file), []byte(thawed), 0))
		w.end(w.id, s.PID)
		return
	}
	if status := reap(s.PID); status.Signal() != unix.SIGKILL {
		t.Errorf("the first process: found %v", status)
	}
	if state := w.read(dirs[1], file); state != frozen+"\n" {
		t.Errorf("a cgroup without a process of the container: found %s", state)
	}
}

// TestDeleteFrozenBelow: a container that may write its cgroup has frozen a process of its own in a
// cgroup below. On version 1 that one does not die of SIGKILL, and the first process of a pid
// namespace ends after all others.
func TestDeleteFrozenBelow(t *testing.T) {
	hierarchy, file, frozen, thawed := "/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED"
	if unified() {
		hierarchy, file, frozen, thawed = "/sys/fs/cgroup", "cgroup.freeze", "1", "0"
	}
	for name, change := range map[string]func(*specs.Spec){
		"a pid namespace": func(*specs.Spec) {}, "no pid namespace": without(specs.PIDNamespace),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.sh("sleep 1000 & wait")
			change(spec)
			s := w.start(spec)
			child := 0
			w.await("a child", func() bool {
				pids, err := w.rt.Processes(background, w.id)
				w.must(err)
				for _, pid := range pids {
					if pid != s.PID {
						child = pid
					}
				}
				return child > 0
			})
			dir := filepath.Join(hierarchy, w.cgroup, "below", "deep")
			w.must(os.MkdirAll(dir, 0o755))
			w.must(os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(child)), 0))
			w.must(os.WriteFile(filepath.Join(dir, file), []byte(frozen), 0))
			if err := w.rt.Delete(background, w.id, true); err != nil {
				t.Error(err)
				w.must(os.WriteFile(filepath.Join(dir, file), []byte(thawed), 0))
			}
			w.end(w.id, s.PID)
		})
	}
}

// TestCpusetOfParentIsEmpty: on cgroup v1 an engine may make a pod's directory and leave its cpuset
// without processors.
func TestCpusetOfParentIsEmpty(t *testing.T) {
	if unified() {
		t.Skip("cgroup v2: a cpuset that says nothing has its parent's processors")
	}
	w := newWorld(t)
	top := filepath.Join("/sys/fs/cgroup/cpuset", w.cgroup)
	w.must(os.MkdirAll(filepath.Join(top, "pod"), 0o755))
	spec := w.sh("true")
	spec.Linux.CgroupsPath = w.cgroup + "/pod/container"
	w.prints(spec, "")
	for _, hierarchy := range w.cgroupDirs() {
		for _, dir := range []string{"pod", ""} {
			if err := os.Remove(filepath.Join(hierarchy, dir)); err != nil &&
				!errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	}
}

// TestMaskedTwice: a path that is named again is not covered again.
func TestMaskedTwice(t *testing.T) {
	w := newWorld(t)
	w.must(os.Mkdir(w.file("/hidden"), 0o755))
	spec := w.sh("grep -c ' /hidden ' /proc/self/mounts")
	spec.Linux.MaskedPaths = []string{"/hidden", "/hidden/", "/hidden"}
	w.prints(spec, "1\n")
}

// TestDanglingDestination: a mount on a dangling symbolic link, as an image's /etc/resolv.conf
// often is, creates the link's target inside the root filesystem.
func TestDanglingDestination(t *testing.T) {
	w := newWorld(t)
	host, outside := w.source(), t.TempDir()
	w.must(os.MkdirAll(w.file("/etc"), 0o755))
	for name, target := range map[string]string{
		"/etc/resolv.conf": "../run/systemd/resolv.conf", "/jump": "/deep/er",
		"/etc/hosts": "/jump/still/hosts", "/away": "../../../.." + outside + "/made",
		"/folder": "/data/folder", "/memory": "data/tmp", "/loop": "loop",
	} {
		w.must(os.Symlink(target, w.file(name)))
	}
	bind := func(source, destination string) specs.Mount {
		return specs.Mount{
			Destination: destination, Source: filepath.Join(host, source),
			Options: []string{"rbind"},
		}
	}
	w.prints(mounted(w.sh("cat /run/systemd/resolv.conf /deep/er/still/hosts"+" "+outside+
		"/made; ls /data/folder; grep -c ' /data/tmp ' /proc/self/mounts; readlink /etc/resolv.conf"),
		bind("file", "/etc/resolv.conf"), bind("file", "/etc/hosts"), bind("file", "/away"),
		bind(".", "/folder"), specs.Mount{Destination: "/memory", Type: "tmpfs", Source: "tmpfs"}),
		"from the host\nfrom the host\nfrom the host\ndangling\nfile\nfolder\nlink\n1\n../run/systemd/resolv.conf\n")
	if _, err := os.Lstat(filepath.Join(outside, "made")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("made outside of the root filesystem: %v", err)
	}
	w.fails(mounted(w.sh("true"), bind("file", "/loop")), "mounts[7] (/loop): ",
		"too many levels of symbolic links")
}

// TestExecutableByCapability: whether a program can be executed is asked for the process as it will
// be, with its capabilities.
func TestExecutableByCapability(t *testing.T) {
	w := newWorld(t)
	w.write("/own/run", "#!/bin/sh\necho ran\n", 0o744)
	for path, denied := range map[string]string{
		"/own/run": "permission denied",
		"run":      "executable file not found",
	} {
		spec := w.spec(path)
		spec.Process.Env = []string{"PATH=/bin:/own"}
		spec.Process.User = specs.User{UID: 1000, GID: 1000}
		w.fails(spec, denied)
		c := spec.Process.Capabilities
		for _, set := range []*[]string{
			&c.Bounding, &c.Permitted, &c.Inheritable, &c.Effective,
			&c.Ambient,
		} {
			*set = append(*set, "CAP_DAC_OVERRIDE")
		}
		w.prints(spec, "ran\n")
	}
}
