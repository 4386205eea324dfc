// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/nofile"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

const (
	// maxHookOutput is the maximum size of a hook's output in an error message.
	maxHookOutput = 4 << 10
	// hookOutputDelay is the time to wait for the output of a hook that has ended: its own children
	// may keep it open.
	hookOutputDelay = time.Second
)

// hookStreams are the standard streams of a hook.
type hookStreams struct{ stdin, stdout, stderr *os.File }

func (s hookStreams) inputs() map[plan.Input]int {
	return map[plan.Input]int{
		plan.InputStdin: int(s.stdin.Fd()), plan.InputStdout: int(s.stdout.Fd()),
		plan.InputStderr: int(s.stderr.Fd()),
	}
}

// hookStarter starts the child of a hook, which has become its program when it returns.
type hookStarter func(ctx context.Context, h specs.Hook, f plan.Field,
	s hookStreams) (*launch.Child, error)

// runHooks runs hooks in the runtime's namespaces in their order, each with the container's state
// on its standard input; the first that fails ends it (config.md, POSIX-platform Hooks).
func (r *Runtime) runHooks(ctx context.Context, kind string, hooks []specs.Hook, rec *record,
	status specs.ContainerState,
) error {
	if len(hooks) > 0 {
		r.debugf("container %s: run %d %s hooks", rec.ID, len(hooks), kind)
	}
	return runHooksBy(ctx, kind, hooks, rec.ociState(status), inRuntime(rec))
}

func runHooksBy(ctx context.Context, kind string, hooks []specs.Hook, state specs.State,
	start hookStarter,
) error {
	for i, h := range hooks {
		if err := runHook(ctx, h, plan.Field{Path: "hooks." + kind, Index: i}, state, start); err != nil {
			return &hookError{fmt.Errorf("error running %s hook #%d: %w", kind, i, err)}
		}
	}
	return nil
}

// hookError is the failure of a hook that ends the container.
type hookError struct{ error }

func (e *hookError) Unwrap() error { return e.error }

// runHooksLogged runs hooks whose failure is a warning: poststop. It warns in runc's words and, for
// the exit code, in crun's.
func (r *Runtime) runHooksLogged(ctx context.Context, kind string, hooks []specs.Hook, rec *record,
	status specs.ContainerState,
) {
	for i, h := range hooks {
		err := runHook(ctx, h, plan.Field{Path: "hooks." + kind, Index: i}, rec.ociState(status),
			inRuntime(rec))
		if err != nil {
			warning := fmt.Sprintf("error running %s hook #%d: %v", kind, i, err)
			if exit, ok := errors.AsType[exitError](err); ok && unix.WaitStatus(exit).Exited() {
				warning = fmt.Sprintf("%s hook failed with exit code %d: %s", kind,
					unix.WaitStatus(exit).ExitStatus(), warning)
			}
			r.warn(warning)
		}
	}
}

// runHook runs one hook to its end. One that runs longer than its timeout is killed, with what it
// has started in its session.
func runHook(ctx context.Context, h specs.Hook, f plan.Field, state specs.State,
	start hookStarter,
) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		// A longer one would wrap around, and be over at once.
		limit := time.Duration(min(*h.Timeout, math.MaxInt64/int(time.Second))) * time.Second
		ctx, cancel = context.WithTimeoutCause(ctx, limit,
			fmt.Errorf("hook ran past specified timeout of %.1fs", limit.Seconds()))
		defer cancel()
	}
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	var p hookPipes
	if err := p.open(); err != nil {
		return err
	}
	defer p.close()
	if err := p.redirect(state.Annotations); err != nil {
		return err
	}
	child, err := start(ctx, h, f, p.child)
	p.closeChild()
	if err != nil {
		return startError(ctx, h, err)
	}
	p.serve(input)
	status := waitHook(ctx, child)
	stdout, stderr := p.outputs()
	switch {
	case status == 0:
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	default:
		err = exitError(status)
	}
	return fmt.Errorf("%w, stdout: %s, stderr: %s", err, stdout, stderr)
}

// startError returns the error of a hook that did not become its program.
func startError(ctx context.Context, h specs.Hook, err error) error {
	var step *launch.StepError
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.As(err, &step) && (step.Name == "execve" || step.Name == "execveat" ||
		step.Name == "faccessat" || step.Name == "faccessat2"):
		err = fmt.Errorf("exec %s: %w", h.Path, step.Errno)
	}
	return fmt.Errorf("%w, stdout: , stderr: ", err)
}

// exitError is the wait status of a process that failed, in the words of os/exec, which clients of
// runc know.
type exitError unix.WaitStatus

func (e exitError) Error() string {
	status := unix.WaitStatus(e)
	if status.Signaled() {
		return fmt.Sprintf("signal: %s", status.Signal())
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// waitHook waits for a hook to end and reaps it. When the context ends first, it kills the hook's
// process group.
func waitHook(ctx context.Context, child *launch.Child) unix.WaitStatus {
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = unix.Kill(-child.PID, unix.SIGKILL) // not yet reaped, and so still its own number
		close(killed)
	})
	for {
		err := unix.Waitid(unix.P_PID, child.PID, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if !stop() {
		<-killed
	}
	return child.Wait()
}

// inRuntime starts hooks in the runtime's namespaces.
func inRuntime(rec *record) hookStarter {
	return func(ctx context.Context, h specs.Hook, f plan.Field, s hookStreams) (*launch.Child,
		error,
	) {
		return launchHook(ctx,
			launch.Request{Plan: plan.BuildHook(h, f, plan.Options{
				Bundle:        rec.Bundle,
				DefaultNoFile: defaultNoFile(), Environment: os.Environ(),
			}), Inputs: s.inputs()})
	}
}

func launchHook(ctx context.Context, request launch.Request) (*launch.Child, error) {
	request.Reserved = 3
	child, err := launch.Start(request)
	if err != nil {
		return nil, err
	}
	if err := child.Follow(ctx, ""); err != nil {
		return nil, err
	}
	return child, nil
}

// defaultNoFile returns the limit of open files that this process was started with, nil if it has
// not been raised.
func defaultNoFile() *unix.Rlimit {
	soft, hard, ok := nofile.Original()
	if !ok {
		return nil
	}
	return &unix.Rlimit{Cur: soft, Max: hard}
}

// createHooks runs the hooks whose time is before the change of root: prestart and createRuntime in
// the runtime's namespaces, then createContainer in the container's. Step 2 of the lifecycle is
// behind: the word for what comes after it is "created" (runtime.md, State).
func (c *creation) createHooks(ctx context.Context) error {
	h := c.spec.Hooks
	if err := c.r.runHooks(ctx, "prestart", h.Prestart, c.rec, specs.StateCreated); err != nil { //nolint:staticcheck // deprecated, not gone
		return err
	}
	if err := c.r.runHooks(ctx, "createRuntime", h.CreateRuntime, c.rec,
		specs.StateCreated); err != nil {
		return err
	}
	if len(h.CreateContainer) == 0 {
		return nil
	}
	state, err := c.rec.innerState(specs.StateCreated)
	if err != nil {
		return err
	}
	return runHooksBy(ctx, "createContainer", h.CreateContainer, state, c.startCreateContainerHook)
}

func (c *creation) startCreateContainerHook(ctx context.Context, h specs.Hook, f plan.Field,
	s hookStreams,
) (*launch.Child, error) {
	program, err := unix.Open(h.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("exec %s: %w", h.Path, err)
	}
	defer unix.Close(program)
	inputs := s.inputs()
	inputs[plan.InputContainer], inputs[plan.InputProgram] = c.child.PIDFD, program
	c.cgroup.addTo(inputs)
	p, err := plan.BuildCreateContainerHook(c.spec, h, f, plan.Options{
		Rootfs: c.rec.Rootfs, Cgroups: c.cgroup.hierarchies, CgroupByParent: c.cgroup.byManager,
		DefaultNoFile: defaultNoFile(), Environment: os.Environ(),
	})
	if err != nil {
		return nil, err
	}
	return launchHook(ctx, launch.Request{
		Plan: p, Inputs: inputs, Cgroup: c.cgroup.unified,
		OnSync: c.cgroup.attach,
	})
}

// startHooks runs the startContainer hooks: as the container's process will be, with its user and
// its restrictions, since their programs are the container's (config.md, StartContainer Hooks).
func (r *Runtime) startHooks(ctx context.Context, rec *record) error {
	if rec.Hooks == nil || len(rec.Hooks.StartContainer) == 0 {
		return nil
	}
	state, err := rec.innerState(specs.StateCreated)
	if err != nil {
		return err
	}
	return runHooksBy(ctx, "startContainer", rec.Hooks.StartContainer, state, func(ctx context.Context,
		h specs.Hook, _ plan.Field, s hookStreams,
	) (*launch.Child, error) {
		args := h.Args
		if len(args) == 0 {
			args = []string{h.Path}
		}
		x := &execution{
			session: r.newSession(), id: rec.ID, program: h.Path, ownEnv: len(h.Env) > 0,
			o: ExecOptions{
				Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr,
				Change: func(p *specs.Process) error {
					p.Args, p.Terminal, p.ConsoleSize, p.ExecCPUAffinity = args, false, nil, nil
					// The specification does not say what a hook without env has. Since its program is
					// the container's, it is what the process has.
					if len(h.Env) > 0 {
						p.Env = h.Env
					}
					return nil
				},
			},
		}
		if err := x.execute(ctx); err != nil {
			return nil, err
		}
		return x.child, nil
	})
}

// innerState returns the state for a hook in the container's namespaces: "the pid as seen by the
// container" (runtime.md, State).
func (rec *record) innerState(status specs.ContainerState) (specs.State, error) {
	s := rec.ociState(status)
	file := "/proc/" + strconv.Itoa(rec.PID) + "/status"
	data, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("the first process of container %s: %w", rec.ID, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		// NSpid: its pid in each namespace that it is in, the innermost last (proc_pid_status(5)).
		if pids, ok := strings.CutPrefix(lines.Text(), "NSpid:"); ok {
			fields := strings.Fields(pids)
			if s.Pid, err = strconv.Atoi(fields[len(fields)-1]); err != nil {
				return s, fmt.Errorf("%s: NSpid: %w", file, err)
			}
			return s, nil
		}
	}
	return s, fmt.Errorf("%s: found no NSpid", file)
}

// hookPipes are the pipes of a hook's standard streams. Its own ends block, as programs expect.
type hookPipes struct {
	child  hookStreams
	state  *os.File
	out    [2]*os.File
	output [2]bounded
	done   sync.WaitGroup
}

func (p *hookPipes) open() error {
	for i, ends := range []struct{ child, ours **os.File }{
		{&p.child.stdin, &p.state},
		{&p.child.stdout, &p.out[0]},
		{&p.child.stderr, &p.out[1]},
	} {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			p.close()
			return fmt.Errorf("pipe2: %w", err)
		}
		child, ours := fds[1], fds[0]
		if i == 0 {
			child, ours = fds[0], fds[1]
		}
		err := unix.SetNonblock(ours, true) // so that Close ends a read or write that waits
		*ends.child, *ends.ours = os.NewFile(uintptr(child), "pipe"), os.NewFile(uintptr(ours), "pipe")
		if err != nil {
			p.close()
			return fmt.Errorf("fcntl: %w", err)
		}
	}
	return nil
}

// redirect gives a hook the files that annotations of crun name as its output; they are made if
// need be, and appended to.
func (p *hookPipes) redirect(annotations map[string]string) error {
	for key, stream := range map[string]**os.File{
		"run.oci.hooks.stdout": &p.child.stdout,
		"run.oci.hooks.stderr": &p.child.stderr,
	} {
		path := annotations[key]
		if path == "" {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o600)
		if err == nil {
			// to open a fifo must not wait for its reader; to write may
			err = unix.SetNonblock(int(f.Fd()), false)
		}
		if err != nil {
			return fmt.Errorf("annotations[%q]: %w", key, err)
		}
		(*stream).Close()
		*stream = f
	}
	return nil
}

// serve writes the state, which a hook need not read, and reads the output.
func (p *hookPipes) serve(state []byte) {
	go func() {
		_, _ = p.state.Write(state)
		p.state.Close()
	}()
	for i := range p.out {
		p.done.Go(func() { _, _ = io.Copy(&p.output[i], p.out[i]) })
	}
}

// outputs returns the output of a hook that has ended.
func (p *hookPipes) outputs() (stdout, stderr string) {
	deadline := time.Now().Add(hookOutputDelay)
	for _, f := range p.out {
		_ = f.SetReadDeadline(deadline)
	}
	p.done.Wait()
	return p.output[0].String(), p.output[1].String()
}

func (p *hookPipes) closeChild() { closeAll(p.child.stdin, p.child.stdout, p.child.stderr) }

func (p *hookPipes) close() {
	p.closeChild()
	closeAll(p.state, p.out[0], p.out[1])
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// bounded is a writer that keeps the beginning of its input.
//
// It is no bytes.Buffer: io.Copy would use its ReadFrom, which has no bound.
type bounded struct{ kept []byte }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxHookOutput - len(b.kept); room > 0 {
		b.kept = append(b.kept, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (b *bounded) String() string { return string(b.kept) }
