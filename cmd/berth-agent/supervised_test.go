// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/racetest"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// TestImports holds that the agent talks to its supervisor and links no runtime, and that it links
// the kinds of Kubernetes that it uses and no other: with all of them the program is twice as
// large, and so is the memory that it takes with no container.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/berth-run/berth/node-agent/"
	kinds := []string{"core/v1", "coordination/v1", "authentication/v1"}
	for _, dep := range strings.Fields(string(out)) {
		if dep == module+"supervisor" || strings.HasPrefix(dep, module+"handler") || strings.HasPrefix(dep, module+"runtime") {
			t.Errorf("it imports %s", dep)
		}
		for _, all := range []string{
			"sigs.k8s.io/controller-runtime", "k8s.io/client-go/kubernetes", "github.com/google/gnostic-models",
			"google.golang.org/protobuf", "github.com/prometheus",
		} {
			if dep == all || strings.HasPrefix(dep, all+"/") {
				t.Errorf("it imports %s", dep)
			}
		}
		if group, ok := strings.CutPrefix(dep, "k8s.io/api/"); ok && !slices.Contains(kinds, group) {
			t.Errorf("it imports %s; allowed of k8s.io/api: %v", dep, kinds)
		}
	}
}

// TestProgramSize limits the size of the agent's code and constants, most of which are in memory
// while it runs: 1 MiB is 1 KiB for each of 1,000 containers. A call of text/template, such as by
// cobra's SetVersionTemplate, adds 3.7 MiB: the linker drops no unused method of a program that
// looks up methods by name.
func TestProgramSize(t *testing.T) {
	needs.Root(t)
	program := programs + "/berth-agent"
	if racetest.Enabled { // that one has the detector in it
		program = filepath.Join(t.TempDir(), "berth-agent")
		build := exec.Command("go", "build", "-o", program, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", build, err, out)
		}
	}
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var size uint64
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_W == 0 {
			size += p.Filesz
		}
	}
	if limit := uint64(20 << 20); size > limit {
		t.Errorf("found %.1f MiB of code and constants; want at most %d", float64(size)/(1<<20), limit>>20)
	}
}

// fakeSupervisor answers a handshake as a supervisor does, and every request with the same replies.
func fakeSupervisor(t *testing.T, h protocol.Hello, replies ...protocol.Reply) *protocol.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			var theirs protocol.Hello
			var q protocol.Request
			if protocol.ReadLine(r, &theirs) == nil && protocol.WriteLine(c, h) == nil && protocol.ReadLine(r, &q) == nil {
				for _, reply := range replies {
					_ = protocol.WriteLine(c, reply)
				}
			}
			c.Close()
		}
	}()
	return protocol.NewClient(socket)
}

// TestMeetFakeSupervisor: the agent offers the handlers that the supervisor has, whatever its own
// flags name, and says what differs.
func TestMeetFakeSupervisor(t *testing.T) {
	hello := protocol.Hello{Protocol: protocol.Name, Version: 1, Program: "berth v9", Run: "x"}
	for name, tc := range map[string]struct {
		replies []protocol.Reply
		want    []string
		words   []string
	}{
		"of another version": {
			[]protocol.Reply{
				{Handler: &protocol.HandlerInfo{Name: "berth", Features: &features.Features{OCIVersionMax: "1.2.0"}}, More: true},
				{Handler: &protocol.HandlerInfo{Name: "crun", Error: "exit status 1"}, More: true},
				{},
			},
			[]string{"berth", "crun"},
			[]string{"berth v9", "handler=runsc", "exit status 1"},
		},
		"too old to say": {
			[]protocol.Reply{{Error: protocol.Encode(protocol.ErrInvalid)}},
			[]string{"berth", "runsc"},
			[]string{"older than this agent", "berth v9"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := &supervised{
				client: fakeSupervisor(t, hello, tc.replies...),
				log:    slog.New(slog.NewTextHandler(&log, nil)), wanted: []string{"berth", "runsc"},
				claim: func(context.Context) error { return nil },
			}
			if err := s.meet(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.handlerNames(); !slices.Equal(got, tc.want) {
				t.Errorf("found handlers %v; want %v", got, tc.want)
			}
			for _, w := range tc.words {
				if !strings.Contains(log.String(), w) {
					t.Errorf("the log does not say %q:\n%s", w, log.String())
				}
			}
			log.Reset()
			if err := s.meet(t.Context()); err != nil || log.Len() > 0 {
				t.Errorf("met again: %v; found log %q; want nothing new", err, log.String())
			}
		})
	}
}

// TestHoldEndsItsChecks: keep claims the run directory again once hold has returned, so no claim of
// hold's may be under way then.
func TestHoldEndsItsChecks(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // answers handshakes, and says no more
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var theirs protocol.Hello
			if protocol.ReadLine(bufio.NewReader(c), &theirs) != nil || protocol.WriteLine(c, protocol.Hello{Protocol: protocol.Name, Version: 1}) != nil {
				c.Close()
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	claimed := make(chan struct{})
	s := &supervised{
		client: protocol.NewClient(l.Addr().String()), holder: &protocol.Holder{},
		claim: func(context.Context) error {
			cancel()
			time.Sleep(200 * time.Millisecond)
			close(claimed)
			return nil
		},
	}
	if err := s.hold(ctx); err == nil {
		t.Error("hold ended without an error")
	}
	select {
	case <-claimed:
	default:
		t.Error("hold returned while the run directory was being claimed")
	}
}
