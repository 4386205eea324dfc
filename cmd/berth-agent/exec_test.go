// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

func (h *host) checkExec() {
	for _, tc := range []struct {
		args   []string
		stdin  string
		out    string
		code   int
		stderr string
	}{
		{args: []string{"count", "--", "echo", "-n", "hi"}, out: "hi"},
		{args: []string{"count", "echo", "-n", "hi"}, out: "hi"},
		{args: []string{"count", "--", "/bin/sh", "-c", "exit 7"}, code: 7},
		{args: []string{"count", "--", "/bin/sh", "-c", "exit 255"}, code: 255},
		{args: []string{"count", "--", "/bin/sh", "-c", "kill -9 $$"}, code: 137},
		{args: []string{"count", "--", "cat"}, stdin: "text"},
		{args: []string{"-i", "count", "--", "cat"}, stdin: "text", out: "text"},
		{args: []string{
			"-u", "1000:1001", "-w", "/tmp", "-e", "A=b c", "count", "--", "/bin/sh", "-c",
			`echo -n "$(id -u):$(id -g) $(pwd) $A $WORD"`,
		}, out: "1000:1001 /tmp b c one"},
		{args: []string{
			"-u", "user", "count", "--", "/bin/sh", "-c",
			`echo -n "$(id -u):$(id -g) $(id -G)"`,
		}, out: "1000:1000 1000 0 4"},
		{args: []string{
			"-u", "nobody:1001", "count", "--", "/bin/sh", "-c",
			`echo -n "$(id -u):$(id -g)"`,
		}, out: "65534:1001"},
		{
			args: []string{"-u", "nosuch", "count", "--", "true"}, code: 125,
			stderr: `--user: found "nosuch", which /etc/passwd does not know`,
		},
		{
			args: []string{"-u", "user:nosuch", "count", "--", "true"}, code: 125,
			stderr: `--user: found "nosuch", which /etc/group does not know`,
		},
		{args: []string{"count", "--", "/no/such"}, code: 127, stderr: "no such file"},
		{args: []string{"count", "--", "nosuch"}, code: 127, stderr: "not found"},
		{args: []string{"count", "--", "/etc/passwd"}, code: 126, stderr: "permission denied"},
		{args: []string{"none", "--", "true"}, code: 125, stderr: "found no container default/none"},
	} {
		out, stderr, code := h.run(tc.stdin, append([]string{"exec"}, tc.args...)...)
		if out != tc.out || code != tc.code || !strings.Contains(stderr, tc.stderr) {
			h.t.Errorf("%q: found %q, code %d, %q; want %q, code %d, %q", tc.args, out, code, stderr, tc.out,
				tc.code, tc.stderr)
		}
	}
}

func (h *host) checkExecTerminal() {
	// script(1) gives exec a terminal, and returns its exit code.
	ctx, cancel := context.WithTimeout(h.t.Context(), hangs)
	defer cancel()
	cmd := exec.CommandContext(ctx, "script", "-qec", programs+"/berth-agent exec --state-dir "+h.path("s")+
		" -it count -- /bin/sh -c 'test -t 0 && test -t 1 && echo terminal; exit 9'", "/dev/null")
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "terminal\r\n") || cmd.ProcessState.ExitCode() != 9 {
		h.t.Errorf("found %q, %v", out, err)
	}
}

func (h *host) checkExecSignals() {
	cmd := h.program("exec", "--state-dir", h.path("s"), "count", "--", "/bin/sh", "-c", "trap 'exit 5' TERM; echo ready; while true; do sleep 0.1; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		h.t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		h.t.Errorf("found %v", cmd.ProcessState)
	}
}
