// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// libseccomp is the path of the helper made from testdata/libseccomp.c.
type libseccomp string

// buildLibseccomp builds the helper against the libseccomp-dev package.
func buildLibseccomp(t *testing.T) libseccomp {
	t.Helper()
	helper := filepath.Join(t.TempDir(), "libseccomp")
	out, err := exec.Command("gcc", "-O1", "-o", helper, "testdata/libseccomp.c",
		"-lseccomp").CombinedOutput()
	if err != nil {
		needs.Skip(t, fmt.Sprintf("needs gcc and libseccomp-dev to compare with libseccomp: %v\n%s",
			err, out))
	}
	return libseccomp(helper)
}

// ask hands lines to the helper and returns its answers.
func (l libseccomp) ask(t *testing.T, lines string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, string(l))
	cmd.Stdin = strings.NewReader(lines)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var answers []string
	scanner := bufio.NewScanner(bytes.NewReader(out))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		answers = append(answers, scanner.Text())
	}
	return answers
}

// token returns the SCMP_ARCH_* constant of seccomp.h for an architecture.
func token(a *architecture) uint32 {
	if a.name == specs.ArchX32 {
		return a.audit &^ 0x80000000
	}
	return a.audit
}

// unknownToLibseccomp returns the names of the table that the installed libseccomp, being older,
// does not know.
func (l libseccomp) unknown(t *testing.T) map[string]bool {
	t.Helper()
	var lines strings.Builder
	for _, e := range syscallTable {
		fmt.Fprintf(&lines, "number %x %s\n", token(architectureByName(nativeName(runtime.GOARCH))),
			e.name)
	}
	unknown := map[string]bool{}
	for i, answer := range l.ask(t, lines.String()) {
		if answer == "-1" {
			unknown[syscallTable[i].name] = true
		}
	}
	return unknown
}

// script writes a profile for the helper as runc's libcontainer/seccomp hands it to libseccomp:
// names unknown and rules with the default action are left out, conditions on one argument are
// split.
func script(t *testing.T, p *specs.LinuxSeccomp, unknown map[string]bool) string {
	t.Helper()
	var b strings.Builder
	fallback := returns(p.DefaultAction, p.DefaultErrnoRet)
	rules := 0
	for _, s := range p.Syscalls {
		rules += len(s.Names)
	}
	optimize := 1
	if rules > 32 {
		optimize = 2
	}
	fmt.Fprintf(&b, "filter %x %d\n", fallback, optimize)
	for _, name := range p.Architectures {
		fmt.Fprintf(&b, "arch %x\n", token(architectureByName(name)))
	}
	operators := []specs.LinuxSeccompOperator{
		"", specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
	}
	for _, s := range p.Syscalls {
		action := returns(s.Action, s.ErrnoRet)
		if action == fallback {
			continue
		}
		var seen [6]int
		for _, a := range s.Args {
			seen[a.Index]++
		}
		var args []string
		for _, a := range s.Args {
			args = append(args, fmt.Sprintf(" %d %d %x %x", a.Index, slices.Index(operators, a.Op), a.Value,
				a.ValueTwo))
		}
		if slices.Max(seen[:]) <= 1 {
			args = []string{strings.Join(args, "")}
		}
		for _, name := range s.Names {
			if unknown[name] {
				continue
			}
			for _, a := range args {
				fmt.Fprintf(&b, "rule %x %s%s\n", action, name, a)
			}
		}
	}
	b.WriteString("export\n")
	return b.String()
}

func parseProgram(t *testing.T, text string) []unix.SockFilter {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	program := make([]unix.SockFilter, len(raw)/8)
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, program); err != nil {
		t.Fatal(err)
	}
	return program
}

// patched runs a filter of libseccomp behind runc's stub for system calls that are newer than the
// profile.
func patched(p *specs.LinuxSeccomp, program []unix.SockFilter) func(data) (uint32, error) {
	newer := findNewerCalls(p)
	return func(d data) (uint32, error) {
		if newer.has(d) {
			return newerVerdict, nil
		}
		return interpret(program, d, binary.NativeEndian)
	}
}

// without returns the profile less the names in unknown.
func without(p *specs.LinuxSeccomp, unknown map[string]bool) *specs.LinuxSeccomp {
	q := *p
	q.Syscalls = nil
	for _, s := range p.Syscalls {
		s.Names = slices.DeleteFunc(slices.Clone(s.Names), func(name string) bool {
			return unknown[name] || !KnownSyscall(name)
		})
		if len(s.Names) > 0 {
			q.Syscalls = append(q.Syscalls, s)
		}
	}
	return &q
}

func TestTableHasLibseccompsNumbers(t *testing.T) {
	l := buildLibseccomp(t)
	var lines strings.Builder
	type question struct {
		a *architecture
		e *syscallEntry
	}
	var questions []question
	for i := range architectures {
		a := &architectures[i]
		if a.name == specs.ArchLOONGARCH64 {
			continue // newer than Debian 12's libseccomp
		}
		for j := range syscallTable {
			questions = append(questions, question{a, &syscallTable[j]})
			fmt.Fprintf(&lines, "number %x %s\n", token(a), syscallTable[j].name)
		}
	}
	for i, answer := range l.ask(t, lines.String()) {
		q := questions[i]
		theirs, err := strconv.Atoi(answer)
		if err != nil {
			t.Fatal(err)
		}
		ours := int(q.e.numbers[q.a.column])
		// libseccomp has pseudo numbers below 0 for what an architecture has not.
		if _, _, mux := multiplexed(q.e.name); theirs < 0 && (ours < 0 || mux) {
			continue
		}
		if theirs == -1 {
			continue // not known to it at all
		}
		if ours != theirs && !(theirs < 0 && ours >= 0) {
			t.Errorf("%s on %s: table %d, libseccomp %d", q.e.name, q.a.name, ours, theirs)
		}
	}
}

func TestDefaultProfileEqualsLibseccomp(t *testing.T) {
	l := buildLibseccomp(t)
	unknown := l.unknown(t)
	for _, caps := range [][]string{
		nil,
		{"CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE"},
		{"CAP_SYS_ADMIN"},
		{
			"CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_SYS_BOOT",
			"CAP_SYS_TIME", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_DAC_READ_SEARCH",
		},
	} {
		p := without(defaultProfile(t, caps...), unknown)
		ours, warnings, err := Compile(p)
		if err != nil || len(warnings) > 0 {
			t.Fatal(err, warnings)
		}
		answer := l.ask(t, script(t, p, unknown))
		theirs := parseProgram(t, strings.TrimPrefix(answer[0], "ok "))
		t.Logf("capabilities %v: %d instructions, libseccomp has %d", caps, len(ours.Program),
			len(theirs))
		compare(t, p, ours.Program, patched(p, theirs), rand.New(rand.NewPCG(1, 2)))
	}
}

// compare looks for a call that the program answers otherwise than want does.
func compare(t *testing.T, p *specs.LinuxSeccomp, program []unix.SockFilter,
	want func(data) (uint32, error), r *rand.Rand,
) bool {
	t.Helper()
	bad := 0
	calls(p, r, func(d data) bool {
		got, err := interpret(program, d, binary.NativeEndian)
		if err != nil {
			t.Fatal(err)
		}
		expected, err := want(d)
		if err != nil {
			t.Fatal(err)
		}
		if got != expected {
			bad++
			t.Errorf("arch %#x number %d (%#x) args %#x: got %#x, want %#x%s", d.arch, int32(d.number),
				d.number, d.args, got, expected, rulesFor(p, d))
		}
		return bad < 3
	})
	return bad == 0
}

// rulesFor shows the lines of a profile that decide about a call.
func rulesFor(p *specs.LinuxSeccomp, d data) string {
	text := "; default " + string(p.DefaultAction)
	for i, s := range p.Syscalls {
		for _, name := range s.Names {
			e := lookup(name)
			mux, _, ok := multiplexed(name)
			if e != nil && (slices.Contains(e.numbers[:], int32(d.number)) || ok && mux == d.number) {
				line, _ := json.Marshal(s)
				text += fmt.Sprintf("\n  %d: %s: %s", i, name, line)
			}
		}
	}
	return text
}

// TestRandomProfilesEqualLibseccomp compares profiles of many rules. libseccomp 2.5 errs in some:
// two ranges of one 64-bit argument, or inequalities among several conditions, hide each other, and
// code shared by several architectures or system calls may be entered with the wrong word loaded.
// Where the two differ the naive evaluator has to be on our side, and with equality and masks alone
// that has to be rare.
func TestRandomProfilesEqualLibseccomp(t *testing.T) {
	l := buildLibseccomp(t)
	unknown := l.unknown(t)
	for _, test := range []struct {
		name      string
		profiles  int
		operators []specs.LinuxSeccompOperator
		differing float64 // share of profiles
	}{
		{"equality", 100, []specs.LinuxSeccompOperator{specs.OpEqualTo}, 0.03},
		{"masked", 80, []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpMaskedEqual}, 0.05},
		{"inequality", 40, []specs.LinuxSeccompOperator{
			specs.OpEqualTo, specs.OpMaskedEqual,
			specs.OpNotEqual,
		}, 0.5},
		{"ranges", 30, SupportedOperators(), 0.6},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			var lines strings.Builder
			var all []*specs.LinuxSeccomp
			for range test.profiles {
				p := without(randomProfile(r, test.operators), unknown)
				all = append(all, p)
				lines.WriteString(script(t, p, unknown))
			}
			differing, hangs := 0, 0
			for i, answer := range l.ask(t, lines.String()) {
				text, ok := strings.CutPrefix(answer, "ok ")
				switch {
				case answer == "hang":
					hangs++
					continue
				case !ok:
					t.Fatalf("libseccomp refuses a profile: %s", answer)
				}
				ours, _, err := Compile(all[i])
				if err != nil {
					t.Fatal(err)
				}
				theirs := patched(all[i], parseProgram(t, text))
				reference := newReference(all[i])
				differs := false
				if !compare(t, all[i], ours.Program, func(d data) (uint32, error) {
					want, err := theirs(d)
					meant, _ := reference.verdict(d)
					differs = differs || meant != want
					return meant, err
				}, r) {
					return
				}
				if differs {
					differing++
				}
			}
			t.Logf("of %d profiles libseccomp departs from the meaning of %d, and did not come back from %d",
				test.profiles, differing, hangs)
			if share := float64(differing) / float64(test.profiles); share > test.differing {
				t.Errorf("libseccomp and Compile differ in %.2f of the profiles, more than %.2f", share,
					test.differing)
			}
		})
	}
}

// TestConflictsEqualLibseccomp compares rules of different actions which meet in one system call.
func TestConflictsEqualLibseccomp(t *testing.T) {
	l := buildLibseccomp(t)
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActLog, specs.ActTrap}
	r := rand.New(rand.NewPCG(3, 4))
	var lines strings.Builder
	var all []*specs.LinuxSeccomp
	for i := range 2000 {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActKill, Architectures: []specs.Arch{specs.ArchX86}}
		for range 2 + r.IntN(3) {
			s := specs.LinuxSyscall{Names: []string{"getpid"}, Action: actions[r.IntN(len(actions))]}
			for _, index := range r.Perm(4)[:1+r.IntN(3)] {
				a := specs.LinuxSeccompArg{
					Index: uint(index), Op: specs.OpEqualTo, Value: uint64(r.IntN(3)),
					ValueTwo: uint64(r.IntN(4)),
				}
				if i%2 == 0 && r.IntN(2) == 0 {
					a.Op, a.Value = specs.OpMaskedEqual, uint64(1+r.IntN(3))
				}
				s.Args = append(s.Args, a)
			}
			if r.IntN(10) == 0 {
				s.Args = nil
			}
			p.Syscalls = append(p.Syscalls, s)
		}
		all = append(all, p)
		lines.WriteString(script(t, p, nil))
	}
	refused, onlyOurs := 0, 0
	for i, answer := range l.ask(t, lines.String()) {
		text, ok := strings.CutPrefix(answer, "ok ")
		ours, _, err := Compile(all[i])
		if err != nil {
			if ok {
				// libseccomp forgets some conflicts once it has dropped a redundant rule.
				onlyOurs++
			}
			refused++
			continue
		}
		calls39 := data{number: 39, arch: unix.AUDIT_ARCH_X86_64}
		if !ok {
			t.Fatalf("libseccomp refuses what Compile takes (%s):%s", answer, rulesFor(all[i], calls39))
		}
		theirs := parseProgram(t, text)
		for bits := range 1 << 12 {
			d := calls39
			if bits>>11 == 1 {
				d.arch, d.number = unix.AUDIT_ARCH_I386, 20
			}
			d.args = [6]uint64{
				uint64(bits & 3), uint64(bits >> 2 & 3), uint64(bits >> 4 & 3),
				uint64(bits >> 6 & 3),
			}
			if high := bits >> 8 & 7; high < 4 {
				d.args[high] |= 1 << 32
			}
			got, err := interpret(ours.Program, d, binary.NativeEndian)
			if err != nil {
				t.Fatal(err)
			}
			if want, _ := interpret(theirs, d, binary.NativeEndian); got != want {
				t.Fatalf("args %#x: got %#x, libseccomp %#x:%s", d.args, got, want, rulesFor(all[i], calls39))
			}
		}
	}
	t.Logf("%d of %d refused, %d of them not by libseccomp", refused, len(all), onlyOurs)
	if onlyOurs > 5 {
		t.Errorf("Compile refuses %d profiles that libseccomp takes", onlyOurs)
	}
}
