// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/node-agent/ociruntime/seccomp"
)

var update = flag.Bool("update", false, "write testdata/*.plan.txt anew")

// The hosts are fixed, so that plans do not depend on the machine that tests them. None may lower
// oom scores or raise limits.
var (
	unified = Host{
		LastCapability: 40, Permitted: 1<<41 - 1&^(1<<unix.CAP_SYS_RESOURCE),
		Cgroup: cgrouplayout.Layout{Unified: true},
	}
	legacy = Host{
		LastCapability: 40, Permitted: unified.Permitted,
		Cgroup: cgrouplayout.Layout{V1: []cgrouplayout.Hierarchy{
			{Dir: "cpu,cpuacct", Options: "cpu,cpuacct", Links: []string{"cpu", "cpuacct"}},
			{Dir: "memory", Options: "memory"},
			{Dir: "systemd", Options: "none,name=systemd"},
		}},
	}
	// secured is a host with both security modules. No kernel has both, but a plan shows the steps
	// for either.
	secured = Host{
		LastCapability: 40, Permitted: unified.Permitted, Cgroup: unified.Cgroup,
		AppArmor: true, SELinux: true,
	}
	hybrid = Host{
		LastCapability: 40, Permitted: unified.Permitted,
		Cgroup: cgrouplayout.Layout{V1: legacy.Cgroup.V1, Hybrid: "unified"},
	}
)

// options returns the runtime's options for create on such a host.
func options(h Host) Options {
	o := Options{
		ID: "id", Bundle: "/bundle", Rootfs: "/bundle/rootfs", Home: "/root", Result: true,
		CgroupPaths: map[string]string{},
	}
	if h.Cgroup.Unified {
		o.CgroupPaths[""] = "/sys/fs/cgroup/berth/id"
		return o
	}
	o.Cgroups = []string{"cpu", "memory", "name=systemd"}
	for _, v1 := range h.Cgroup.V1 {
		o.CgroupPaths[v1.Dir] = "/sys/fs/cgroup/" + v1.Dir + "/berth/id"
	}
	if h.Cgroup.Hybrid != "" {
		o.Cgroups = append([]string{""}, o.Cgroups...)
		o.CgroupPaths[""] = "/sys/fs/cgroup/unified/berth/id"
	}
	return o
}

// goldens are the plans that are held whole. A name without a config of its own is another host's
// or caller's view of one.
var goldens = []struct {
	name, config string
	host         Host
	change       func(*Options)
	exec         bool
	// hook is the first hook of a kind in place of the container.
	hook string
}{
	{name: "default", host: unified},
	{name: "default-v1", config: "default", host: legacy},
	{name: "containerd", host: unified},
	{name: "minimal", host: unified},
	{name: "minimal-run", config: "minimal", host: unified, change: func(o *Options) {
		o.Result = false
	}},
	{name: "minimal-options", config: "minimal", host: unified, change: func(o *Options) {
		o.NoPivot, o.NoNewKeyring, o.PreserveFDs, o.DefaultNoFile = true, true, 2,
			&unix.Rlimit{Cur: 1024, Max: 4096}
		o.KernelMounts = []string{"/proc", "/sys"}
	}},
	{name: "binds", host: unified},
	{name: "propagation-private", host: unified},
	{name: "filesystems", host: unified},
	{name: "mount-options", host: unified},
	{name: "mount-options-user", host: unified},
	{name: "devices", host: unified},
	{name: "devices-bound", host: unified},
	{name: "paths", host: unified},
	{name: "joined", host: unified},
	{name: "cgroup-mount", host: unified},
	{name: "cgroup-mount-v1", config: "cgroup-mount", host: legacy},
	{name: "cgroup-mount-hybrid", config: "cgroup-mount", host: hybrid},
	{name: "cgroup-mount-namespace", host: unified},
	{name: "cgroup-mount-namespace-v1", config: "cgroup-mount-namespace", host: legacy},
	{name: "cgroup-mount-namespace-hybrid", config: "cgroup-mount-namespace", host: hybrid},
	{name: "user-namespace", host: unified},
	{name: "user-namespace-plain", config: "user-namespace", host: Host{
		LastCapability: 40,
		PlainUser:      true, Cgroup: unified.Cgroup,
	}},
	{
		name: "rootless", host: Host{LastCapability: 40, PlainUser: true, Cgroup: unified.Cgroup},
		change: func(o *Options) {
			o.CgroupPaths = nil
		},
	},
	{name: "rootless-systemd", config: "rootless", host: Host{
		LastCapability: 40, PlainUser: true,
		Cgroup: unified.Cgroup,
	}, change: func(o *Options) {
		o.CgroupByParent = true
	}},
	{name: "exec-rootless-systemd", config: "rootless", host: Host{
		LastCapability: 40, PlainUser: true,
		Cgroup: unified.Cgroup,
	}, exec: true, change: func(o *Options) {
		o.Result, o.CgroupByParent = false, true
	}},
	{name: "time", host: unified},
	{name: "time-user", host: unified},
	{name: "time-joined", host: unified},
	{name: "scheduling", host: unified},
	{name: "deadline", host: unified},
	{name: "terminal", host: unified},
	{name: "process", host: unified},
	{name: "capabilities-denied", host: unified},
	{name: "sysctl", host: unified},
	{name: "seccomp", host: unified},
	{name: "seccomp-privileges", host: unified},
	{name: "seccomp-notify", host: unified},
	{
		name: "exec-seccomp-notify", config: "seccomp-notify", host: unified, exec: true,
		change: func(o *Options) {
			o.Result = false
		},
	},
	{name: "labels", host: secured},
	{name: "exec-labels", config: "labels", host: secured, exec: true, change: func(o *Options) {
		o.Result = false
	}},
	{name: "hooks", host: unified},
	{name: "hooks-run", config: "hooks", host: unified, change: func(o *Options) {
		o.Result, o.StartHooks = false, true
	}},
	{name: "hook-create-runtime", config: "hooks", host: unified, hook: "createRuntime"},
	{name: "hook-create-container", config: "hooks", host: legacy, hook: "createContainer"},
	{
		name: "hook-start-container", config: "hooks", host: unified, hook: "startContainer",
		change: func(o *Options) {
			o.Result = false
		},
	},
	{name: "net-devices", host: unified},
	{name: "exec", host: unified, exec: true, change: func(o *Options) { o.Result = false }},
	{name: "host-mounts", host: unified},
	{
		name: "exec-host-mounts", config: "host-mounts", host: unified, exec: true,
		change: func(o *Options) {
			o.Result = false
		},
	},
	{name: "exec-v1", config: "default", host: legacy, exec: true, change: func(o *Options) {
		o.Result = false
	}},
	{
		name: "exec-user-namespace", config: "user-namespace", host: unified, exec: true,
		change: func(o *Options) {
			o.Result = false
		},
	},
}

func readSpec(t *testing.T, document []byte) *specs.Spec {
	t.Helper()
	spec := &specs.Spec{}
	if err := json.Unmarshal(document, spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func build(t *testing.T, spec *specs.Spec, h Host, o Options) *Plan {
	t.Helper()
	return buildWith(t, Build, spec, h, o)
}

type buildFunc func(*specs.Spec, Host, Options) (*Plan, error)

func buildWith(t *testing.T, f buildFunc, spec *specs.Spec, h Host, o Options) *Plan {
	t.Helper()
	if spec.Linux.Seccomp != nil {
		var err error
		if o.Seccomp, _, err = seccomp.Compile(spec.Linux.Seccomp); err != nil {
			t.Fatal(err)
		}
	}
	p, err := f(spec, h, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func printed(t *testing.T, p *Plan) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// eachGolden builds every golden plan.
func eachGolden(t *testing.T, f func(t *testing.T, name string, document []byte,
	build func(*specs.Spec) *Plan),
) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			config := g.config
			if config == "" {
				config = g.name
			}
			document, err := os.ReadFile(filepath.Join("testdata", config+".json"))
			if err != nil {
				t.Fatal(err)
			}
			o := options(g.host)
			if g.change != nil {
				g.change(&o)
			}
			kind := func(spec *specs.Spec, h Host, o Options) (*Plan, error) {
				o.DeferCgroups = spec.Linux != nil && CanDeferCgroups(spec, h)
				return Build(spec, h, o)
			}
			if g.exec {
				kind = BuildExec
			}
			if g.hook != "" {
				kind = hookOf(g.hook)
			}
			f(t, g.name, document, func(spec *specs.Spec) *Plan {
				return buildWith(t, kind, spec, g.host, o)
			})
		})
	}
}

// hookOf builds the plan of the first hook of a kind.
func hookOf(kind string) buildFunc {
	return func(spec *specs.Spec, h Host, o Options) (*Plan, error) {
		f := Field{Path: "hooks." + kind}
		switch kind {
		case "createContainer":
			return BuildCreateContainerHook(spec, spec.Hooks.CreateContainer[0], f, o)
		case "startContainer":
			o.Program = spec.Hooks.StartContainer[0].Path
			return BuildExec(spec, h, o)
		}
		return BuildHook(spec.Hooks.CreateRuntime[0], f, o), nil
	}
}

func TestGolden(t *testing.T) {
	eachGolden(t, func(t *testing.T, name string, document []byte, build func(*specs.Spec) *Plan) {
		spec := readSpec(t, document)
		got := printed(t, build(spec))
		again, _ := json.Marshal(spec)
		if string(again) != string(must(json.Marshal(readSpec(t, document)))) {
			t.Error("Build has changed the document")
		}
		file := filepath.Join("testdata", name+".plan.txt")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// of which the files are: how long a filter is depends on the architecture
		if runtime.GOARCH != "amd64" {
			length := regexp.MustCompile(`\{\d+ instructions\}`)
			got, want = length.ReplaceAllString(got, "{instructions}"),
				length.ReplaceAll(want, []byte("{instructions}"))
		}
		if got != string(want) {
			t.Errorf("%s differs; look at the change with: go test ./node-agent/ociruntime/plan -update && git diff\ngot:\n%s", file, got)
		}
	})
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestGoldenFilesAreUsed keeps a file that no test reads from passing for one.
func TestGoldenFilesAreUsed(t *testing.T) {
	used := map[string]bool{}
	for _, g := range goldens {
		used[g.name+".plan.txt"], used[g.name+".json"] = true, used[g.name+".json"] || g.config == ""
	}
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !used[f.Name()] {
			t.Errorf("testdata/%s belongs to no golden", f.Name())
		}
	}
}

// TestShape checks the rules on plans that the launcher relies on.
func TestShape(t *testing.T) {
	eachGolden(t, func(t *testing.T, _ string, document []byte, build func(*specs.Spec) *Plan) {
		p := build(readSpec(t, document))
		last := len(p.Steps) - 1
		if p.Steps[last].Call != unix.SYS_EXECVE {
			t.Errorf("the last step is %s, not execve", p.Steps[last])
		}
		jump := func(i int, what string, l Label) {
			if l == 0 {
				return
			}
			switch to := p.Labels[l]; {
			case to <= i:
				t.Errorf("step %d goes %s back to %d", i, what, to)
			case to > last:
				t.Errorf("step %d goes %s to %d, past the last step %d", i, what, to, last)
			}
		}
		set := map[Reg]bool{}
		for i, s := range p.Steps {
			jump(i, "on success", s.IfOK)
			jump(i, "on a tolerated error", s.IfErr)
			if s.IfErr != 0 && len(s.Tolerate) == 0 {
				t.Errorf("step %d says where to go on after an error, but tolerates none", i)
			}
			if s.Field.Path == "" {
				t.Errorf("step %d serves no field: %s", i, s)
			}
			for j := range s.Args {
				if r, ok := s.Args[j].Reg(); ok && !(s.Call == OpSet && j == 0) && !set[r] {
					t.Errorf("step %d uses register %d before any step sets it: %s", i, r, s)
				}
			}
			if s.Out != 0 {
				set[s.Out] = true
			}
			if int(s.Out) >= p.Regs {
				t.Errorf("step %d sets register %d of %d", i, s.Out, p.Regs)
			}
			if strings.HasPrefix(s.Name(), "syscall_") {
				t.Errorf("step %d is printed without a name: %s", i, s)
			}
		}
		for i := range p.Syncs {
			if s := p.Syncs[i]; p.Steps[i].Call != OpSync && (p.Steps[i].Call != OpFork || s != SyncForked) {
				t.Errorf("Syncs names step %d, which is %s", i, p.Steps[i])
			}
		}
		// Where a program, or another, could keep the runtime's descriptors, everything is lost: no
		// path of the container is opened without RESOLVE_IN_ROOT or on O_PATH descriptors alone.
		var parsed struct {
			CloneFlags string `json:"cloneFlags"`
			Steps      []struct {
				Step int
				Call string
			}
		}
		if err := json.Unmarshal(must(json.Marshal(p)), &parsed); err != nil ||
			len(parsed.Steps) != len(p.Steps) {
			t.Errorf("as JSON: %d steps of %d, %v", len(parsed.Steps), len(p.Steps), err)
		}
	})
}

// TestEveryPathIsResolvedInsideTheRoot: the paths of these documents that lie in the container all
// hold the word "inside", and no step may open one but by openat2 with RESOLVE_IN_ROOT.
func TestEveryPathIsResolvedInsideTheRoot(t *testing.T) {
	spec := readSpec(t, must(os.ReadFile("testdata/paths.json")))
	spec.Process.Cwd = "/inside/cwd"
	spec.Mounts = []specs.Mount{
		{Destination: "/inside/new", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/inside/proc", Type: "proc", Source: "proc"},
		{Destination: "/inside/bind", Type: "bind", Source: "/src"},
		{Destination: "/inside/cgroup", Type: "cgroup"},
		{Destination: "/inside/copied", Type: "tmpfs", Options: []string{"tmpcopyup"}},
		{Destination: "/inside/again", Options: []string{"remount", "ro"}},
		{Destination: "/inside/link", Type: "bind", Source: "/src", Options: []string{
			"copy-symlink",
			"dest-nofollow",
		}},
		{Destination: "/inside/private", Options: []string{"private"}},
		{Destination: "/inside/layers", Type: "overlay", Options: []string{"lowerdir=/" +
			strings.Repeat("l", 300)}},
	}
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/inside/dev", Type: "c", Major: 1, Minor: 3}}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = []string{"/inside/masked"},
		[]string{"/inside/readonly"}
	for _, h := range []Host{unified, legacy, hybrid} {
		for i, s := range build(t, spec, h, options(h)).Steps {
			path := ""
			for j := range s.Args {
				if text, ok := s.Args[j].Text(); ok && strings.Contains(text, "inside") {
					path = text
				}
			}
			switch {
			case path == "":
			// one component below a descriptor, never followed
			case s.Call == unix.SYS_MKDIRAT && path == "inside":
			case s.Call != unix.SYS_OPENAT2 || !strings.Contains(s.String(), "RESOLVE_IN_ROOT"):
				t.Errorf("step %d opens a path of the container otherwise: %s", i, s)
			}
		}
	}
}

// shuffled writes a JSON value with the keys of every object in a random order.
func shuffled(b *bytes.Buffer, v any, r *rand.Rand) {
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		b.WriteByte('{')
		for i, k := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(must(json.Marshal(k)))
			b.WriteByte(':')
			shuffled(b, v[k], r)
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			shuffled(b, e, r)
		}
		b.WriteByte(']')
	default:
		b.Write(must(json.Marshal(v)))
	}
}

// TestOrderOfKeysDoesNotMatter: documents that differ in the order of keys alone get the same plan,
// byte for byte.
func TestOrderOfKeysDoesNotMatter(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	eachGolden(t, func(t *testing.T, _ string, document []byte, build func(*specs.Spec) *Plan) {
		want := printed(t, build(readSpec(t, document)))
		decoder := json.NewDecoder(bytes.NewReader(document))
		decoder.UseNumber()
		var v any
		if err := decoder.Decode(&v); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			var b bytes.Buffer
			shuffled(&b, v, r)
			if got := printed(t, build(readSpec(t, b.Bytes()))); got != want {
				t.Fatalf("this order of keys gives another plan:\n%s", b.Bytes())
			}
		}
	})
}

// TestRefused has every field that Build refuses, so that none is dropped in silence.
func TestRefused(t *testing.T) {
	for path, change := range map[string]func(*specs.Spec){
		"linux":                   func(s *specs.Spec) { s.Linux = nil },
		"process":                 func(s *specs.Spec) { s.Process = nil },
		"process.args":            func(s *specs.Spec) { s.Process.Args = nil },
		"process.apparmorProfile": func(s *specs.Spec) { s.Process.ApparmorProfile = "p" },
		"process.selinuxLabel":    func(s *specs.Spec) { s.Process.SelinuxLabel = "l" },
		"process.rlimits[0].type": func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}}
		},
		"linux.mountLabel": func(s *specs.Spec) { s.Linux.MountLabel = "l" },
		"linux.netDevices": func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"e": {}}
		},
		"linux.namespaces": func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "user"}}
		},
		"linux.namespaces[2].type": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "uts"},
				specs.LinuxNamespace{Type: "x"})
		},
		"process.scheduler.policy": func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_X"}
		},
		"process.scheduler.flags[0]": func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{
				Policy: specs.SchedOther,
				Flags:  []specs.LinuxSchedulerFlag{"SCHED_FLAG_X"},
			}
		},
		"process.ioPriority.class": func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{}
		},
		"process.ioPriority.priority": func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		},
		"linux.memoryPolicy.mode": func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{}
		},
		"linux.memoryPolicy.flags[0]": func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{
				Mode: specs.MpolBind, Nodes: "0",
				Flags: []specs.MemoryPolicyFlagType{"MPOL_F_X"},
			}
		},
		"linux.memoryPolicy.nodes": func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0-1024"}
		},
		"linux.timeOffsets": func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}}
		},
		"linux.timeOffsets.realtime": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"realtime": {}}
		},
		"linux.personality.flags": func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{
				Domain: "LINUX",
				Flags:  []specs.LinuxPersonalityFlag{"X"},
			}
		},
		"linux.rootfsPropagation": func(s *specs.Spec) { s.Linux.RootfsPropagation = "sharedd" },
		"linux.personality.domain": func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: "X"}
		},
		"linux.devices[0].type": func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "x"}}
		},
		"linux.sysctl.../../etc/passwd": func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"../../etc/passwd": "x"}
		},
		"mounts[0].options": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/m", Type: "tmpfs", Options: []string{
				"tmpcopyup",
				"remount",
			}}}
		},
		"mounts[0].uidMappings": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{
				Destination: "/m", Type: "bind", Source: "/s",
				UIDMappings: []specs.LinuxIDMapping{{}},
			}}
		},
		"mounts[1].options": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{
				{Destination: "/m", Type: "bind", Source: "/s"},
				{Destination: "/m", Type: "bind", Source: "/s", Options: []string{"idmap"}},
			}
		},
		"mounts[2].options": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{
				{Destination: "/m", Type: "bind", Source: "/s"},
				{Destination: "/m", Type: "tmpfs"},
				{
					Destination: "/m", Type: "tmpfs",
					Options: []string{"copy-symlink"},
				},
			}
		},
		"mounts[0].type": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/m", Type: "cgroup2"}}
		},
	} {
		t.Run(path, func(t *testing.T) {
			spec, o := readSpec(t, must(os.ReadFile("testdata/minimal.json"))), options(unified)
			delete(o.CgroupPaths, "")
			change(spec)
			_, err := Build(spec, unified, o)
			var refused *Unsupported
			if !errors.As(err, &refused) {
				t.Fatalf("Build: %v; want *Unsupported", err)
			}
			if refused.Path != path || refused.Found == "" || refused.Reason == "" {
				t.Errorf("refused %q (found %q, %q); want the path %q", refused.Path, refused.Found,
					refused.Reason, path)
			}
		})
	}
}

func TestProgramWithoutPath(t *testing.T) {
	spec := readSpec(t, must(os.ReadFile("testdata/minimal.json")))
	spec.Process.Args, spec.Process.Env = []string{"prog"}, []string{"A=b"}
	_, err := Build(spec, unified, options(unified))
	var notFound *NotFound
	if !errors.As(err, &notFound) || !strings.Contains(err.Error(),
		`exec: "prog": executable file not found in $PATH`) {
		t.Errorf("Build: %v", err)
	}
}

// TestDestinationsOfTheHostsRoot: if the root filesystem is the host's own, destinations are still
// resolved inside the container.
func TestDestinationsOfTheHostsRoot(t *testing.T) {
	spec := readSpec(t, []byte(`{"process": {"cwd": "/", "args": ["/a"]}, "root": {"path": "/"},
		"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}], "linux": {"namespaces": [{"type": "mount"}]}}`))
	o := options(unified)
	o.Rootfs = "/"
	p, err := Build(spec, unified, o)
	if err != nil || len(p.Warnings) > 0 {
		t.Errorf("found warnings %q, %v", p.Warnings, err)
	}
}

// TestRootlessCgroupMountIsReadOnly: a cgroup that a plain user may write is more than the
// container's (CVE-2023-25809).
func TestRootlessCgroupMountIsReadOnly(t *testing.T) {
	for _, fstype := range []string{"cgroup", "cgroup2"} {
		for _, cgroups := range []cgrouplayout.Layout{unified.Cgroup, hybrid.Cgroup} {
			for rootless, host := range map[bool]Host{
				false: {LastCapability: 40, Cgroup: cgroups},
				true:  {LastCapability: 40, Cgroup: cgroups, UserNamespace: true},
			} {
				spec := readSpec(t,
					[]byte(`{"process": {"cwd": "/", "args": ["/a"]}, "root": {"path": "rootfs"},
					"mounts": [{"destination": "/cgroup", "type": "`+fstype+`", "source": "cgroup", "options": ["rw"]}],
					"linux": {"namespaces": [{"type": "mount"}]}}`))
				p, err := Build(spec, host, options(host))
				if err != nil {
					t.Fatal(err)
				}
				readonly := false
				for _, step := range p.Steps {
					readonly = readonly || step.Field.Path == "mounts" && strings.Contains(step.String(),
						"attr_set=MOUNT_ATTR_RDONLY")
				}
				warned := slices.ContainsFunc(p.Warnings, func(s string) bool {
					return strings.Contains(s, "mounts[0].options: found rw")
				})
				if readonly != rootless || warned != rootless {
					t.Errorf("%s, rootless %v, unified %v: read-only is %v, warnings %q", fstype, rootless,
						cgroups.Unified, readonly, p.Warnings)
				}
			}
		}
	}
}

func TestMountOptions(t *testing.T) {
	const rdonly, nosuid, noexec, atime, noatime, strict = unix.MOUNT_ATTR_RDONLY,
		unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NOEXEC, unix.MOUNT_ATTR__ATIME, unix.MOUNT_ATTR_NOATIME,
		unix.MOUNT_ATTR_STRICTATIME
	for options, want := range map[string]mountOptions{
		"":                     {},
		"defaults,async,loud":  {sbClear: []string{"async"}},
		"bind":                 {bind: true},
		"rbind":                {bind: true, recursive: true},
		"ro,nosuid":            {attr: mountAttr{set: rdonly | nosuid}},
		"ro,rw":                {attr: mountAttr{clear: rdonly}},
		"rw,ro":                {attr: mountAttr{set: rdonly}},
		"exec,noexec":          {attr: mountAttr{set: noexec}},
		"noatime":              {attr: mountAttr{set: noatime, clear: atime}},
		"noatime,strictatime":  {attr: mountAttr{set: strict, clear: atime}},
		"strictatime,relatime": {attr: mountAttr{clear: atime}},
		"rro,rnosuid":          {rattr: mountAttr{set: rdonly | nosuid}},
		"ro,rrw":               {attr: mountAttr{set: rdonly}, rattr: mountAttr{clear: rdonly}},
		"rslave":               {propagation: []propagation{{unix.MS_SLAVE, true}}},
		"slave,rshared": {propagation: []propagation{
			{unix.MS_SLAVE, false},
			{unix.MS_SHARED, true},
		}},
		"unbindable,private": {propagation: []propagation{
			{unix.MS_UNBINDABLE, false},
			{unix.MS_PRIVATE, false},
		}},
		"sync,size=1m,nr=2,x": {sb: []string{"sync"}, data: []string{"size=1m", "nr=2", "x"}},
		"relatime":            {attr: mountAttr{clear: atime}},
		"nodev,dev":           {attr: mountAttr{clear: unix.MOUNT_ATTR_NODEV}},
		"nosymfollow":         {attr: mountAttr{set: unix.MOUNT_ATTR_NOSYMFOLLOW}},
		"remount,bind,tmpcopyup,nolazytime,x-y,comment=z,nofail": {
			remount: true, bind: true,
			copyUp: true, sbClear: []string{"nolazytime"},
		},
		"copy-symlink,src-nofollow,dest-nofollow": {
			copySymlink: true, srcNoFollow: true,
			destNoFollow: true,
		},
		"idmap":  {idmap: idmapOption{set: true}},
		"ridmap": {idmap: idmapOption{set: true, recursive: true}},
		"idmap=uids=0-1-2#@7-8-9;gids=3-4-5": {idmap: idmapOption{
			set: true, uids: []relativeMapping{{
				specs.LinuxIDMapping{ContainerID: 0, HostID: 1, Size: 2},
				false,
			}, {specs.LinuxIDMapping{ContainerID: 7, HostID: 8, Size: 9}, true}},
			gids: []relativeMapping{{specs.LinuxIDMapping{ContainerID: 3, HostID: 4, Size: 5}, false}},
		}},
		"nodiratime,rdiratime": {
			attr:  mountAttr{set: unix.MOUNT_ATTR_NODIRATIME},
			rattr: mountAttr{clear: unix.MOUNT_ATTR_NODIRATIME},
		},
	} {
		t.Run(options, func(t *testing.T) {
			got, err := parseMountOptions(strings.Split(options, ","))
			if err != nil {
				t.Fatal(err)
			}
			g, w := printOptions(got), printOptions(want)
			if g != w {
				t.Errorf("found %s; want %s", g, w)
			}
		})
	}
	for _, refused := range []string{
		"idmap=", "idmap=uids", "idmap=uids=0-1", "idmap=uids=0-1-0",
		"ridmap=uids=0-1-x;gids=0-0-1", "idmap=uids=0-1-2,gids=0-1-2", "idmap=uids=0-1-4294967296",
	} {
		if _, err := parseMountOptions([]string{refused}); err == nil {
			t.Errorf("%s is taken", refused)
		}
	}
	// What the features document says is honoured must not be passed to a filesystem as its own
	// option.
	for _, o := range MountOptions() {
		if got, err := parseMountOptions([]string{o}); err != nil || len(got.data) > 0 {
			t.Errorf("%s is said to be honoured, but: %+v, %v", o, got, err)
		}
	}
}

func printOptions(o mountOptions) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	type attr struct{ Set, Clear uint64 }
	var p [][2]any
	for _, x := range o.propagation {
		p = append(p, [2]any{x.flag, x.recursive})
	}
	if err := enc.Encode([]any{
		o.bind, o.recursive,
		attr{o.attr.set, o.attr.clear},
		attr{o.rattr.set, o.rattr.clear},
		p, o.sb, o.data, o.sbClear, o.remount, o.copyUp,
		o.copySymlink, o.srcNoFollow, o.destNoFollow, fmt.Sprint(o.idmap),
	}); err != nil {
		panic(err)
	}
	return b.String()
}

// TestLongMountOptions has options that neither fsconfig(2) nor mount(2) takes: none is cut.
func TestLongMountOptions(t *testing.T) {
	page := os.Getpagesize()
	for name, c := range map[string]struct {
		mount specs.Mount
		path  string
	}{
		"a value": {specs.Mount{Type: "tmpfs", Options: []string{"mpol=" +
			strings.Repeat("0", page)}}, "mounts[0].options"},
		"a name": {
			specs.Mount{Type: "nfs", Options: []string{strings.Repeat("o", page)}},
			"mounts[0].options",
		},
		"a source": {specs.Mount{
			Type: "nfs", Source: strings.Repeat("h", 300),
			Options: []string{"a=" + strings.Repeat("0", page)},
		}, "mounts[0].source"},
		"a value with a comma": {specs.Mount{Type: "nfs", Options: []string{"a=,ro" +
			strings.Repeat("0", 300)}}, "mounts[0].options"},
		"layers": {specs.Mount{Type: "overlay", Options: []string{"lowerdir=:" +
			strings.Repeat("/x:", page)}}, "mounts[0].options"},
		"a page": {
			specs.Mount{Type: "nfs", Options: []string{"a=" + strings.Repeat("0", page-3)}},
			"",
		},
		"a byte more": {
			specs.Mount{Type: "nfs", Options: []string{"a=" + strings.Repeat("0", page-2)}},
			"mounts[0].options",
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := readSpec(t, must(os.ReadFile("testdata/minimal.json")))
			c.mount.Destination = "/m"
			spec.Mounts = []specs.Mount{c.mount}
			_, err := Build(spec, unified, options(unified))
			var refused *Unsupported
			errors.As(err, &refused)
			if c.path == "" && err != nil || c.path != "" && (refused == nil || refused.Path != c.path) {
				t.Errorf("Build: %v; want %q", err, c.path)
			}
		})
	}
}

func TestSplitLayers(t *testing.T) {
	for in, want := range map[string]string{
		"/a":              "lowerdir+=/a",
		"/a:/b":           "lowerdir+=/a lowerdir+=/b",
		`/a\:b:/c\\:/d,e`: `lowerdir+=/a:b lowerdir+=/c\ lowerdir+=/d,e`,
		"/a:/b::/c::/d":   "lowerdir+=/a lowerdir+=/b datadir+=/c datadir+=/d",
		"/a::/b:/c":       "error",
		":/a":             "error",
		"/a:":             "error",
		"/a::":            "error",
		"":                "error",
	} {
		options, err := splitLayers(in)
		got := strings.Join(options, " ")
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("splitLayers(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// TestKeysOfJSON holds the keys that docs/plan.md names.
func TestKeysOfJSON(t *testing.T) {
	p := Plan{
		CloneFlags: unix.CLONE_NEWPID, PIDNamespace: "new", Prefetch: &Plan{}, CPUs: CPUSet{List: "0"},
		Warnings: []string{"w"},
	}
	var parsed map[string]json.RawMessage
	if err := json.Unmarshal(must(json.Marshal(&p)), &parsed); err != nil {
		t.Fatal(err)
	}
	want := []string{"cloneFlags", "cpus", "pidNamespace", "prefetch", "steps", "warnings"}
	if got := slices.Sorted(maps.Keys(parsed)); !slices.Equal(got, want) {
		t.Errorf("found the keys %q; want %q", got, want)
	}
}
