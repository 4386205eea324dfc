// SPDX-License-Identifier: Apache-2.0

package handler

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/runtimecli"
)

// CLI calls a program with runc's command line (runc, crun, youki, runsc, kata-runtime …). External
// and `berth --runtime-type` run containers by it.
type CLI struct {
	// Path is the absolute path of the program.
	Path string
	// Args are options put before all others, such as "--systemd-cgroup".
	Args []string
	// Root is the directory of the program's own records, its --root.
	Root string
}

// maxOutput is the greatest size of a program's output or log that is read.
const maxOutput = 1 << 20

// command returns a call with the options that every call has, and others.
func (c *CLI) command(ctx context.Context, options, args []string) *exec.Cmd {
	line := slices.Concat(c.Args, []string{"--root", c.Root}, options, args)
	return exec.CommandContext(ctx, c.Path, line...)
}

// logged returns a call that writes its log to a file, and that a signal to this process's group,
// as of an interrupted terminal, does not cut in two.
func (c *CLI) logged(ctx context.Context, log *os.File, args ...string) *exec.Cmd {
	// By the file's own descriptor here: programs that pass on descriptors from 3 on would take one
	// of theirs for one of the container's.
	cmd := c.command(ctx, []string{"--log", pathOf(log), "--log-format", "json"}, args)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Output runs a call and returns what it printed. An error has the program's own words, and wraps
// ErrNotExist, ErrExist or ErrNotRunning if they say that. The id is for messages; it is empty for
// a call about no container.
func (c *CLI) Output(ctx context.Context, id string, args ...string) ([]byte, error) {
	// Files rather than pipes: a hook that the program leaves behind could hold a pipe open for
	// ever. In memory, so that a container can be killed and deleted on a full disk.
	var files [3]*os.File
	for i, name := range []string{"log", "stdout", "stderr"} {
		f, err := memoryFile(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files[i] = f
	}
	log, out, stderr := files[0], files[1], files[2]
	cmd := c.logged(ctx, log, args...)
	cmd.Stdout, cmd.Stderr = out, stderr
	if err := c.run(ctx, cmd, log, args[0], id, stderr); err != nil {
		return nil, err
	}
	return readStart(out)
}

// forwarded are the signals that people and init systems send.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1,
	unix.SIGUSR2, unix.SIGWINCH,
}

// Forward runs a call on this process's standard streams, passes signals on to it, and returns its
// exit code: 128 and the signal's number if one has ended it.
func (c *CLI) Forward(ctx context.Context, args ...string) (int, error) {
	cmd := c.command(ctx, nil, args)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return runtimecli.Run(cmd, forwarded, func(os.Signal) bool { return true })
}

// run runs the command and makes an error of the program's own words: the last one of its log, else
// the end of its stderr.
func (c *CLI) run(ctx context.Context, cmd *exec.Cmd, log *os.File, call, id string,
	stderr *os.File,
) error {
	err := cmd.Run()
	if err == nil {
		return nil
	}
	what := c.Path + " " + call
	if id != "" {
		what += " " + id
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrCutOff, context.Cause(ctx))
	}
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() < 0 { // by a signal
		return fmt.Errorf("%s: %w: %w", what, ErrCutOff, err)
	}
	words := runtimecli.LastError(log)
	if words == "" && stderr != nil {
		if b, rerr := readStart(stderr); rerr == nil {
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			words = lines[len(lines)-1]
		}
	}
	if words == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	if kind := classify(words); kind != nil {
		return &wordsError{what + ": " + words, kind}
	}
	return fmt.Errorf("%s: %s", what, words)
}

// memoryFile creates a file without a directory (memfd_create(2)).
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("berth-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// pathOf returns a path by which another program can open a file of this process.
func pathOf(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// wordsError has the program's own text and is one of this package's errors.
type wordsError struct {
	text string
	kind error
}

func (e *wordsError) Error() string { return e.text }
func (e *wordsError) Unwrap() error { return e.kind }

// classify knows the words of runc (libcontainer/error.go) and crun (libcrun/status.c, container.c)
// for the errors that callers tell apart.
func classify(words string) error {
	has := func(s string) bool { return strings.Contains(words, s) }
	switch {
	case has("container does not exist"), // runc
		has("does not exist") && has("container `"), // crun
		has("/status`: No such file or directory"):  // crun ≤ 1.20
		return ErrNotExist
	case has("container with given ID already exists"), has("container with id exists"), // runc
		has("container `") && has("already exists"): // crun
		return ErrExist
	// runc
	case has("container not running"), has("container is not running"),
		has("process already finished"),
		has("is not running"), has("No such process"), has("no such process"): // crun
		return ErrNotRunning
	}
	return nil
}

// readStart reads a file from its beginning, up to maxOutput.
func readStart(f *os.File) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxOutput))
}
