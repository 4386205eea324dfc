// SPDX-License-Identifier: Apache-2.0

package handler

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

func TestSet(t *testing.T) {
	leaktest.Check(t)
	s := Set{}
	if err := s.Add(NativeName, Native{}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddExternal("crun=/usr/bin/crun", "/run/berth/handlers"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"crun", "=/x", "crun=/usr/bin/crun", "a=relative", "a/b=/x", "A=/x"} {
		if err := s.AddExternal(bad, "/run"); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if h, err := s.Get(""); err != nil || h != (Native{}) {
		t.Errorf("the empty name: %v, %v", h, err)
	}
	if h, err := s.Get("crun"); err != nil || h.(*External).Dir != "/run/berth/handlers/crun" {
		t.Errorf("crun: %v, %v", h, err)
	}
	if _, err := s.Get("nope"); err == nil ||
		err.Error() != `handler: found "nope"; allowed: berth, crun` {
		t.Errorf("nope: %v", err)
	}
}

// program writes a shell script that stands for a runtime. $LOG is the file of --log.
func program(t *testing.T, script string) *External {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rt")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nLOG=$4\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return &External{Program: path, Dir: filepath.Join(t.TempDir(), "dir")}
}

// TestExternalCutOff runs a program that does not answer, and one that is killed: how far each came
// is not known.
func TestExternalCutOff(t *testing.T) {
	leaktest.Check(t)
	for name, script := range map[string]string{
		"no answer": "exec sleep 1000",
		"killed":    "kill -9 $$",
	} {
		t.Run(name, func(t *testing.T) {
			e := program(t, script)
			if name == "no answer" {
				e.timeout = 100 * time.Millisecond
			}
			for call, f := range map[string]func() error{
				"start": func() error { return e.Start(t.Context(), "x") },
				"create": func() error {
					_, err := e.Create(t.Context(), "x", "/bundle", Stdio{})
					return err
				},
			} {
				if err := f(); !errors.Is(err, ErrCutOff) {
					t.Errorf("%s: found %v; want %v", call, err, ErrCutOff)
				}
			}
		})
	}
}

// The error is the program's last message, and is one of this package's errors if the message says
// so.
func TestExternalErrors(t *testing.T) {
	leaktest.Check(t)
	for _, tc := range []struct {
		name, script, want string
		kind               error
	}{
		{"last error of the log", `echo '{"level":"warning","msg":"w"}
{"level":"error","msg":"first"}
{"level":"error","msg":"mounts[3]: EINVAL"}
{"level":"debug","msg":"d"}' > $LOG; echo other >&2; exit 1`, "mounts[3]: EINVAL", nil},
		{"stderr when there is no log", `echo one >&2; echo two >&2; exit 1`, "two", nil},
		{"exit status when there is neither", `exit 3`, "exit status 3", nil},
		{"log that is no json", `echo text > $LOG; echo two >&2; exit 1`, "two", nil},
		{
			"runc: absent", `echo '{"level":"error","msg":"container does not exist"}' > $LOG; exit 1`,
			"container does not exist", ErrNotExist,
		},
		{"crun: absent", `echo '{"msg":"container ` + "`x`" +
			` does not exist","level":"error"}' > $LOG; exit 1`, "does not exist", ErrNotExist},
		{
			"runc: ended", `echo '{"level":"error","msg":"container not running"}' > $LOG; exit 1`,
			"container not running", ErrNotRunning,
		},
		{
			"runc: taken",
			`echo '{"level":"error","msg":"container with given ID already exists"}' > $LOG; exit 1`,
			"already exists", ErrExist,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := program(t, tc.script)
			err := e.Kill(t.Context(), "x", unix.SIGTERM, false)
			if err == nil || !strings.HasSuffix(err.Error(), tc.want) || !strings.Contains(err.Error(),
				e.Program+" kill x: ") {
				t.Errorf("got %v", err)
			}
			for _, kind := range []error{ErrNotExist, ErrExist, ErrNotRunning} {
				if errors.Is(err, kind) != (kind == tc.kind) {
					t.Errorf("%v is %v", err, kind)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(e.Dir, "calls", "*")); len(left) != 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// A create that fails is undone, except where the id is somebody else's container.
func TestExternalCreateIsUndone(t *testing.T) {
	leaktest.Check(t)
	for words, undone := range map[string]bool{
		"no such file":                           true,
		"container with given ID already exists": false,
	} {
		e := program(t, `case "$*" in
*create*) echo '{"level":"error","msg":"`+words+`"}' > $LOG; exit 1;;
*"delete --force x") : > "$(dirname "$0")/deleted";;
esac`)
		if _, err := e.Create(t.Context(), "x", "/b", Stdio{}); err == nil {
			t.Fatal("created")
		}
		_, err := os.Stat(filepath.Join(filepath.Dir(e.Program), "deleted"))
		if undone != (err == nil) {
			t.Errorf("%s: %v", words, err)
		}
	}
	// No pid file, no container.
	e := program(t, `case "$*" in *"delete --force x") : > "$(dirname "$0")/deleted";; esac`)
	if _, err := e.Create(t.Context(), "x", "/b", Stdio{}); err == nil ||
		!strings.Contains(err.Error(), "pid file") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(e.Program), "deleted")); err != nil {
		t.Error(err)
	}
}

// TestExternalCreateIsNotUndone: the caller learns that a container may be left, so that it deletes
// it later. A program that fails by itself, or does not run at all, leaves nothing.
func TestExternalCreateIsNotUndone(t *testing.T) {
	leaktest.Check(t)
	const refuses = `echo '{"level":"error","msg":"busy"}' > $LOG; exit 1`
	const no = `echo '{"level":"error","msg":"container does not exist"}' > $LOG; exit 1`
	for name, tc := range map[string]struct {
		create, remove, state string
		left                  bool
	}{
		"killed":               {"kill -9 $$", refuses, no, true},
		"no pid file":          {"exit 0", refuses, no, true},
		"delete is killed":     {"exit 1", "kill -9 $$", no, true},
		"killed, undone":       {"kill -9 $$", "exit 0", no, false},
		"killed, no container": {"kill -9 $$", no, no, false},
		"refuses all":          {"exit 1", refuses, refuses, false},
		"keeps nothing":        {"exit 1", refuses, no, false},
		"keeps it":             {"exit 1", refuses, `echo '{"id":"x","status":"stopped"}'`, true},
		"state is killed":      {"exit 1", refuses, "kill -9 $$", true},
	} {
		t.Run(name, func(t *testing.T) {
			e := program(t, `case "$*" in
*" create "*) `+tc.create+`;;
*"delete --force x") `+tc.remove+`;;
*" state x") `+tc.state+`;;
esac`)
			_, err := e.Create(t.Context(), "x", "/b", Stdio{})
			if err == nil || errors.Is(err, ErrNotUndone) != tc.left {
				t.Errorf("found %v; want ErrNotUndone: %v", err, tc.left)
			}
			if tc.remove == refuses && !strings.HasSuffix(err.Error(), "busy") {
				t.Errorf("found %v; want the error of delete", err)
			}
		})
	}
	e := &External{Program: "/nowhere", Dir: t.TempDir()}
	if _, err := e.Create(t.Context(), "x", "/b", Stdio{}); err == nil ||
		errors.Is(err, ErrNotUndone) {
		t.Errorf("found %v; want another error than ErrNotUndone", err)
	}
}

// Features of Debian's runc, as a peer.
func TestExternalFeatures(t *testing.T) {
	leaktest.Check(t)
	const runc = "/usr/sbin/runc"
	if _, err := os.Stat(runc); err != nil {
		needs.Skip(t, err.Error())
	}
	e := &External{Program: runc, Dir: t.TempDir()}
	f, err := e.Features(t.Context())
	if err != nil || f.Linux == nil || len(f.Linux.Namespaces) == 0 {
		t.Fatalf("%+v, %v", f, err)
	}
	if _, err := e.State(t.Context(), "nope"); !errors.Is(err, ErrNotExist) {
		t.Errorf("state: %v", err)
	}
}

// TestExternalUpdateIsUndone: a program that refuses an update is given the limits of before, for
// not every one sets back itself.
func TestExternalUpdateIsUndone(t *testing.T) {
	leaktest.Check(t)
	// The program writes down what it is given, and refuses a limit of 9.
	e := program(t, `eval "file=\${$(($# - 1))}"
grep -o '"limit":[0-9]*' "$file" >> "$(dirname "$0")/given"
! grep -q '"limit":9}' "$file" || { echo '{"level":"error","msg":"no"}' > $LOG; exit 1; }`)
	pids := func(n int64) *specs.LinuxResources {
		return &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}}
	}
	if err := e.Update(t.Context(), "x", pids(8), pids(7)); err != nil {
		t.Fatal(err)
	}
	err := e.Update(t.Context(), "x", pids(9), pids(8))
	if err == nil || !strings.HasPrefix(err.Error(), "linux.resources: ") ||
		!strings.HasSuffix(err.Error(), " no") {
		t.Errorf("got %v", err)
	}
	// With nothing to set back to, both errors are reported.
	if err := e.Update(t.Context(), "x", pids(9), pids(9)); err == nil ||
		!strings.Contains(err.Error(), "set it back: ") {
		t.Errorf("got %v", err)
	}
	given, err := os.ReadFile(filepath.Join(filepath.Dir(e.Program), "given"))
	if want := `"limit":8 "limit":9 "limit":8 "limit":9 "limit":9`; err != nil ||
		strings.Join(strings.Fields(string(given)), " ") != want {
		t.Errorf("it was given %q, %v; want %q", given, err, want)
	}
}

// TestForwardLeavesTheEndToTheProgram: the exit code is the program's also if the context ends
// before it, and nothing of the call goes on.
func TestForwardLeavesTheEndToTheProgram(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	program, begun, goOn := filepath.Join(dir, "program"), filepath.Join(dir, "begun"),
		filepath.Join(dir, "go")
	script := "#!/bin/sh\n: > " + begun + "\nwhile [ ! -e " + goOn + " ]; do sleep 0.01; done\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ended sync.WaitGroup
	defer ended.Wait()
	ended.Go(func() {
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(begun); err == nil {
				break
			}
		}
		cancel()
		time.Sleep(50 * time.Millisecond) // what the end of the context would do has been done
		if err := os.WriteFile(goOn, nil, 0o600); err != nil {
			t.Error(err)
		}
	})
	if code, err := (&CLI{Path: program, Root: t.TempDir()}).Forward(ctx, "run"); code != 0 ||
		err != nil {
		t.Errorf("found %d, %v; want 0, nil", code, err)
	}
}
