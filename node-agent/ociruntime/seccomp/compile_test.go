// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultProfile is docker's profile as a container with these capabilities gets it.
func defaultProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := moby.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// longProfile has so many conditions that its jumps are longer than 255 instructions.
func longProfile(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	// Only calls that a Go program does not make of itself, so that it lives on under the filter.
	errno := uint(78)
	for i := range uint64(40) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{
			Names: []string{"keyctl", "bpf", "ptrace", "reboot"}, Action: specs.ActErrno, ErrnoRet: &errno,
			Args: []specs.LinuxSeccompArg{
				{Index: 0, Value: i, Op: specs.OpEqualTo},
				{Index: 1, Value: i, Op: specs.OpLessEqual},
			},
		})
	}
	for i, name := range []string{"acct", "swapon", "swapoff", "mount", "umount2", "getppid"} {
		n := uint(77 + (5-i)*2)
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{
			Names: []string{name}, Action: specs.ActErrno,
			ErrnoRet: &n,
		})
		for j := range uint64(20) {
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{
				Names: []string{"setns", "unshare", "pivot_root"}, Action: specs.ActErrno, ErrnoRet: &errno,
				Args: []specs.LinuxSeccompArg{{Index: 2, Value: j<<32 | uint64(i), Op: specs.OpEqualTo}},
			})
		}
	}
	return p
}

// TestEqualsReference compares with the naive evaluator, for docker's profile and random ones.
func TestEqualsReference(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	profiles := []*specs.LinuxSeccomp{defaultProfile(t), defaultProfile(t, "CAP_SYS_ADMIN",
		"CAP_NET_ADMIN"), longProfile(t)}
	for range 60 {
		profiles = append(profiles, randomProfile(r, SupportedOperators()))
	}
	for _, p := range profiles {
		f, _, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		if !compare(t, p, f.Program, newReference(p).verdict, r) {
			return
		}
	}
}

func TestDefaultProfileIsSmall(t *testing.T) {
	f, warnings, err := Compile(defaultProfile(t))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	// libseccomp makes some 1,300 instructions of it.
	if len(f.Program) > 700 {
		t.Errorf("%d instructions", len(f.Program))
	}
	if f.Flags != unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW || f.Notify {
		t.Errorf("flags %#x, notify %v", f.Flags, f.Notify)
	}
}

// TestVerdicts checks the verdicts that config-linux.md documents.
func TestVerdicts(t *testing.T) {
	const (
		x8664 = unix.AUDIT_ARCH_X86_64
		i386  = unix.AUDIT_ARCH_I386
		s390x = unix.AUDIT_ARCH_S390X
		allow = unix.SECCOMP_RET_ALLOW
		eperm = unix.SECCOMP_RET_ERRNO | 1

		enosys = unix.SECCOMP_RET_ERRNO | 38
	)
	for _, test := range []struct {
		name, goarch, profile string
		call                  data
		want                  uint32
	}{
		{"default", "amd64", `{"defaultAction":"SCMP_ACT_ERRNO"}`, data{number: 1, arch: x8664}, eperm},
		{
			"default errno", "amd64", `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38}`,
			data{number: 1, arch: x8664},
			unix.SECCOMP_RET_ERRNO | 38,
		},
		{
			"no names, none is newer", "amd64", `{"defaultAction":"SCMP_ACT_ERRNO"}`,
			data{number: 5000, arch: x8664},
			eperm,
		},
		{
			"newer than the profile", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["futex_waitv"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: 452, arch: x8664},
			enosys,
		}, // fchmodat2
		{
			"newer than a rule without effect", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["futex_waitv"],"action":"SCMP_ACT_ERRNO"}]}`,
			data{number: 452, arch: x8664},
			enosys,
		},
		{
			"not newer, not named", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["futex_waitv"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: 448, arch: x8664},
			eperm,
		}, // process_mrelease
		{
			"newer, killing", "amd64",
			`{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{"names":["read","exit"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: 5000, arch: x8664},
			enosys,
		},
		{
			"newer, allowed", "amd64",
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["exit"],"action":"SCMP_ACT_ERRNO"}]}`,
			data{number: 5000, arch: x8664},
			allow,
		},
		{
			"newer, logged", "amd64",
			`{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"names":["exit"],"action":"SCMP_ACT_ERRNO"}]}`,
			data{number: 5000, arch: x8664},
			unix.SECCOMP_RET_LOG,
		},
		{
			"newer, traced", "amd64",
			`{"defaultAction":"SCMP_ACT_TRACE","syscalls":[{"names":["exit"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: 5000, arch: x8664},
			unix.SECCOMP_RET_TRACE | 1,
		},
		{
			"newer for i386", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[{"names":["exit"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: 2, arch: i386},
			enosys,
		},
		{
			"newer for x32", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X32"],"syscalls":[{"names":["exit"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: x32Bit + 61, arch: x8664},
			enosys,
		},
		{
			"not newer for x32", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X32"],"syscalls":[{"names":["exit"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: x32Bit + 59, arch: x8664},
			eperm,
		},
		{
			"x32 not listed, newer", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["exit"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: x32Bit + 1000, arch: x8664},
			unix.SECCOMP_RET_KILL_THREAD,
		},
		{
			"unknown to the kernel", "s390x",
			`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["exit"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: 0, arch: s390x},
			enosys,
		},
		{
			"bad architecture", "amd64", `{"defaultAction":"SCMP_ACT_ALLOW"}`,
			data{number: 1, arch: i386},
			unix.SECCOMP_RET_KILL_THREAD,
		},
		{
			"listed architecture", "amd64",
			`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}`,
			data{number: 1, arch: i386},
			allow,
		},
		{
			"native is always in", "amd64",
			`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}`,
			data{number: 1, arch: x8664},
			allow,
		},
		{
			"x32 not listed", "amd64", `{"defaultAction":"SCMP_ACT_ALLOW"}`,
			data{number: x32Bit, arch: x8664},
			unix.SECCOMP_RET_KILL_THREAD,
		},
		{
			"x32 listed", "amd64", `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X32"]}`,
			data{number: x32Bit, arch: x8664},
			allow,
		},
		{
			"a tracer's number", "amd64", `{"defaultAction":"SCMP_ACT_ALLOW"}`,
			data{number: 0xffffffff, arch: x8664},
			allow,
		},
		{
			"newest call", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["file_getattr"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{
				number: 468, arch: x8664,
			},
			allow,
		},
		{
			"the unconditional one wins", "amd64", `{"defaultAction":"SCMP_ACT_KILL","syscalls":[
			{"names":["getpid"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
			{"names":["getpid"],"action":"SCMP_ACT_ALLOW"},{"names":["getpid"],"action":"SCMP_ACT_TRAP"}]}`,
			data{number: 39, arch: x8664, args: [6]uint64{1}},
			allow,
		},
		{
			"default action is skipped", "amd64", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
			{"names":["getpid"],"action":"SCMP_ACT_ERRNO"},{"names":["getpid"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}`,
			data{number: 39, arch: x8664},
			unix.SECCOMP_RET_ERRNO | 38,
		},
		{
			"one argument twice is or", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["getpid"],"action":"SCMP_ACT_ALLOW","args":[
			{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]}]}`,
			data{
				number: 39, arch: x8664, args: [6]uint64{2},
			},
			allow,
		},
		{
			"socketcall", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[{"names":["accept4"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: 102, arch: i386, args: [6]uint64{18}},
			allow,
		},
		{
			"another socketcall", "amd64",
			`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[{"names":["accept4"],"action":"SCMP_ACT_ALLOW"}]}`,
			data{number: 102, arch: i386, args: [6]uint64{17}},
			eperm,
		},
		{
			"big endian", "s390x",
			`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967298,"op":"SCMP_CMP_EQ"}]}]}`,
			data{number: 136, arch: s390x, args: [6]uint64{1<<32 | 2}},
			allow,
		},
		{
			"big endian, halves swapped", "s390x",
			`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967298,"op":"SCMP_CMP_EQ"}]}]}`,
			data{number: 136, arch: s390x, args: [6]uint64{2<<32 | 1}},
			eperm,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var p specs.LinuxSeccomp
			if err := json.Unmarshal([]byte(test.profile), &p); err != nil {
				t.Fatal(err)
			}
			f, _, err := compile(&p, test.goarch)
			if err != nil {
				t.Fatal(err)
			}
			order := binary.ByteOrder(binary.LittleEndian)
			if test.goarch == "s390x" {
				order = binary.BigEndian
			}
			if got, err := interpret(f.Program, test.call, order); err != nil || got != test.want {
				t.Errorf("got %#x (%v), want %#x", got, err, test.want)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	const notify = `,"syscalls":[{"names":["getpid"],"action":"SCMP_ACT_NOTIFY"}]`
	for text, want := range map[string]uint{
		``:                                       unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
		`,"flags":[]`:                            0,
		`,"flags":["SECCOMP_FILTER_FLAG_LOG"]`:   unix.SECCOMP_FILTER_FLAG_LOG,
		`,"flags":["SECCOMP_FILTER_FLAG_TSYNC"]`: unix.SECCOMP_FILTER_FLAG_TSYNC,
		`,"flags":["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]`: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
		`,"flags":[]` +
			notify: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
		`,"flags":["SECCOMP_FILTER_FLAG_TSYNC"]` + notify: unix.SECCOMP_FILTER_FLAG_TSYNC |
			unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
		`,"flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]`: 0,
		`,"flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]` +
			notify: unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
	} {
		var p specs.LinuxSeccomp
		if err := json.Unmarshal([]byte(`{"defaultAction":"SCMP_ACT_ALLOW"`+text+`}`), &p); err != nil {
			t.Fatal(err)
		}
		f, _, err := Compile(&p)
		if err != nil || f.Flags != want || f.Notify != strings.Contains(text, "NOTIFY") {
			t.Errorf("%s: got %+v, %v, want flags %#x", text, f.Flags, err, want)
		}
	}
}

// TestFaults holds that each fault is reported with its path, what was found and what is allowed.
func TestFaults(t *testing.T) {
	for _, test := range []struct{ profile, want string }{
		{`{}`, `defaultAction: found ""; allowed: SCMP_ACT_ALLOW, `},
		{`{"defaultAction":"SCMP_ACT_DENY"}`, `defaultAction: found "SCMP_ACT_DENY"`},
		{`{"defaultAction":"SCMP_ACT_NOTIFY"}`, `defaultAction: found "SCMP_ACT_NOTIFY"`},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1}`,
			`defaultErrnoRet: found 1; allowed: nothing with SCMP_ACT_ALLOW`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}`,
			`defaultErrnoRet: found 4096; allowed: 0 to 4095`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","SCMP_ARCH_Z80"]}`,
			`architectures[1]: found "SCMP_ARCH_Z80"`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_S390X"]}`,
			`architectures[0]: found "SCMP_ARCH_S390X"; allowed: architectures of this machine's byte order`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}`,
			`flags[0]: found "X"; allowed: SECCOMP_FILTER_FLAG_LOG, `,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_LOG"}]}`,
			`syscalls[0].names: found none`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read",""],"action":"SCMP_ACT_LOG"}]}`,
			`syscalls[0].names[1]: found ""`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"LOG"}]}`,
			`syscalls[0].action: found "LOG"`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}`,
			`syscalls[0].action: found "SCMP_ACT_NOTIFY"; allowed: any other action for write`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","errnoRet":1}]}`, `syscalls[0].errnoRet: found 1`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_TRACE","errnoRet":65536}]}`, `syscalls[0].errnoRet: found 65536; allowed: 0 to 65535`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}`, `syscalls[0].args[0].index: found 6; allowed: 0 to 5`,
		},
		{
			`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":1,"op":"EQ"}]}]}`, `syscalls[0].args[0].op: found "EQ"; allowed: SCMP_CMP_EQ, `,
		},
		{`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
			{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":1,"op":"SCMP_CMP_EQ"}]},
			{"names":["read"],"action":"SCMP_ACT_TRAP","args":[{"index":1,"op":"SCMP_CMP_EQ"}]}]}`, `syscalls[1]: found conditions that also hold wherever those of syscalls[0] do`},
	} {
		var p specs.LinuxSeccomp
		if err := json.Unmarshal([]byte(test.profile), &p); err != nil {
			t.Fatal(err)
		}
		f, _, err := compile(&p, "amd64")
		if err == nil || f != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", test.profile, err, test.want)
		}
	}
	if _, _, err := Compile(nil); err == nil {
		t.Error("no error without a profile")
	}
	// All at once.
	_, _, err := compile(&specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{"A", "B"}}, "amd64")
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("three faults wanted: %v", err)
	}
}

func TestTooLong(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	for i := range uint64(2000) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{
			Names: []string{"read"}, Action: specs.ActLog,
			Args: []specs.LinuxSeccompArg{{Value: i * 7919, Op: specs.OpEqualTo}},
		})
	}
	if _, _, err := Compile(p); err == nil || !strings.Contains(err.Error(), "4096") {
		t.Errorf("got %v", err)
	}
}

func TestWarnings(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{
			Names: []string{"read", "brand_new"}, Action: specs.ActLog,
			Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo}},
		},
		{
			Names: []string{"read"}, Action: specs.ActTrap,
			Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo}, {Index: 2, Op: specs.OpEqualTo}},
		},
	}}
	_, warnings, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, w := range warnings {
		paths = append(paths, w.Path)
	}
	if want := []string{"syscalls[0].names[1]", "syscalls[1]"}; !slices.Equal(paths, want) {
		t.Errorf("got %v, want %v", warnings, want)
	}
}

// TestTableHasTheKernelsNumbers reads what the table was made of: the kernel's numbers in x/sys.
func TestTableHasTheKernelsNumbers(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatalf("finding golang.org/x/sys: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "unix",
		"zsysnum_linux_*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no zsysnum files: %v", err)
	}
	constant := regexp.MustCompile(`SYS_(\w+)\s*=\s*(\d+)\n`)
	checked := 0
	for _, file := range files {
		goarch := strings.TrimSuffix(file[strings.LastIndexByte(file, '_')+1:], ".go")
		name := nativeName(goarch)
		if goarch == "ppc" {
			name = specs.ArchPPC
		}
		a := architectureByName(name)
		if a == nil {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range constant.FindAllStringSubmatch(string(text), -1) {
			number, err := strconv.Atoi(m[2])
			if err != nil {
				t.Fatal(err)
			}
			checked++
			if e := lookup(strings.ToLower(m[1])); e == nil || int(e.numbers[a.column]) != number {
				t.Errorf("%s on %s: want %d, the table has %+v: run internal/gentable", m[1], a.name, number, e)
			}
		}
	}
	if checked < 4000 {
		t.Errorf("only %d numbers checked", checked)
	}
}

func TestTableIsSorted(t *testing.T) {
	if !slices.IsSortedFunc(syscallTable[:], func(a, b syscallEntry) int {
		return strings.Compare(a.name, b.name)
	}) {
		t.Error("not sorted")
	}
	for _, name := range []string{
		"mseal", "map_shadow_stack", "futex_wake", "statmount", "listmount",
		"lsm_get_self_attr", "setxattrat", "open_tree_attr", "file_getattr",
	} {
		if !KnownSyscall(name) {
			t.Errorf("%s is not known", name)
		}
	}
	if KnownSyscall("") || KnownSyscall("brand_new") || KnownSyscall("READ") {
		t.Error("knows what does not exist")
	}
}

// FuzzCompile holds that no profile makes Compile panic, and that what it makes is a program that
// the kernel takes and that returns.
func FuzzCompile(f *testing.F) {
	text, err := json.Marshal(defaultProfile(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, uint32(1), uint64(0))
	f.Add([]byte(
		`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X32","SCMP_ARCH_X86"],"flags":["SECCOMP_FILTER_FLAG_LOG"],
		"syscalls":[{"names":["socket","read"],"action":"SCMP_ACT_TRACE","errnoRet":3,"args":[{"index":0,"value":18446744073709551615,"valueTwo":7,"op":"SCMP_CMP_MASKED_EQ"},
		{"index":2,"value":4294967296,"op":"SCMP_CMP_LT"}]},{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":5,"value":1,"op":"SCMP_CMP_NE"}]}]}`), uint32(102), uint64(1<<32))
	f.Fuzz(func(t *testing.T, text []byte, number uint32, arg uint64) {
		var p specs.LinuxSeccomp
		if json.Unmarshal(text, &p) != nil {
			return
		}
		for _, goarch := range []string{"amd64", "s390x", "386"} {
			filter, _, err := compile(&p, goarch)
			if err != nil {
				continue
			}
			order := binary.ByteOrder(binary.LittleEndian)
			if goarch == "s390x" {
				order = binary.BigEndian
			}
			for _, arch := range []uint32{
				unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386,
				unix.AUDIT_ARCH_S390X,
			} {
				if _, err := interpret(filter.Program, data{number, arch, [6]uint64{
					arg, arg, arg, arg, arg,
					arg,
				}}, order); err != nil {
					t.Fatal(err)
				}
			}
			stored, err := filter.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			var back Filter
			if err := back.UnmarshalBinary(stored); err != nil || !slices.Equal(back.Program,
				filter.Program) || back.Flags != filter.Flags {
				t.Fatalf("stored and read back: %v", err)
			}
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	p := defaultProfile(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCacheGet(b *testing.B) {
	p := defaultProfile(b)
	c := NewCache(b.TempDir())
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := c.Get(p); err != nil {
			b.Fatal(err)
		}
	}
}
