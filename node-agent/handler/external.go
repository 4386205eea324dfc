// SPDX-License-Identifier: Apache-2.0

package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// External runs a program with runc's command line (runc, crun, youki, runsc, kata-runtime …) for
// each call.
//
// The program's create leaves the container's first process behind as it exits, and since the
// caller is a child subreaper that process becomes the caller's child. The program itself is a
// child of os/exec and is waited for by it and by nobody else: see the supervisor's reaper for how
// the two are kept apart.
type External struct {
	// Program is the absolute path of the program.
	Program string
	// Dir is a directory of this handler alone, made when needed (0700): the program's --root, and
	// files of a running call.
	Dir string
	// Args are options put before the command, such as "--systemd-cgroup".
	Args []string

	timeout time.Duration // of a call; 0 means callTimeout
}

var _ Handler = (*External)(nil)

const (
	// maxOutput is the greatest size of a program's output or log that is read.
	maxOutput = 1 << 20
	// callTimeout is the time that one call of a program may take, with the hooks that it runs:
	// more than the two minutes after which the kubelet gives up (--runtime-request-timeout).
	callTimeout = 5 * time.Minute
	// undoTimeout is the time that the removal of a failed create may take; it happens even if the
	// caller's context has ended.
	undoTimeout = 30 * time.Second
)

// Create runs "create". The program inherits the container's stdio, and runc says there too why it
// failed.
func (e *External) Create(ctx context.Context, id, bundle string, stdio Stdio) (pid int, err error) {
	ctx, cancel := e.bounded(ctx)
	defer cancel()
	dir, err := e.callDir()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	pidFile := filepath.Join(dir, "pid")
	log, err := memoryFile("log")
	if err != nil {
		return 0, err
	}
	defer log.Close()

	cmd := e.command(ctx, log, "create", "--bundle", bundle, "--pid-file", pidFile, id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = fileOrNull(stdio.Stdin), writerOrNull(stdio.Stdout), writerOrNull(stdio.Stderr)
	if err := e.run(ctx, cmd, log, "create", id, nil); err != nil {
		// Whoever has a container of that id keeps it; anything else is our own half-made one.
		if !errors.Is(err, ErrExist) {
			e.undo(ctx, id)
		}
		return 0, err
	}
	pid, err = readPid(pidFile)
	if err != nil {
		e.undo(ctx, id)
		return 0, fmt.Errorf("%s create %s: %w", e.Program, id, err)
	}
	return pid, nil
}

// Start runs "start".
func (e *External) Start(ctx context.Context, id string) error {
	_, err := e.output(ctx, id, "start", id)
	return err
}

// State runs "state".
func (e *External) State(ctx context.Context, id string) (*specs.State, error) {
	out, err := e.output(ctx, id, "state", id)
	if err != nil {
		return nil, err
	}
	var s specs.State
	if err := json.Unmarshal(out, &s); err != nil {
		return nil, fmt.Errorf("%s state %s: found %.100q; allowed: a state document: %w", e.Program, id, out, err)
	}
	return &s, nil
}

// Kill runs "kill".
func (e *External) Kill(ctx context.Context, id string, sig unix.Signal, all bool) error {
	args := []string{"kill"}
	if all {
		args = append(args, "--all")
	}
	_, err := e.output(ctx, id, append(args, id, strconv.Itoa(int(sig)))...)
	return err
}

// Update runs "update". Not every program sets the limits back that it has set before one is
// refused, and none says which field was refused where it named several.
func (e *External) Update(ctx context.Context, id string, to, before *specs.LinuxResources) error {
	err := e.update(ctx, id, to)
	if err == nil || errors.Is(err, ErrNotExist) || errors.Is(err, ErrNotRunning) {
		return err
	}
	err = fmt.Errorf("linux.resources: %w", err)
	// Also where the caller has given up: it cannot know which of them hold.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if uerr := e.update(clean, id, before); uerr != nil {
		err = errors.Join(err, fmt.Errorf("set it back: %w", uerr))
	}
	return err
}

func (e *External) update(ctx context.Context, id string, limits *specs.LinuxResources) error {
	text, err := json.Marshal(limits)
	if err != nil {
		return fmt.Errorf("linux.resources: %w", err)
	}
	f, err := memoryFile("limits")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return err
	}
	_, err = e.output(ctx, id, "update", "--resources", pathOf(f), id)
	return err
}

// pathOf returns a path by which another program can open a file of this process.
func pathOf(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// Delete runs "delete".
func (e *External) Delete(ctx context.Context, id string, force bool) error {
	// delete --force succeeds for an id that does not exist, with runc and crun; so ErrNotExist is
	// found only without it.
	args := []string{"delete"}
	if force {
		args = append(args, "--force")
	}
	_, err := e.output(ctx, id, append(args, id)...)
	return err
}

// Features runs "features", which runc has since 1.1 and crun since 1.8.7.
func (e *External) Features(ctx context.Context) (*features.Features, error) {
	out, err := e.output(ctx, "", "features")
	if err != nil {
		return nil, err
	}
	var f features.Features
	if err := json.Unmarshal(out, &f); err != nil {
		return nil, fmt.Errorf("%s features: found %.100q; allowed: a features document: %w", e.Program, out, err)
	}
	return &f, nil
}

// undo removes the leftovers of a failed create.
func (e *External) undo(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	// The error is dropped: that of create is the one worth telling, and there may be nothing to
	// delete at all.
	_, _ = e.output(ctx, id, "delete", "--force", id)
}

// bounded returns the context of one call.
func (e *External) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := e.timeout
	if timeout == 0 {
		timeout = callTimeout
	}
	return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v", timeout))
}

// callDir creates a directory for the files of one call.
func (e *External) callDir() (string, error) {
	calls := filepath.Join(e.Dir, "calls")
	if err := os.MkdirAll(calls, 0o700); err != nil {
		return "", err
	}
	return os.MkdirTemp(calls, "")
}

// command returns the program with the options that every call has. It writes its log to the given
// file.
func (e *External) command(ctx context.Context, log *os.File, args ...string) *exec.Cmd {
	// By the file's own descriptor here: programs that pass on descriptors from 3 on would take one
	// of theirs for one of the container's.
	all := append([]string{"--root", filepath.Join(e.Dir, "root"), "--log", pathOf(log), "--log-format", "json"}, e.Args...)
	cmd := exec.CommandContext(ctx, e.Program, append(all, args...)...)
	// A process group of its own, so that a signal to ours (an interrupted terminal) does not cut a
	// call in two.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// output runs one call that is not create and returns what it printed.
func (e *External) output(ctx context.Context, id string, args ...string) ([]byte, error) {
	ctx, cancel := e.bounded(ctx)
	defer cancel()
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
	cmd := e.command(ctx, log, args...)
	cmd.Stdout, cmd.Stderr = out, stderr
	if err := e.run(ctx, cmd, log, args[0], id, stderr); err != nil {
		return nil, err
	}
	return readStart(out)
}

// memoryFile creates a file without a directory (memfd_create(2)).
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("berth-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// run runs the command and makes an error of the program's own words: the last one of its log, else
// the end of its stderr.
func (e *External) run(ctx context.Context, cmd *exec.Cmd, log *os.File, call, id string, stderr *os.File) error {
	err := cmd.Run()
	if err == nil {
		return nil
	}
	what := e.Program + " " + call
	if id != "" {
		what += " " + id
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrCutOff, context.Cause(ctx))
	}
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() < 0 { // by a signal
		return fmt.Errorf("%s: %w: %w", what, ErrCutOff, err)
	}
	words := lastError(log)
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
	case has("container not running"), has("container is not running"), has("process already finished"), // runc
		has("is not running"), has("No such process"), has("no such process"): // crun
		return ErrNotRunning
	}
	return nil
}

// lastError returns the message of the last line of level error (or worse) in a log of runc's JSON
// format.
func lastError(f *os.File) string {
	// The last error stands at the end.
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	if _, err := f.Seek(max(fi.Size()-maxOutput, 0), io.SeekStart); err != nil {
		return ""
	}
	b, err := io.ReadAll(io.LimitReader(f, maxOutput))
	if err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(b) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) != nil {
			continue
		}
		switch entry.Level {
		case "error", "fatal", "panic":
			last = entry.Msg
		}
	}
	return last
}

// readStart reads a file from its beginning, up to maxOutput.
func readStart(f *os.File) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxOutput))
}

// readPid reads a --pid-file.
func readPid(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("pid file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0, fmt.Errorf("pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("pid file: found %q; allowed: a process id", b)
	}
	return pid, nil
}

// A nil *os.File in an interface is not nil, and os/exec takes nil for /dev/null.
func fileOrNull(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return f
}

func writerOrNull(f *os.File) io.Writer {
	if f == nil {
		return nil
	}
	return f
}
