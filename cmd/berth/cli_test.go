// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/internal/needs"
)

// wordBundle and wordID stand for the bundle and the container in a command line; waitStopped is no
// command of berth's.
const (
	wordBundle  = "BUNDLE"
	wordID      = "ID"
	waitStopped = "wait-stopped ID"
)

// other is the outcome of a call of runc from which berth differs on purpose, and the reason.
type other struct {
	code   int
	stderr string
	reason string
}

// conversation is a container's life and what goes wrong in it, one call after the other: which
// code, and which words on the standard streams. Where runc is not named it does the same.
var conversation = []struct {
	args           string
	code           int
	stdout, stderr string
	runc           *other
}{
	{"state ID", 1, "", "container does not exist", nil},
	{"bogus", 3, "", "No help topic for 'bogus'", nil},
	{"help bogus", 3, "", "No help topic for 'bogus'", nil},
	{"help state", 0, "USAGE:", "", nil},
	{"", 0, "USAGE:", "", nil},
	{"--bogus", 1, "Incorrect Usage", "flag provided but not defined: -bogus", nil},
	{"--root", 1, "Incorrect Usage", "flag needs an argument: -root", nil},
	{"--log-format xml list", 1, "", "xml", nil},
	{
		"--log /does/not/exist/log list", 1, "", "open /does/not/exist/log: no such file or directory",
		nil,
	},
	{"list x", 1, "Incorrect Usage", `"list" requires exactly 0 argument(s)`, nil},
	{"state", 1, "Incorrect Usage", `"state" requires exactly 1 argument(s)`, nil},
	{"state a b", 1, "Incorrect Usage", `"state" requires exactly 1 argument(s)`, nil},
	{"state a/b", 1, "", "invalid container ID format", nil},
	{"state --bogus ID", 1, "Incorrect Usage", "flag provided but not defined: -bogus", nil},
	{"state ID --help", 0, "USAGE:", "", nil},
	{"kill", 1, "Incorrect Usage", `"kill" requires a minimum of 1 argument(s)`, nil},
	{"kill ID TERM x", 1, "Incorrect Usage", `"kill" requires a maximum of 2 argument(s)`, nil},
	{"exec", 1, "Incorrect Usage", `"exec" requires a minimum of 1 argument(s)`, nil},
	{"exec ID true", 255, "", "exec failed: container does not exist", nil},
	{
		"events --interval x ID", 1, "Incorrect Usage",
		`invalid value "x" for flag -interval: parse error`, nil,
	},
	{
		"run --detach=x ID", 1, "Incorrect Usage",
		`invalid boolean value "x" for -detach: parse error`, nil,
	},
	{
		"create --preserve-fds x ID", 1, "Incorrect Usage",
		`invalid value "x" for flag -preserve-fds: parse error`, nil,
	},
	{"kill ID FOO", 1, "", `unknown signal "FOO"`, &other{
		1, "container does not exist",
		"runc looks for the container first",
	}},
	{"delete ID", 1, "", "container does not exist", nil},
	{"delete --force ID", 0, "", "", nil},
	{"delete --force a/b", 1, "", "invalid container ID format", nil},
	{"checkpoint --help", 0, "--image-path", "", nil}, // podman asks, twice
	{"features x", 1, "", "", nil},
	{"spec --bundle BUNDLE", 1, "", "File config.json exists. Remove it first", nil},

	{"create --console-socket /x --bundle BUNDLE ID", 1, "", "console", nil},
	{"create --bundle BUNDLE ID", 0, "", "", nil},
	{"create --bundle BUNDLE ID", 1, "", "container with given ID already exists", nil},
	{"run --bundle BUNDLE ID", 1, "", "container with given ID already exists", nil},
	{"state ID", 0, `"status": "created"`, "", nil},
	{"exec ID true", 0, "", "", nil},
	{"start ID", 0, "", "", nil},
	{"start ID", 1, "", "cannot start an already running container", nil},
	{"state ID", 0, `"status": "running"`, "", nil},
	{"delete ID", 1, "", " that is not stopped: running", nil},
	{"resume ID", 1, "", "container not paused", nil},
	{"pause ID", 0, "", "", nil},
	{"pause ID", 1, "", "container not running", nil},
	{"state ID", 0, `"status": "paused"`, "", nil},
	{
		"exec ID true", 255, "",
		"exec failed: cannot exec in a paused container (use --ignore-paused to override)", nil,
	},
	{"resume ID", 0, "", "", nil},
	{"exec ID sh -c exit${IFS}7", 7, "", "", nil},
	{"exec ID sh -c kill${IFS}-9${IFS}$$", 137, "", "", nil},
	{"exec ID", 255, "", "exec failed: ", nil},
	{
		"exec ID /none", 255, "",
		`exec failed: unable to start container process: exec: "/none": stat /none: no such file or directory`, nil,
	},
	{
		"exec ID none", 255, "",
		`exec failed: unable to start container process: exec: "none": executable file not found in $PATH`, nil,
	},
	{
		"exec ID /proc/version", 255, "",
		`exec failed: unable to start container process: exec: "/proc/version": permission denied`, nil,
	},
	{"exec --tty --detach ID true", 255, "", "exec failed: ", nil},
	{"exec --detach --console-socket /x ID true", 255, "", "console", nil},
	{"exec --user x ID true", 255, "", "exec failed: ", nil},
	{"exec --cwd nowhere ID true", 255, "", "exec failed: ", nil},
	{"exec --cwd /nowhere ID true", 255, "", "no such file or directory", nil},
	{
		"exec --cwd /nowhere ID true", 255, "",
		`exec failed: unable to start container process: chdir to cwd ("/nowhere") set in config.json failed: no such file or directory`, nil,
	},
	{"exec --user 0:x ID true", 255, "", "exec failed: ", nil},
	{
		"exec --additional-gids x ID true", 1, "Incorrect Usage",
		`invalid value "x" for flag -additional-gids: `, nil,
	},
	{"exec -g x ID true", 1, "Incorrect Usage", `invalid value "x" for flag -g: `, nil},
	{"exec -e A ID true", 255, "", "exec failed: ", nil},
	{"exec --env =x ID true", 255, "", "exec failed: ", nil},
	{"exec --cap CAP_NONE ID true", 0, "", "CAP_NONE", nil},
	{"exec --preserve-fds 900 ID true", 255, "", "exec failed: ", nil},
	{
		"exec --preserve-fds -1 ID true", 255, "", "exec failed: --preserve-fds: found -1",
		&other{0, "", "runc takes it for none"},
	},
	{"exec --process-label none ID true", 255, "", "exec failed: ", nil},
	{"exec ID ./none", 255, "", `exec: "./none": stat ./none: no such file or directory`, nil},
	{"exec --pid-file /does/not/exist ID true", 255, "", "no such file or directory", nil},
	{"exec --process /does/not/exist ID", 255, "", "exec failed: ", nil},
	{"ps ID", 0, "sleep 1000", "", nil},
	{"ps ID -o pid", 0, "PID", "", nil},
	{"ps ID --bogus", 1, "", "exit status 1: error: unknown gnu long option", nil},
	{"ps --format xml ID", 1, "", "format", nil},
	{"list --quiet", 0, wordID + "\n", "", nil},
	{"list", 0, "running", "", nil},
	{"list --format xml", 1, "", "format", nil},
	{"kill ID FOO", 1, "", `unknown signal "FOO"`, nil},
	{"kill ID 99", 1, "", `unknown signal "99"`, &other{
		1, "invalid argument",
		"runc has the kernel say so",
	}},
	{"kill ID RTMIN+1", 0, "", "", &other{
		1, `unknown signal "RTMIN+1"`,
		"runc has no names for these",
	}},
	{"kill ID winch", 0, "", "", nil},
	{"kill ID 0", 0, "", "", nil},
	{"events --interval 0s ID", 1, "", "duration interval must be greater than 0", nil},
	{"events --stats ID", 0, `{"type":"stats","id":"`, "", nil},
	{"update --pids-limit 50 ID", 0, "", "", nil},
	{"update ID", 0, "", "", nil},
	{"update --memory x ID", 1, "", "", nil},
	{
		"update --pids-limit x ID", 1, "Incorrect Usage",
		`invalid value "x" for flag -pids-limit: `, nil,
	},
	{"update --cpu-period 1 ID", 1, "", "", nil},
	{"update --cpuset-cpus 9999 ID", 1, "", "numerical result out of range", nil},
	{"update --blkio-weight 5000 ID", 1, "", "", nil},
	{
		"update --kernel-memory 1m ID", 0, "", "Kernel memory settings are ignored and will be removed",
		nil,
	},
	{"update --memory 64m --memory-swap 128m ID", 0, "", "", nil},
	{"checkpoint --manage-cgroups-mode none ID", 1, "", "", nil},
	{
		"update --resources /does/not/exist ID", 1, "",
		"open /does/not/exist: no such file or directory", nil,
	},
	{"kill ID KILL", 0, "", "", nil},
	{waitStopped, 0, "", "", nil},
	{"state ID", 0, `"pid": 0`, "", nil},
	{"kill ID", 1, "", "container not running", nil},
	{"kill ID 0", 1, "", "container not running", nil},
	{"kill --all ID KILL", 0, "", "", nil},
	{"exec ID true", 255, "", "exec failed: cannot exec in a stopped container", nil},
	{"start ID", 1, "", "cannot start a container that has stopped", nil},
	{"pause ID", 1, "", "container not running", nil},
	{"resume ID", 1, "", "container not paused", nil},
	{"ps --format json ID", 0, "null\n", "", nil},
	{"events --stats ID", 1, "", " is not running", nil},
	{"events ID", 1, "", " is not running", nil},
	{"run --bundle BUNDLE ID", 1, "", "container with given ID already exists", nil},
	{"checkpoint ID", 1, "", "ontainer cannot be checkpointed in stopped state", nil},
	{"update --pids-limit 60 ID", 1, "", "container not running", nil},
	{"delete ID", 0, "", "", nil},
	{"delete ID", 1, "", "container does not exist", nil},
	{"list --format json", 0, "null\n", "", nil},

	{"run -d --bundle BUNDLE ID", 0, "", "", nil},
	{"delete -f ID", 0, "", "", nil},
	{"create --bundle BUNDLE ID", 0, "", "", nil},
	{
		"delete ID", 1, "", " that is not stopped: created (kill it first, or use --force)",
		&other{0, "", "runtime.md, Delete: it MUST NOT"},
	},
	{"delete --force ID", 0, "", "", nil},
}

// TestConversation makes the calls that clients of runc and crun make.
func TestConversation(t *testing.T) {
	root, id := host(t)
	b := bundle(t, args("sleep", "1000"))
	for _, c := range conversation {
		converse(t, program, root, id, b, c.args).is(t, c.code, strings.Replace(c.stdout, wordID+"\n", id+
			"\n", 1), c.stderr)
		if t.Failed() {
			t.Fatalf("at %q", c.args)
		}
	}
}

// TestLikeRunc has Debian's runc make the same calls.
func TestLikeRunc(t *testing.T) {
	runc := needs.Program(t, "runc")
	root, id := host(t) // what it leaves is found as berth's would be
	b := bundle(t, args("sleep", "1000"))
	t.Cleanup(func() { call(t, exec.Command(runc, "--root", root, "delete", "--force", id)) })
	for _, c := range conversation {
		r := converse(t, runc, root, id, b, c.args)
		if o := c.runc; o != nil {
			if r.is(t, o.code, "", o.stderr); o.code == c.code && strings.Contains(r.stderr, c.stderr) {
				t.Errorf("runc does as berth; the reason that it does not is %q", o.reason)
			}
		} else {
			r.is(t, c.code, strings.Replace(c.stdout, wordID+"\n", id+"\n", 1), c.stderr)
		}
		if t.Failed() {
			t.Fatalf("at %q", c.args)
		}
	}
}

func converse(t *testing.T, program, root, id, bundle, line string) result {
	t.Helper()
	if line == waitStopped {
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			r := call(t, exec.Command(program, "--root", root, "state", id))
			if strings.Contains(r.stdout, `"status": "stopped"`) || time.Now().After(deadline) {
				return r
			}
		}
	}
	words := append([]string{"--root", root}, strings.Fields(line)...)
	for i, w := range words {
		switch w {
		case wordID:
			words[i] = id
		case wordBundle:
			words[i] = bundle
		}
	}
	return call(t, exec.Command(program, words...))
}

// TestStateLikeRunc: the same keys in the same order.
func TestStateLikeRunc(t *testing.T) {
	runc := needs.Program(t, "runc")
	keys := func(document string) []string {
		var out []string
		for _, m := range regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(document, -1) {
			out = append(out, m[1])
		}
		return out
	}
	found := map[string][]string{}
	root, id := host(t)
	b := bundle(t, func(s *specs.Spec) {
		s.Process.Args, s.Annotations = []string{"sleep", "1000"}, map[string]string{"note": "x"}
	})
	for _, p := range []string{program, runc} {
		converse(t, p, root, id, b, "create --bundle BUNDLE ID").is(t, 0, "", "")
		found[p] = slices.Concat(keys(converse(t, p, root, id, b, "state ID").stdout),
			keys(converse(t, p, root, id, b, "list -f json").stdout))
		converse(t, p, root, id, b, "delete -f ID").is(t, 0, "", "")
	}
	if len(found[runc]) < 10 || !slices.Equal(found[program], found[runc]) {
		t.Errorf("berth has %v; runc has %v", found[program], found[runc])
	}
}

// flagsOf reads the flags of a command from the help of berth, runc or crun, each name without its
// dashes.
func flagsOf(t *testing.T, program string, command ...string) []string {
	t.Helper()
	r := call(t, exec.Command(program, append(command, "--help")...))
	var out []string
	for line := range strings.Lines(r.stdout) {
		names, ok := strings.CutPrefix(strings.TrimSpace(line), "-")
		if !ok {
			continue
		}
		for _, name := range strings.Split("-"+names, ", -") {
			name, _, _ = strings.Cut(strings.TrimLeft(name, "-"), " ")
			name, _, _ = strings.Cut(name, "=")
			name, _, _ = strings.Cut(name, "[")
			out = append(out, name)
		}
	}
	return out
}

// TestFlagsOfPeers: each flag that runc and crun have, berth has.
func TestFlagsOfPeers(t *testing.T) {
	names := []string{""}
	for _, c := range commands() {
		names = append(names, c.name)
	}
	for name, without := range map[string][]string{
		"runc": {"help", "h"}, // not listed by berth, but taken
		// the spellings of argp for help and version: -h and -v are runc's
		"crun": {"help", "h", "?", "usage", "V"},
	} {
		t.Run(name, func(t *testing.T) {
			program, peer := program, needs.Program(t, name)
			all := 0
			for _, command := range names {
				words := strings.Fields(command)
				have := flagsOf(t, program, words...)
				for _, f := range flagsOf(t, peer, words...) {
					if all++; !slices.Contains(have, f) && !slices.Contains(without, f) {
						t.Errorf("berth %s has no flag %s", command, f)
					}
				}
			}
			if all < 50 {
				t.Errorf("found %d flags in the help of %s", all, name)
			}
		})
	}
}

// TestDocumented: docs/cli.md has each command and each flag, and no other.
func TestDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/cli.md")
	must(t, err)
	_, global, _ := strings.Cut(string(data), "\n## Global options\n")
	global, rest, _ := strings.Cut(global, "\n## Commands\n")
	rest, _, _ = strings.Cut(rest, "\n## Exit codes\n")
	sections := map[string]string{"": global}
	for _, section := range strings.Split(rest, "\n### ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		for _, name := range strings.Split(heading, ", ") {
			sections[strings.Trim(name, "`")] = text
		}
	}
	// What a table says of flags stands in the first column.
	column := regexp.MustCompile("(?m)^\\| (`-[^|]*) \\|")
	flagName := regexp.MustCompile("`-+([^`]+)`")
	written := func(section string) []string {
		var out []string
		for _, row := range column.FindAllStringSubmatch(section, -1) {
			for _, name := range flagName.FindAllStringSubmatch(row[1], -1) {
				out = append(out, name[1])
			}
		}
		return out
	}
	for _, c := range append(commands(), command{}) {
		section, ok := sections[c.name]
		if !ok {
			t.Errorf("docs/cli.md: no section for %s", c.name)
			continue
		}
		for _, f := range flagsOf(t, program, strings.Fields(c.name)...) {
			if !slices.Contains(written(section), f) {
				t.Errorf("docs/cli.md: %s: no flag %s", c.name, f)
			}
		}
	}
	for name, section := range sections {
		// The flags of a section are of one of its commands.
		have := []string{"help", "h"}
		for other, text := range sections {
			if text == section {
				have = append(have, flagsOf(t, program, strings.Fields(other)...)...)
			}
		}
		for _, f := range written(section) {
			if !slices.Contains(have, f) {
				t.Errorf("docs/cli.md: %s: there is no flag %s", name, f)
			}
		}
	}
}

// TestRegex: kill and delete of several at once go on where one fails.
func TestRegex(t *testing.T) {
	root, id := host(t)
	b := bundle(t, func(s *specs.Spec) { s.Process.Args = []string{"sleep", "1000"} })
	ids := []string{id + "-web1", id + "-web2", id + "-db"}
	for _, id := range ids {
		berth(t, "--root", root, "run", "-d", "--bundle", b, id).is(t, 0, "", "")
		t.Cleanup(func() { berth(t, "--root", root, "delete", "-f", id) })
	}
	on := func(args ...string) result { return berth(t, append([]string{"--root", root}, args...)...) }
	on("kill", "--regex", "web[12]$", "KILL").is(t, 0, "", "")
	for _, id := range ids[:2] {
		converse(t, program, root, id, "", waitStopped).is(t, 0, `"stopped"`, "")
	}
	on("state", ids[2]).is(t, 0, `"running"`, "")
	on("delete", "-r", ".").is(t, 1, "", "container "+ids[2]+": cannot delete container "+ids[2]+
		" that is not stopped: running")
	on("list", "-q").is(t, 0, ids[2]+"\n", "")
	on("delete", "-r", "none").is(t, 0, "", "")
	on("delete", "-r", "(").is(t, 1, "", "--regex: ")
	on("delete", "--force", "--regex", "db$").is(t, 0, "", "")
	on("list", "-f", "json").is(t, 0, "null\n", "")
}

// TestDebug expects debug messages, in the log if there is one.
func TestDebug(t *testing.T) {
	root, id := host(t)
	b := bundle(t, args("true"))
	r := berth(t, "--debug", "--root", root, "run", "--bundle", b, id)
	for _, words := range []string{
		"level=debug msg=\"berth ", "config.json: read ",
		"made its cgroups ", "steps", "its first process is pid ", "removed",
	} {
		r.is(t, 0, "", words)
	}
	log := filepath.Join(t.TempDir(), "log")
	r = berth(t, "--debug", "--log", "file:"+log, "--log-format", "json", "--root", root, "run",
		"--bundle", b, id)
	if r.code != 0 || r.stderr != "" {
		t.Errorf("with --log: %d, %q", r.code, r.stderr)
	}
	data, err := os.ReadFile(log)
	must(t, err)
	for line := range strings.Lines(string(data)) {
		var record struct{ Level, Msg, Time string }
		if err := json.Unmarshal([]byte(line), &record); err != nil || record.Level != "debug" ||
			record.Msg == "" {
			t.Errorf("found %q, %v", line, err)
		}
	}
	if !strings.Contains(string(data), "its first process is pid ") {
		t.Errorf("the log has %s", data)
	}
}

func TestLogLevel(t *testing.T) {
	for level, warns := range map[string]bool{
		"error": false, "warning": true, "info": true,
		"debug": true,
	} {
		r := berth(t, "--log-level", level, "--criu", "/x", "--root", t.TempDir(), "delete", "-f", "none")
		if r.code != 0 || strings.Contains(r.stderr, "level=warning msg=\"--criu is ignored") != warns {
			t.Errorf("--log-level %s: %d, %q", level, r.code, r.stderr)
		}
	}
	berth(t, "--log-level", "bogus", "list").is(t, 1, "USAGE:",
		"allowed are error, warning, info, debug")
	berth(t, "--root", "", "list").is(t, 1, "", "--root: found nothing")
}

// TestLogOfTheSystem logs to the journal and to syslog, each replaced by a socket of this test.
func TestLogOfTheSystem(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	for log, want := range map[string][]string{
		"journald:abc": {"\nMESSAGE=container does not exist\n", "PRIORITY=3\n", "\nID=abc\n"},
		"syslog:abc":   {"<11>", " abc[", ": container does not exist"},
	} {
		kind, _, _ := strings.Cut(log, ":")
		socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{
			Name: filepath.Join(dir, kind),
			Net:  "unixgram",
		})
		must(t, err)
		defer socket.Close()
		// Only links lead to the sockets; nothing else is in these directories.
		apart := "mount -t tmpfs none /run && mount -t tmpfs none /dev && mkdir -p /run/systemd/journal && " +
			"ln -s " + filepath.Join(dir, "journald") + " /run/systemd/journal/socket && ln -s " +
			filepath.Join(dir, "syslog") + ` /dev/log && exec "$0" "$@"`
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", apart, program,
			"--log", log, "state", "none")
		call(t, cmd).is(t, 1, "", "container does not exist")
		buf := make([]byte, 4096)
		must(t, socket.SetReadDeadline(time.Now().Add(patience)))
		n, err := socket.Read(buf)
		must(t, err)
		for _, w := range want {
			if !strings.Contains(string(buf[:n]), w) {
				t.Errorf("%s: the log got %q; want %q in it", log, buf[:n], w)
			}
		}
		cmd = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
			`mount -t tmpfs none /run && mount -t tmpfs none /dev && exec "$0" "$@"`, program, "--log", log,
			"list")
		call(t, cmd).is(t, 1, "", "--log: ")
	}
}

// TestIgnoreMissingLSM: a label that the kernel knows nothing of is an error with its field path, or a warning for whoever asks for it.
func TestIgnoreMissingLSM(t *testing.T) {
	root, id := host(t)
	if appArmorEnabled() {
		t.Skip("AppArmor is enabled here; this host's tests run without it")
	}
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Args = []string{"sleep", "1000"}
		s.Process.ApparmorProfile, s.Process.SelinuxLabel, s.Linux.MountLabel = "p", "u:r:t:s0",
			"u:object_r:t:s0"
	})
	berth(t, "--root", root, "run", "-d", "--bundle", dir, id).is(t, 1, "", "linux.mountLabel: found")
	r := berth(t, "--root", root, "--ignore-missing-lsm", "run", "-d", "--bundle", dir, id)
	for _, field := range []string{
		"process.apparmorProfile", "process.selinuxLabel",
		"linux.mountLabel",
	} {
		r.is(t, 0, "", "level=warning msg=\""+field+": found ")
	}
	berth(t, "--root", root, "exec", id, "true").is(t, 0, "", "process.apparmorProfile: found \"p\"")
	berth(t, "--root", root, "exec", "--apparmor", "q", id, "true").is(t, 0, "",
		"process.apparmorProfile: found \"q\"")
	// Another runtime has no such option.
	file := filepath.Join(t.TempDir(), "runtimes.json")
	must(t, os.WriteFile(file, []byte(`{"other": {"path": "/bin/true"}}`), 0o600))
	berth(t, "--root", root, "--runtimes", file, "--ignore-missing-lsm", "run", "--runtime-type",
		"other", "--bundle", dir, "x").is(t, 1, "", "--ignore-missing-lsm")
}

// TestCrunAnnotations: berth acts on each of crun's annotations, or refuses it by its name.
func TestCrunAnnotations(t *testing.T) {
	needs.Root(t)
	root, id := host(t)
	out := filepath.Join(t.TempDir(), "hooks")
	annotated := func(annotations map[string]string) string {
		return bundle(t, func(s *specs.Spec) {
			s.Process.Args, s.Annotations = []string{"grep", "^Groups:", "/proc/self/status"}, annotations
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{
				"sh", "-c",
				"echo told; echo wrong >&2",
			}}}}
		})
	}
	run := func(dir string) result {
		cmd := exec.Command(program, "--root", root, "run", "--bundle", dir, id)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{
			4711,
			4712,
		}}}
		return call(t, cmd)
	}
	if r := run(annotated(nil)); r.code != 0 || strings.Contains(r.stdout, "4711") {
		t.Errorf("without annotations: %+v", r)
	}
	run(annotated(map[string]string{"run.oci.keep_original_groups": "1"})).is(t, 0, "4711 4712", "")
	both := annotated(map[string]string{"run.oci.hooks.stdout": out, "run.oci.hooks.stderr": out})
	for range 2 {
		run(both).is(t, 0, "Groups:", "")
	}
	if data, err := os.ReadFile(out); err != nil || string(data) != "told\nwrong\ntold\nwrong\n" {
		t.Errorf("the hooks wrote %q, %v", data, err)
	}
	run(annotated(map[string]string{"run.oci.hooks.stdout": "/does/not/exist/out"})).is(t, 1, "",
		`annotations["run.oci.hooks.stdout"]: open /does/not/exist/out: no such file or directory`)
	run(annotated(map[string]string{"run.oci.handler": "krun"})).is(t, 1, "",
		`annotations["run.oci.handler"]: found "krun"`)
	run(annotated(map[string]string{"run.oci.pidfd_receiver": "/does/not/exist"})).is(t, 1, "",
		"/does/not/exist")
}
