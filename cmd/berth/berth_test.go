// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/racetest"
)

// program is the binary under test, as it is shipped; plain is one that was linked without an entry
// point of its own.
var program, plain string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	// What the caller has us ignore, as nohup(1) and shells in the background do, would be ignored
	// by all that is called here. What is caught is not, after execve(2).
	for _, sig := range []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	dir, err := os.MkdirTemp("", "berth")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program, plain = filepath.Join(dir, "berth"), filepath.Join(dir, "berth-plain")
	for out, flags := range map[string]string{program: "-E main.entry", plain: ""} {
		// Where they have been built before, as for a virtual machine in which that would take
		// minutes.
		if built := os.Getenv("BERTH_PROGRAMS"); built != "" {
			data, err := os.ReadFile(filepath.Join(built, filepath.Base(out)))
			if err == nil {
				err = os.WriteFile(out, data, 0o755)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			continue
		}
		build := exec.Command("go", "build", "-ldflags", flags, "-o", out, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if racetest.Enabled { // it is linked with C's library, which has the entry point
			build = exec.Command("go", "build", "-race", "-o", out, ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=1")
		}
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
	}
	if err := racetest.Collect(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if races := racetest.Reports(dir); races != "" {
		fmt.Fprintf(os.Stderr, "berth has a race:\n%s", races)
		return 1
	}
	return code
}

// result is the outcome of a call of berth.
type result struct {
	code           int
	stdout, stderr string
}

func berth(t *testing.T, args ...string) result {
	t.Helper()
	return call(t, exec.Command(program, args...))
}

func call(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	stdout, stderr := newOutput(t), newOutput(t)
	cmd.Stdout, cmd.Stderr = stdout.w, stderr.w
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.all(), stderr.all()}
}

// output is a pipe for the output of a call of berth. A container of the call may keep the pipe, so
// its end is not waited for.
type output struct {
	r, w *os.File
	text bytes.Buffer
	read chan struct{} // closed when text is no longer written to
}

func newOutput(t *testing.T) *output {
	t.Helper()
	o := &output{read: make(chan struct{})}
	var err error
	o.r, o.w, err = os.Pipe()
	must(t, err)
	go func() {
		defer close(o.read)
		_, _ = o.text.ReadFrom(o.r)
	}()
	return o
}

// all returns the output of both streams, once their writers have ended.
func (o *output) all() string {
	o.w.Close()
	_ = o.r.SetReadDeadline(time.Unix(1, 0))
	<-o.read
	// Read looks at its deadline first, so that what was in the pipe by then is still there.
	// Reading it does not block.
	if raw, err := o.r.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			buf := make([]byte, 1<<16)
			for {
				n, err := unix.Read(int(fd), buf)
				if n <= 0 && !errors.Is(err, unix.EINTR) {
					return
				}
				o.text.Write(buf[:max(n, 0)])
			}
		})
	}
	o.r.Close()
	return o.text.String()
}

// patience is the deadline of each wait. On an idle machine each of them ends at once.
const patience = 2 * time.Minute

// is fails the test where a call ended otherwise, or its output lacks some words. The log in text
// form has quotes escaped.
func (r result) is(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.stdout, stdout) ||
		!strings.Contains(strings.ReplaceAll(r.stderr, `\"`, `"`), stderr) {
		t.Errorf("exit code %d, standard output:\n%s\nstandard error:\n%s\nwant %d, %q and %q", r.code,
			r.stdout, r.stderr, code, stdout, stderr)
	}
}

// bundle returns a directory with a document and Debian's busybox as its root filesystem.
func bundle(t *testing.T, change func(*specs.Spec)) string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "rootfs/bin")
	must(t, os.MkdirAll(bin, 0o755))
	data, err := os.ReadFile("/bin/busybox")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755))
	for _, applet := range []string{
		"sh", "sleep", "true", "ls", "cat", "tr", "readlink", "stty",
		"pwd", "grep", "test", "mkfifo", "chmod", "printf",
	} {
		must(t, os.Symlink("busybox", filepath.Join(bin, applet)))
	}
	berth(t, "spec", "-b", dir).is(t, 0, "", "")
	spec := &specs.Spec{}
	data, err = os.ReadFile(filepath.Join(dir, "config.json"))
	must(t, err)
	must(t, json.Unmarshal(data, spec))
	spec.Process.Terminal = false
	if change != nil {
		change(spec)
	}
	data, err = json.Marshal(spec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600))
	return dir
}

func args(argv ...string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Process.Args = argv }
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host returns a root directory and an id that no other test has.
func host(t *testing.T) (root, id string) {
	t.Helper()
	needs.Root(t)
	root, id = t.TempDir(), "b"+strconv.Itoa(os.Getpid())+"-"+strings.NewReplacer("/", "-", " ",
		"-").Replace(t.Name())
	t.Cleanup(func() {
		berth(t, "--root", root, "delete", "--force", id).is(t, 0, "", "")
		if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
			t.Errorf("left in --root: %v, %v", entries, err)
		}
		for _, pattern := range []string{"/sys/fs/cgroup/" + id, "/sys/fs/cgroup/*/" + id} {
			if dirs, _ := filepath.Glob(pattern); len(dirs) > 0 {
				t.Errorf("left: %v", dirs)
			}
		}
	})
	return root, id
}

// TestProgram: it is static, and knows nothing of Kubernetes.
func TestProgram(t *testing.T) {
	f, err := elf.Open(program)
	must(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program is not static")
		}
	}
	if os.Getenv("BERTH_PROGRAMS") != "" {
		t.Skip("what it imports is looked at where it is built")
	}
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	must(t, err)
	for _, dep := range strings.Fields(string(out)) {
		if strings.HasPrefix(dep, "k8s.io/") || strings.HasPrefix(dep, "sigs.k8s.io/") ||
			strings.HasPrefix(dep, "tags.cncf.io/") {
			t.Errorf("it imports %s", dep)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, call := range [][]string{nil, {"--help"}, {"-h"}, {"help"}, {"h"}} {
		berth(t, call...).is(t, 0, "USAGE:\n   berth [global options] command", "")
	}
	for _, c := range commands() {
		for _, call := range [][]string{{c.name, "--help"}, {c.name, "-h"}, {"help", c.name}} {
			r := berth(t, call...)
			r.is(t, 0, "berth "+c.name+" - "+c.summary, "")
			if len(c.examples) == 0 {
				t.Errorf("%s has no example", c.name)
				continue
			}
			r.is(t, 0, "EXAMPLES:\n   "+c.examples[0], "")
		}
	}
	r := berth(t, "--version")
	lines := strings.Split(r.stdout, "\n")
	if r.code != 0 || !strings.HasPrefix(lines[0], "berth version ") || !strings.HasPrefix(lines[1],
		"commit: ") || lines[2] != "spec: "+specs.Version {
		t.Errorf("--version: %d, %q", r.code, r.stdout)
	}
}

// TestCalledAs finds the name of runc and crun in the version and the help of a berth that is
// installed in their place.
func TestCalledAs(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"runc", "crun", "other"} {
		must(t, os.Symlink(program, filepath.Join(dir, name)))
	}
	as := func(name string, args ...string) result {
		return call(t, exec.Command(filepath.Join(dir, name), args...))
	}
	as("runc", "--version").is(t, 0, "runc version "+version+"\n", "")
	as("crun", "--version").is(t, 0, "\nprogram: berth\n", "")
	as("other", "--version").is(t, 0, "berth version ", "")
	as("runc", "--help").is(t, 0, "NAME:\n   runc - Open Container Initiative runtime\n", "")
	as("runc", "state", "--help").is(t, 0, "NAME:\n   runc state - ", "")
	as("runc", "state", "--help").is(t, 0, "EXAMPLES:\n   runc state hello\n", "")
	for command, usage := range map[string]string{
		"start": "start CONTAINER", "delete": "delete CONTAINER",
		"update": "update [OPTION]... CONTAINER",
	} {
		as("crun", command, "--help").is(t, 0, "Usage: crun [OPTION...] "+usage+"\n", "")
	}
}

func TestWrongUse(t *testing.T) {
	for _, c := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"bogus", 3, "", "No help topic for 'bogus'"},
		{"--bogus", 1, "USAGE:", "flag provided but not defined: -bogus"},
		{"state --bogus x", 1, "USAGE:\n   berth state", "flag provided but not defined: -bogus"},
		{"state", 1, "USAGE:\n   berth state", `"state" requires exactly 1 argument(s)`},
		{"state a b", 1, "USAGE:\n   berth state", `"state" requires exactly 1 argument(s)`},
		{"create", 1, "USAGE:\n   berth create", `"create" requires exactly 1 argument(s)`},
		{"kill", 1, "USAGE:\n   berth kill", `"kill" requires a minimum of 1 argument(s)`},
		{"kill a TERM c", 1, "USAGE:\n   berth kill", `"kill" requires a maximum of 2 argument(s)`},
		{"kill a FOO", 1, "", `unknown signal "FOO"`},
		{"kill a 99", 1, "", `unknown signal "99"`},
		{"--log-format xml list", 1, "", `--log-format: found "xml"; allowed are text, json`},
		{"list -f xml", 1, "", `--format: found "xml"; allowed are table, json`},
		{"create --preserve-fds 50 x", 1, "", "--preserve-fds: found 50, but descriptor "},
		{"create --preserve-fds -1 x", 1, "", "--preserve-fds: found -1"},
		{"run --bundle /does/not/exist x", 1, "", "/does/not/exist/config.json not found"},
	} {
		berth(t, append([]string{"--root", t.TempDir()}, strings.Fields(c.args)...)...).is(t, c.code,
			c.stdout, c.stderr)
	}
	for _, id := range []string{"", ".", "..", "a/b"} {
		berth(t, "--root", t.TempDir(), "state", id).is(t, 1, "", "invalid container ID format")
	}
	for _, command := range []string{"state", "start", "kill", "delete"} {
		berth(t, "--root", t.TempDir(), command, "none").is(t, 1, "", "container does not exist")
	}
	berth(t, "--root", t.TempDir(), "delete", "--force", "none").is(t, 0, "", "")
	berth(t, "--root", "/does/not/exist", "list").is(t, 1, "", "--root: ")
}

// TestLog: containerd takes the message of the last line of level error.
func TestLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log.json")
	berth(t, "--log", log, "--log-format", "json", "--root", t.TempDir(), "state", "none").is(t, 1, "",
		"container does not exist\n")
	data, err := os.ReadFile(log)
	must(t, err)
	var line struct{ Level, Msg, Time string }
	must(t, json.Unmarshal(data, &line))
	if _, err := time.Parse(time.RFC3339, line.Time); err != nil || line.Level != "error" ||
		line.Msg != "container does not exist" {
		t.Errorf("found %s, %v", data, err)
	}
	if st, err := os.Stat(log); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the log's mode: %v, %v", st.Mode(), err)
	}
	r := berth(t, "--root", t.TempDir(), "state", "none")
	if !strings.Contains(r.stderr, "level=error msg=\"container does not exist\"\n") {
		t.Errorf("without --log: %q", r.stderr)
	}
	berth(t, "--log", "/does/not/exist/log", "--root", t.TempDir(), "delete", "-f", "none").is(t, 1,
		"", "--log: open /does/not/exist/log: no such file or directory")
}

func TestSpec(t *testing.T) {
	dir := t.TempDir()
	berth(t, "spec", "--bundle", dir).is(t, 0, "", "")
	got, err := os.ReadFile(filepath.Join(dir, "config.json"))
	must(t, err)
	// The golden plan of the default document is the plan of what is written here.
	want, err := os.ReadFile("../../node-agent/ociruntime/plan/testdata/default.json")
	must(t, err)
	if !cgroups.IsCgroup2UnifiedMode() {
		// As `runc spec`: a cgroup namespace on cgroup v2 alone.
		namespace := []byte(",\n\t\t\t{\n\t\t\t\t\"type\": \"cgroup\"\n\t\t\t}")
		if !bytes.Contains(want, namespace) {
			t.Fatal("no cgroup namespace in default.json")
		}
		want = bytes.Replace(want, namespace, nil, 1)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("node-agent/ociruntime/plan/testdata/default.json is not what `berth spec` writes:\n%s",
			got)
	}
	berth(t, "spec", "--bundle", dir).is(t, 1, "", "File config.json exists. Remove it first")
	must(t, os.Mkdir(filepath.Join(dir, "rootfs"), 0o755))
	berth(t, "validate", "--bundle", dir).is(t, 0, "", "")
}

func TestValidate(t *testing.T) {
	dir := bundle(t, func(s *specs.Spec) { s.Process.Args, s.Process.Cwd = nil, "relative" })
	r := berth(t, "validate", "-b", dir)
	r.is(t, 1, "Error: process.args: found ", "")
	r.is(t, 1, "Error: process.cwd: found ", "")
	r = berth(t, "validate", "-b", dir, "-o", "json")
	var faults []map[string]string
	if err := json.Unmarshal([]byte(r.stdout), &faults); err != nil || r.code != 1 ||
		len(faults) != 2 {
		t.Errorf("%d, %v: %s", r.code, err, r.stdout)
	}
	dir = bundle(t, nil)
	r = berth(t, "validate", "-b", dir, "-o", "json")
	if r.code != 0 || strings.TrimSpace(r.stdout) != "[]" {
		t.Errorf("a document without a fault: %d, %s", r.code, r.stdout)
	}
	berth(t, "validate", "-b", dir, "-o", "yaml").is(t, 1, "",
		`--output: found "yaml"; allowed are text, json`)
	berth(t, "validate", "-b", dir, "--strict").is(t, 0, "", "")

	dir = bundle(t, func(s *specs.Spec) { s.Hostname = "my_host" })
	berth(t, "validate", "-b", dir).is(t, 0, "Warning: hostname: found ", "")
	berth(t, "validate", "-b", dir, "--strict").is(t, 1, "Error: hostname: found ", "")
	berth(t, "validate", "-b", dir, "--strict", "-o", "json").is(t, 1, `"Severity":"Error"`, "")

	dir = bundle(t, func(s *specs.Spec) {
		s.Mounts = nil
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	})
	berth(t, "validate", "-b", dir).is(t, 0,
		"Warning: linux.uidMappings: found nothing; allowed: the mappings", "")
}

// TestMountsOfABadFile: the fault is named by its field, and not by a type of Go's.
func TestMountsOfABadFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mounts.json")
	for text, want := range map[string]string{
		`[{"destination": 5}]`:                    "mounts.json: destination: found a JSON number before offset 18; allowed: a string",
		`[{"options": "ro"}]`:                     "mounts.json: options: found a JSON string before offset 17; allowed: a list",
		`{"mounts": {}}`:                          "mounts.json: mounts: found a JSON object before offset 12; allowed: a list",
		`[{"uidMappings": [{"hostID": "root"}]}]`: "mounts.json: uidMappings.hostID: found a JSON string before offset 35; allowed: a number",
		`[{"dest": "/x"}]`:                        `mounts.json: unknown field "dest"`,
	} {
		must(t, os.WriteFile(file, []byte(text), 0o600))
		berth(t, "--root", t.TempDir(), "mounts", "add", "x", file).is(t, 1, "", want)
	}
}

func TestPlan(t *testing.T) {
	dir := bundle(t, nil)
	before, err := os.ReadDir(filepath.Join(dir, "rootfs"))
	must(t, err)
	berth(t, "plan", "--bundle", dir).is(t, 0, "\nmounts[3] (/dev/shm)\n", "")
	r := berth(t, "plan", "-b", dir, "-o", "json")
	var p struct {
		CloneFlags string
		Steps      []struct {
			Step  int
			Field string
			Call  string
			Args  []string
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil || r.code != 0 ||
		!strings.Contains(p.CloneFlags, "CLONE_NEWPID") || len(p.Steps) < 100 {
		t.Errorf("%d, %v: %.500s", r.code, err, r.stdout)
	}
	if last := p.Steps[len(p.Steps)-1]; last.Call != "execve" || last.Field != "process.args" ||
		last.Step != len(p.Steps)-1 {
		t.Errorf("the last step: %+v", last)
	}
	if after, err := os.ReadDir(filepath.Join(dir, "rootfs")); err != nil ||
		len(after) != len(before) {
		t.Errorf("to plan has changed the root filesystem: %v, %v", after, err)
	}
	if !appArmorEnabled() {
		berth(t, "plan", "-b", bundle(t, func(s *specs.Spec) {
			s.Process.ApparmorProfile = "x"
		})).is(t, 1, "", "process.apparmorProfile: found ")
	}
}

// appArmorEnabled reports whether the kernel has AppArmor enabled, as that of hack/vm does.
func appArmorEnabled() bool {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(enabled), "Y")
}

func TestLifecycle(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Args, s.Annotations, s.Linux.CgroupsPath = []string{"sleep", "1000"},
			map[string]string{"a": "b"}, "/"+id
	})
	on := func(args ...string) result {
		t.Helper()
		return berth(t, append([]string{"--root", root}, args...)...)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	on("list", "-f", "json").is(t, 0, "null\n", "")
	on("create", "-no-subreaper", "--bundle", dir, "--pid-file", pidFile, id).is(t, 0, "", "")
	on("create", "--bundle", dir, id).is(t, 1, "", "container with given ID already exists")
	data, err := os.ReadFile(pidFile)
	must(t, err)
	pid, err := strconv.Atoi(string(data)) // no newline
	must(t, err)

	r := on("state", id)
	var state map[string]any
	must(t, json.Unmarshal([]byte(r.stdout), &state))
	created, err := time.Parse(time.RFC3339Nano, state["created"].(string))
	if err != nil || created.Location() != time.UTC {
		t.Errorf("created: %v, %v", state["created"], err)
	}
	delete(state, "created")
	want := map[string]any{
		"ociVersion": specs.Version, "id": id, "pid": float64(pid), "status": "created", "bundle": dir,
		"rootfs":      dir + "/rootfs",
		"annotations": map[string]any{"a": "b"}, "owner": "",
	}
	if fmt.Sprint(state) != fmt.Sprint(want) || !strings.HasPrefix(r.stdout,
		"{\n  \"ociVersion\": ") || strings.HasSuffix(r.stdout, "\n") {
		t.Errorf("state: %s\nwant: %v", r.stdout, want)
	}

	on("start", id).is(t, 0, "", "")
	on("state", id).is(t, 0, `"status": "running"`, "")
	on("start", id).is(t, 1, "", "cannot start an already running container")
	on("delete", id).is(t, 1, "", "cannot delete container "+id+" that is not stopped: running")
	on("list", "-q").is(t, 0, id+"\n", "")
	on("list").is(t, 0, "STATUS", "")
	var list []map[string]any
	if err := json.Unmarshal([]byte(on("list", "--format", "json").stdout), &list); err != nil ||
		len(list) != 1 || list[0]["owner"] != "root" || list[0]["status"] != "running" {
		t.Errorf("list: %v, %v", list, err)
	}
	on("kill", id, "0").is(t, 0, "", "")
	on("kill", "--all", id, "9").is(t, 0, "", "")
	for deadline := time.Now().Add(patience); !strings.Contains(on("state", id).stdout,
		`"status": "stopped"`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not stop")
		}
	}
	on("kill", id, "sigkill").is(t, 1, "", "container not running")
	on("start", id).is(t, 1, "", "cannot start a container that has stopped")
	on("delete", id).is(t, 0, "", "")
	on("state", id).is(t, 1, "", "container does not exist")
}

func TestRun(t *testing.T) {
	root, id := host(t)
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"sh", "-c", "echo out; echo err >&2; exit 5"}, 5, "out\n", "err\n"},
		{[]string{"true"}, 0, "", ""},
		{[]string{"nonexistent"}, 1, "", `exec: "nonexistent": executable file not found in $PATH`},
		{
			[]string{"/nonexistent"},
			1, "",
			`exec: "/nonexistent": stat /nonexistent: no such file or directory`,
		},
		{[]string{"/bin"}, 1, "", `exec: "/bin": is a directory`},
		{[]string{"sh", "-c", "ls /proc/self/fd | tr '\n' ' '"}, 0, "0 1 2 3 ", ""},
	} {
		berth(t, "--root", root, "run", "--bundle", bundle(t, args(c.args...)), id).is(t, c.code,
			c.stdout, c.stderr)
	}
	killed := bundle(t, func(s *specs.Spec) {
		s.Process.Args, s.Linux.Namespaces = []string{"sh", "-c", "kill -9 $$"}, s.Linux.Namespaces[1:]
	})
	berth(t, "--root", root, "run", "--bundle", killed, id).is(t, 128+9, "", "")

	keep := bundle(t, args("true"))
	berth(t, "--root", root, "run", "--keep", "--bundle", keep, id).is(t, 0, "", "")
	berth(t, "--root", root, "state", id).is(t, 0, `"status": "stopped"`, "")
	berth(t, "--root", root, "delete", id).is(t, 0, "", "")

	berth(t, "--root", root, "run", "-d", "--bundle", bundle(t, args("sleep", "1000")), id).is(t, 0,
		"", "")
	berth(t, "--root", root, "state", id).is(t, 0, `"status": "running"`, "")
}

// TestStartWithoutProcess expects an error and the end of the container; the exit code is what
// runtime-tools' validation wants.
func TestStartWithoutProcess(t *testing.T) {
	root, id := host(t)
	berth(t, "--root", root, "create", "--bundle", bundle(t, func(s *specs.Spec) {
		s.Process = nil
	}), id).is(t, 0, "", "")
	berth(t, "--root", root, "start", id).is(t, 0, "", "level=error msg=\"process: found nothing; ")
	berth(t, "--root", root, "state", id).is(t, 0, `"status": "stopped"`, "")
	berth(t, "--root", root, "delete", id).is(t, 0, "", "")
}

// TestWaitingChildIsSmall: a created container waits with the memory of its own plan and no copy of
// the runtime's, which would cost as much as the container's mounts.
func TestWaitingChildIsSmall(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, args("true"))
	berth(t, "--root", root, "create", "--bundle", dir, id).is(t, 0, "", "")
	var state struct{ Pid int }
	must(t, json.Unmarshal([]byte(berth(t, "--root", root, "state", id).stdout), &state))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", state.Pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	if kib, err := strconv.Atoi(strings.Fields(rest)[0]); err != nil || kib > 512 {
		t.Errorf("it has %d KiB of its own; %v", kib, err)
	}
}

// TestSealed: CVE-2019-5736: the program that a container can see as /proc/self/exe until execve,
// and run as its own, cannot be written to through it.
func TestSealed(t *testing.T) {
	for name, program := range map[string]string{"entry": program, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			root, id := host(t)
			pidFile := filepath.Join(t.TempDir(), "pid")
			create := exec.Command(program, "--root", root, "create", "--pid-file", pidFile, "--bundle",
				bundle(t, args("true")), id)
			call(t, create).is(t, 0, "", "")
			pid, err := os.ReadFile(pidFile)
			must(t, err)
			if err := unix.Access("/proc/"+string(pid)+"/exe", unix.W_OK); !errors.Is(err, unix.EROFS) {
				t.Errorf("to write to the runtime's program gives %v; want %v", err, unix.EROFS)
			}
			berth(t, "--root", root, "delete", "--force", id).is(t, 0, "", "")
		})
	}
}

// TestSealedOnce: sealing costs a second start of the program; with an entry point of its own, not
// of the Go runtime.
func TestSealedOnce(t *testing.T) {
	for name, want := range map[string]int{program: 1, plain: 2} {
		// GODEBUG=inittrace makes each start of a Go runtime print package runtime once.
		cmd := exec.Command(name, "create", "no such/id")
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		out, _ := cmd.CombinedOutput()
		if n := strings.Count(string(out), "init runtime @"); n != want {
			t.Errorf("%s: the Go runtime began %d times; want %d:\n%s", filepath.Base(name), n, want, out)
		}
	}
}

// TestRunForwardsSignals to the container's first process, and ends with its exit code.
func TestRunForwardsSignals(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, args("sh", "-c", untilTerm))
	forwardsSignals(t, exec.Command(program, "--root", root, "run", "--bundle", dir, id))
}

// untilTerm is a shell script that says that it is ready, and ends as it likes once it gets
// SIGTERM.
const untilTerm = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"

// forwardsSignals fails the test unless a command that runs untilTerm hands SIGTERM on, and ends as
// the script does.
func forwardsSignals(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	buf := make([]byte, 6)
	if _, err := stdout.Read(buf); err != nil || string(buf) != "ready\n" {
		t.Errorf("found %q, %v", buf, err)
	}
	must(t, cmd.Process.Signal(unix.SIGTERM))
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit code %d; want 9", code)
	}
}

// TestClosedStreams: a caller without standard streams gets its container all the same.
func TestClosedStreams(t *testing.T) {
	root, id := host(t)
	dir := bundle(t,
		args("sh", "-c",
			"for n in 0 1 2; do readlink /proc/self/fd/$n > /dev/null || exit 1; done; exit 4"))
	for _, closed := range []string{"<&-", ">&-", "2>&-", "<&- >&- 2>&-"} {
		call(t, exec.Command("sh", "-c", program+" --root "+root+" run --bundle "+dir+" "+id+" "+
			closed)).is(t, 4, "", "")
	}
}

func TestPreservedDescriptors(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, args("sh", "-c", "cat <&4; ls /proc/self/fd | tr '\n' ' '"))
	script := program + " --root " + root + " run --preserve-fds 2 --bundle " + dir + " " + id +
		" 3</dev/null 4<" + dir + "/data 5</etc/passwd"
	must(t, os.WriteFile(filepath.Join(dir, "data"), []byte("four\n"), 0o600))
	// 5 is the directory that ls reads; the caller's own is gone
	call(t, exec.Command("sh", "-c", script)).is(t, 0, "four\n0 1 2 3 4 5 ", "")
}

// TestSoftLimitOfFiles: the Go runtime raises its own, and the container must not get that.
func TestSoftLimitOfFiles(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Args, s.Process.Rlimits = []string{"sh", "-c", "ulimit -Sn; ulimit -Hn"}, nil
	})
	call(t, exec.Command("sh", "-c", "ulimit -Sn 321; ulimit -Hn 4321; exec "+program+" --root "+root+
		" run --bundle "+dir+" "+id)).is(t, 0, "321\n4321\n", "")
}

// TestForegroundTerminal: `run` stands between the container's terminal and its own standard
// streams. Newlines are handed on as the container writes them, so that what is written to a file
// or pipe has no carriage returns, as with runc.
func TestForegroundTerminal(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Terminal, s.Process.Args = true,
			[]string{"sh", "-c", "readlink /proc/self/fd/0; exit 6"}
	})
	berth(t, "--root", root, "run", "--bundle", dir, id).is(t, 6, "/dev/pts/0\n", "")
	berth(t, "--root", root, "create", "--bundle", dir, id).is(t, 1, "", "process.terminal: ")
}
