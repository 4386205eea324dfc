// SPDX-License-Identifier: Apache-2.0

package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

// cli returns how the program is called.
func (e *External) cli() *CLI {
	return &CLI{Path: e.Program, Args: e.Args, Root: filepath.Join(e.Dir, "root")}
}

const (
	// callTimeout is the time that one call of a program may take, with the hooks that it runs:
	// more than the two minutes after which the kubelet gives up (--runtime-request-timeout).
	callTimeout = 5 * time.Minute
	// undoTimeout is the time that the removal of a failed create may take, and the question whether
	// it was removed; they happen even if the caller's context has ended.
	undoTimeout = 30 * time.Second
)

// Create runs "create". The program inherits the container's stdio, and runc says there too why it
// failed.
func (e *External) Create(ctx context.Context, id, bundle string, stdio Stdio) (pid int,
	err error,
) {
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

	cli := e.cli()
	cmd := cli.logged(ctx, log, "create", "--bundle", bundle, "--pid-file", pidFile, id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = fileOrNull(stdio.Stdin), writerOrNull(stdio.Stdout),
		writerOrNull(stdio.Stderr)
	if err := cli.run(ctx, cmd, log, "create", id, nil); err != nil {
		// Whoever has a container of that id keeps it; anything else is our own half-made one.
		if cmd.Process == nil || errors.Is(err, ErrExist) {
			return 0, err
		}
		uerr := e.undo(ctx, id)
		switch {
		case uerr == nil:
			return 0, err
		case errors.Is(err, ErrCutOff), errors.Is(uerr, ErrCutOff), e.mayKnow(ctx, id):
			return 0, fmt.Errorf("%w; %w: %w", err, ErrNotUndone, uerr)
		}
		// A program that fails by itself removes what it has made. One that refuses all calls, as for
		// a wrong option, has made nothing, and could not be deleted either.
		return 0, fmt.Errorf("%w; undo it: %w", err, uerr)
	}
	pid, err = readPid(pidFile)
	if err != nil {
		err = fmt.Errorf("%s create %s: %w", e.Program, id, err)
		if uerr := e.undo(ctx, id); uerr != nil {
			err = fmt.Errorf("%w; %w: %w", err, ErrNotUndone, uerr)
		}
		return 0, err
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
		return nil, fmt.Errorf("%s state %s: found %.100q; allowed: a state document: %w", e.Program, id,
			out, err)
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
		return nil, fmt.Errorf("%s features: found %.100q; allowed: a features document: %w", e.Program,
			out, err)
	}
	return &f, nil
}

// undo removes the leftovers of a failed create.
func (e *External) undo(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := e.Delete(ctx, id, true)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}

// mayKnow reports whether the program has a container of that id, or does not answer in time.
func (e *External) mayKnow(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	_, err := e.State(ctx, id)
	return err == nil || errors.Is(err, ErrCutOff)
}

// output runs one call that is not create and returns what it printed.
func (e *External) output(ctx context.Context, id string, args ...string) ([]byte, error) {
	ctx, cancel := e.bounded(ctx)
	defer cancel()
	return e.cli().Output(ctx, id, args...)
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
