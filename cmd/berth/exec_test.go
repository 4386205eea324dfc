// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// running starts a container that does nothing, and returns a function that calls berth for it:
// with words before its id and words after.
func running(t *testing.T, change func(*specs.Spec)) (on func(flags []string,
	argv ...string) result, command func(flags []string, argv ...string) *exec.Cmd,
) {
	t.Helper()
	root, id := host(t)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Args = []string{"sleep", "1000"}
		if change != nil {
			change(s)
		}
	})
	berth(t, "--root", root, "run", "-d", "--bundle", dir, id).is(t, 0, "", "")
	command = func(flags []string, argv ...string) *exec.Cmd {
		return exec.Command(program, slices.Concat([]string{"--root", root}, flags, []string{id},
			argv)...)
	}
	return func(flags []string, argv ...string) result {
		t.Helper()
		return call(t, command(flags, argv...))
	}, command
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestExec(t *testing.T) {
	on, _ := running(t, nil)
	words := func(flags ...string) []string { return append([]string{"exec"}, flags...) }
	noProfile := "exec failed: process.apparmorProfile: "
	if appArmorEnabled() {
		noProfile = "process.apparmorProfile (p): write: no such file or directory"
	}
	for _, c := range []struct {
		flags, argv    []string
		code           int
		stdout, stderr string
	}{
		{words(), sh("echo out; echo err >&2; exit 5"), 5, "out\n", "err\n"},
		{words(), []string{"true"}, 0, "", ""},
		{words(), sh("kill -9 $$"), 128 + 9, "", ""},
		{
			words(),
			[]string{"/nonex"},
			255, "",
			`exec failed: unable to start container process: exec: "/nonex": stat /nonex: no such file or directory`,
		},
		{
			words(),
			[]string{"nonex"},
			255, "",
			`exec failed: unable to start container process: exec: "nonex": executable file not found in $PATH`,
		},
		{words(), []string{"/proc/version"}, 255, "", `exec: "/proc/version": permission denied`},
		{words(), []string{"/bin"}, 255, "", `exec: "/bin": is a directory`},
		{words(), []string{""}, 255, "", `exec failed: process.args[0]: found ""`},
		{words(), nil, 255, "", "exec failed: process args cannot be empty"},
		{
			words("--user", "5"), sh("grep -E '^.id:' /proc/self/status"), 0,
			"Uid:\t5\t5\t5\t5\nGid:\t0\t0\t0\t0\n", "",
		},
		{
			words("-u", "5:6", "-g", "7", "--additional-gids", "8"),
			sh("grep -E '^(.id|Groups):' /proc/self/status"), 0,
			"Uid:\t5\t5\t5\t5\nGid:\t6\t6\t6\t6\nGroups:\t7 8 \n", "",
		},
		{words("--cwd", "/bin"), []string{"pwd"}, 0, "/bin\n", ""},
		{words("--cwd", "bin"), []string{"pwd"}, 255, "", `exec failed: process.cwd: found "bin"`},
		{
			words("-e", "A=b", "--env", "TERM=dumb", "-e", "E="), sh("echo $A $TERM $E."), 0,
			"b dumb .\n", "",
		},
		{words("-e", "A"), []string{"true"}, 255, "", `exec failed: process.env[2]: found "A"`},
		// CVE-2022-29162
		{
			words("-c", "CAP_SYS_CHROOT", "--cap", "CAP_KILL"), sh("grep Cap /proc/self/status"), 0,
			"CapInh:\t0000000000000000\nCapPrm:\t0000000020040420\nCapEff:\t0000000020040420\nCapBnd:\t0000000020040420\nCapAmb:\t0000000000000000\n", "",
		},
		{
			words("-c", "chroot"),
			[]string{"true"},
			0, "",
			`found "chroot"; allowed: a name of capabilities(7), such as CAP_CHOWN; this one is left out`,
		},
		{
			words("-c", "net_admin"),
			[]string{"true"},
			0, "",
			`found "net_admin"; allowed: a name of capabilities(7); write CAP_NET_ADMIN; this one is left out`,
		},
		{words("--no-new-privs=false"), sh("grep NoNew /proc/self/status"), 0, "NoNewPrivs:\t0\n", ""},
		{words("-no-new-privs"), sh("grep NoNew /proc/self/status"), 0, "NoNewPrivs:\t1\n", ""},
		// flags behind the id are the command's
		{words(), []string{"sh", "-c", `echo "$@"`, "x", "--tty", "-d"}, 0, "--tty -d\n", ""},
		{
			words("-t"), sh("test -t 0 && test -t 1 && test -t 2 && readlink /proc/self/fd/0"), 0,
			"/dev/pts/0\n", "",
		},
		{words("-t", "-d"), []string{"true"}, 255, "", "exec failed: process.terminal: "},
		{
			words("--preserve-fds", "1"),
			[]string{"true"},
			255, "",
			"exec failed: --preserve-fds: found 1, but descriptor 3 is not open",
		},
		{
			words("--cgroup", "../.."),
			[]string{"true"},
			255, "",
			"exec failed: --cgroup: found ../.., which is not below",
		},
		{words("--apparmor", "p"), []string{"true"}, 255, "", noProfile},
		{words("--process-label", "l"), []string{"true"}, 255, "", "exec failed: process.selinuxLabel: "},
		{words("--bogus"), []string{"true"}, 1, "USAGE:", "flag provided but not defined: -bogus"},
	} {
		t.Run(strings.Join(append(c.flags, c.argv...), " "), func(t *testing.T) {
			on(c.flags, c.argv...).is(t, c.code, c.stdout, c.stderr)
		})
	}
	berth(t, "exec").is(t, 1, "USAGE:", `"exec" requires a minimum of 1 argument(s)`)
	berth(t, "--root", t.TempDir(), "exec", "none", "true").is(t, 255, "",
		"exec failed: container does not exist")

	on([]string{"pause"}).is(t, 0, "", "")
	on(words(), "true").is(t, 255, "",
		"exec failed: cannot exec in a paused container (use --ignore-paused to override)")
	on([]string{"resume"}).is(t, 0, "", "")
	on([]string{"kill"}, "9").is(t, 0, "", "")
	for deadline := time.Now().Add(patience); !strings.Contains(on([]string{"state"}).stdout,
		`"status": "stopped"`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not stop")
		}
	}
	on(words(), "true").is(t, 255, "", "exec failed: cannot exec in a stopped container")
}

// TestParseUser: a user that is out of range or no number is refused, and never becomes root
// (CVE-2024-40635, CVE-2026-30892).
func TestParseUser(t *testing.T) {
	for s, want := range map[string]specs.User{
		"0": {UID: 0, GID: 9}, "1": {UID: 1, GID: 9}, "1:2": {UID: 1, GID: 2},
		"4294967294:4294967294": {UID: 1<<32 - 2, GID: 1<<32 - 2}, "2147483648": {UID: 1 << 31, GID: 9},
	} {
		u := specs.User{UID: 8, GID: 9}
		if err := parseUser(s, &u); err != nil || u.UID != want.UID || u.GID != want.GID {
			t.Errorf("%s: %d:%d, %v; want %d:%d", s, u.UID, u.GID, err, want.UID, want.GID)
		}
	}
	for _, s := range []string{
		"", ":", "1:", ":1", "-1", "+1", "1:-1", " 1", "1 ", "1\n", "0x10",
		"1e1", "1_0", "root", "root:x", "1:root", "1:2:3", "4294967295", "4294967296",
		"18446744073709551616", "1:4294967295", "1:4294967296", "1.0",
	} {
		u := specs.User{UID: 8, GID: 9}
		err := parseUser(s, &u)
		if err == nil || !strings.Contains(err.Error(), "allowed are 0 to 4294967294") ||
			!strings.HasPrefix(err.Error(), "--user "+strconv.Quote(s)) {
			t.Errorf("%q: %v", s, err)
		}
		if u.UID != 8 || u.GID != 9 {
			t.Errorf("%q is refused, but has become %d:%d", s, u.UID, u.GID)
		}
	}
	on, _ := running(t, nil)
	on([]string{"exec", "--user", ""}, "true").is(t, 255, "", `exec failed: --user ""`)
	on([]string{"exec", "--user", "4294967296"}, "true").is(t, 255, "",
		`exec failed: --user "4294967296"`)
	on([]string{"exec", "-g", "-1"}, "true").is(t, 1, "Incorrect Usage",
		`invalid value "-1" for flag -g: found the id "-1"`)
}

func FuzzParseUser(f *testing.F) {
	for _, s := range []string{"", "0", "1:2", "-1", "4294967296", "1:", "root:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u := specs.User{UID: 8, GID: 9}
		if parseUser(s, &u) != nil {
			return
		}
		uid, gid, both := strings.Cut(s, ":")
		for id, text := range map[uint32]string{u.UID: uid, u.GID: gid} {
			if n, err := strconv.Atoi(text); (text == uid || both) && (err != nil || int64(n) != int64(id)) {
				t.Errorf("%q has become %d:%d", s, u.UID, u.GID)
			}
		}
	})
}

// TestCapabilitiesAreNotInheritable: CVE-2022-29162, also where the container's own process has
// inheritable ones.
func TestCapabilitiesAreNotInheritable(t *testing.T) {
	own := &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Inheritable: []string{"CAP_CHOWN"}}
	got, err := json.Marshal(withCapabilities(own, []string{"CAP_KILL", "CAP_CHOWN"}))
	must(t, err)
	const want = `{"bounding":["CAP_KILL","CAP_CHOWN"],"effective":["CAP_KILL","CAP_CHOWN"],"inheritable":["CAP_CHOWN"],"permitted":["CAP_KILL","CAP_CHOWN"],"ambient":["CAP_CHOWN"]}`
	if string(got) != want {
		t.Errorf("found %s; want %s", got, want)
	}
	if len(own.Bounding) != 1 || own.Effective != nil {
		t.Errorf("the container's own have become %+v", own)
	}
}

// TestExecProcessFile: process.json, as podman and containerd call it.
func TestExecProcessFile(t *testing.T) {
	on, _ := running(t, nil)
	dir := t.TempDir()
	file := filepath.Join(dir, "process.json")
	write := func(document string) { t.Helper(); must(t, os.WriteFile(file, []byte(document), 0o600)) }
	write(`{"args": ["sh", "-c", "pwd; echo $A"], "cwd": "/bin", "env": ["PATH=/bin", "A=b"], "user": {"uid": 0, "gid": 0}}`)
	on([]string{"exec", "--process", file}).is(t, 0, "/bin\nb\n", "")
	on([]string{"exec", "-p", file, "--cwd", "/"}).is(t, 255, "",
		"exec failed: --cwd: found it beside --process")
	on([]string{"exec", "-p", file}, "true").is(t, 255, "",
		`exec failed: --process: found the command "true" beside it`)
	on([]string{"exec", "-p", file, "--tty"}).is(t, 0, "/bin\nb\n", "")
	// A shell's <(...), and "-p /dev/stdin".
	r, wr, err := os.Pipe()
	must(t, err)
	_, err = wr.WriteString(`{"args": ["/bin/sh", "-c", "echo piped"], "cwd": "/"}`)
	must(t, err)
	wr.Close()
	on([]string{"exec", "-p", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.Fd())}).is(t, 0,
		"piped\n", "")
	r.Close()
	for document, words := range map[string]string{
		`{"args": ["true"], "cwd": "bin"}`: `cwd: found "bin"`,
		`{"args": [], "cwd": "/"}`:         "args: found nothing",
		`{"args": [""], "cwd": "/"}`:       `exec: "": executable file not found in $PATH`,
		`{"cwd": "/"}`:                     "args: found nothing",
		`{"args": ["true"], "cwd": "/", "user": {"uid": 4294967296, "gid": 0}}`: "user.uid: found ",
		`{"args": ["true"], "cwd": "/", "user": {"uid": -1, "gid": 0}}`:         "user.uid: found ",
		`{"args": ["true"], "args": ["false"], "cwd": "/"}`:                     "args: found the name again",
		`[]`: "a JSON object",
		``:   "a JSON object",
	} {
		write(document)
		on([]string{"exec", "-p", file}).is(t, 255, "", "exec failed: --process: "+file+": ")
		on([]string{"exec", "-p", file}).is(t, 255, "", words)
	}
	on([]string{"exec", "-p", dir}).is(t, 255, "", "exec failed: --process: ")
	on([]string{"exec", "-p", file + "-none"}).is(t, 255, "", "exec failed: --process: ")
	// What is too much is not read.
	on([]string{"exec", "-p", "/dev/zero"}).is(t, 255, "", "found more than 16777216 bytes")
	must(t, os.Truncate(file, 1<<40))
	on([]string{"exec", "-p", file}).is(t, 255, "", "found more than 16777216 bytes")
}

// TestExecDetached: berth leaves, and the process goes on with the caller's standard streams.
func TestExecDetached(t *testing.T) {
	on, command := running(t, func(s *specs.Spec) { s.Root.Readonly = false })
	dir := t.TempDir()
	out, err := os.Create(filepath.Join(dir, "out"))
	must(t, err)
	defer out.Close()
	cmd := command([]string{"exec", "--detach", "--pid-file", filepath.Join(dir, "pid")},
		sh("while [ ! -e /go ]; do sleep 0.01; done; echo done")...)
	cmd.Stdout = out
	must(t, cmd.Run())
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	must(t, err)
	if _, err := strconv.Atoi(string(pid)); err != nil { // no newline
		t.Errorf("the pid file has %q", pid)
	}
	if _, err := os.Stat("/proc/" + string(pid)); err != nil {
		t.Error(err)
	}
	on([]string{"exec"}, sh("true > /go")...).is(t, 0, "", "")
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if data, _ := os.ReadFile(out.Name()); string(data) == "done\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it has not written")
		}
	}
}

// TestExecForwardsSignals to the process, which may end as it likes.
func TestExecForwardsSignals(t *testing.T) {
	_, command := running(t, nil)
	forwardsSignals(t, command([]string{"exec"}, sh(untilTerm)...))
}

func TestExecPreservedDescriptors(t *testing.T) {
	_, command := running(t, nil)
	r, w, err := os.Pipe()
	must(t, err)
	_, err = w.WriteString("three\n")
	must(t, err)
	must(t, w.Close())
	defer r.Close()
	cmd := command([]string{"exec", "--preserve-fds", "1"},
		sh("cat <&3; for fd in /proc/self/fd/*; do echo ${fd##*/}; done")...)
	cmd.ExtraFiles = []*os.File{r, r}
	// 4 is the directory that the shell reads; the caller's own is gone
	call(t, cmd).is(t, 0, "three\n0\n1\n2\n3\n4\n", "")
}

// TestExecOfTheRuntimeItself: CVE-2019-5736: an image has the runtime executed as the interpreter
// of a script, keeps its program open, and writes to it as soon as nobody executes it.
func TestExecOfTheRuntimeItself(t *testing.T) {
	on, command := running(t, func(s *specs.Spec) { s.Root.Readonly = false })
	hash := func() string {
		data, err := os.ReadFile(program)
		must(t, err)
		return fmt.Sprintf("%x", sha256.Sum256(data))
	}
	before := hash()
	// `berth --log=/fifo state none` fails, and waits to say so until somebody reads.
	on([]string{"exec"}, "mkfifo", "/fifo").is(t, 0, "", "")
	on([]string{"exec"},
		sh(`printf '#!/proc/self/exe --log=/fifo\n' > /state; chmod 755 /state`)...).is(t, 0, "", "")
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd := command([]string{"exec", "--pid-file", pidFile, "--cwd", "/", "-e", "PATH=."}, "state",
		"none")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	pid := ""
	for deadline := time.Now().Add(patience); pid == ""; time.Sleep(2 * time.Millisecond) {
		data, _ := os.ReadFile(pidFile)
		line, _ := os.ReadFile("/proc/" + string(data) + "/cmdline")
		if strings.Contains(string(line), "--log=/fifo\x00state\x00none") {
			status, _ := os.ReadFile("/proc/" + string(data) + "/status")
			for _, line := range strings.Split(string(status), "\n") {
				if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "NSpid:" {
					pid = fields[len(fields)-1]
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the runtime does not run: %s", stderr.String())
		}
	}
	r := on([]string{"exec"},
		sh("exec 9< /proc/"+pid+"/exe && echo open; cat /fifo > /dev/null; while [ -d /proc/"+pid+
			" ]; do sleep 0.01; done; echo x > /proc/self/fd/9")...)
	r.is(t, 1, "open\n", "Read-only file system")
	if after := hash(); after != before {
		t.Fatalf("the program was %s and is %s", before, after)
	}
}

// TestExecFlagsAreKnown: runc's flags are all there.
func TestExecFlagsAreKnown(t *testing.T) {
	fs := flag.NewFlagSet("exec", flag.ContinueOnError)
	execCommand.flags(fs)
	for _, name := range strings.Fields(
		"console-socket pidfd-socket cwd env e tty t user u additional-gids g process p detach d pid-file process-label apparmor no-new-privs cap c preserve-fds cgroup ignore-paused") {
		if fs.Lookup(name) == nil {
			t.Errorf("there is no --%s", name)
		}
	}
}
