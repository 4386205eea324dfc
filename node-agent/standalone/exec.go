// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/berth-run/berth/api/oci/accounts"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/runtimecli"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// Exit codes of Exec besides the command's own, as podman and docker have them.
const (
	ExitExecFailed    = 125 // exec itself failed
	exitNotExecutable = 126
	exitNotFound      = 127
)

// Exec is a command to execute in a running container.
type Exec struct {
	Command []string
	// Stdin passes the standard input of this process on.
	Stdin bool
	// TTY gives the command a terminal, which is this process's.
	TTY bool
	// User is USER[:GROUP], as names of the container's files or as numbers; "" is the container's.
	User string
	// Workdir is the working directory; "" is the container's.
	Workdir string
	// Env is added to the environment, each as NAME=VALUE.
	Env []string
}

// Run executes the command in c, through the runtime that runs it, and returns the command's exit
// code. It passes signals and the standard streams of this process on to the command.
func (e *Exec) Run(settings claim.Settings, c *v1alpha1.Container) (code int, err error) {
	if c.Status.PID == 0 {
		return 0, fmt.Errorf("%s does not run: %s", DisplayName(c), Message(c))
	}
	program, root, err := runtimeOf(settings, c)
	if err != nil {
		return 0, err
	}
	id := strings.TrimPrefix(c.Status.ContainerID, "berth://")
	user, err := e.runAs(func() (int, error) { return pidOf(program, root, id) })
	if err != nil {
		return 0, fmt.Errorf("--user: %w", err)
	}
	log, err := os.CreateTemp("", "berth-exec-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	args := []string{"--root", root, "--log", log.Name(), "--log-format", "json", "exec"}
	if e.TTY {
		args = append(args, "--tty")
	}
	args = append(args, user...)
	if e.Workdir != "" {
		args = append(args, "--cwd", e.Workdir)
	}
	for _, v := range e.Env {
		args = append(args, "--env", v)
	}
	child := exec.Command(program, append(append(args, id), e.Command...)...)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if e.Stdin || e.TTY {
		child.Stdin = os.Stdin
	}
	if code, err = wait(child); err != nil {
		return 0, err
	}
	return translate(code, log), nil
}

// runtimeOf returns the program that runs a container, and its --root.
func runtimeOf(settings claim.Settings, c *v1alpha1.Container) (program, root string, err error) {
	if c.Spec.RuntimeClassName == nil || *c.Spec.RuntimeClassName == v1alpha1.HandlerNative {
		return settings.Berth, protocol.NativeRoot(settings.RunDir), nil
	}
	for _, h := range settings.Handlers {
		if name, path, _ := strings.Cut(h, "="); name == *c.Spec.RuntimeClassName {
			return path, protocol.HandlerRoot(settings.RunDir, name), nil
		}
	}
	return "", "", fmt.Errorf("spec.runtimeClassName: found %q, which the agent has no --handler for",
		*c.Spec.RuntimeClassName)
}

// accountsTimeout is the time for which a read of the container's files is waited for: they may lie
// on a filesystem that the container serves itself (FUSE) and that never answers.
const accountsTimeout = 10 * time.Second

// runAs returns the runtime's flags for --user. Runtimes take numbers alone: names are looked up in
// the container's files, as its processes see them.
func (e *Exec) runAs(pid func() (int, error)) ([]string, error) {
	if e.User == "" {
		return nil, nil
	}
	if strings.Trim(e.User, "0123456789:") == "" {
		return []string{"--user", e.User}, nil
	}
	n, err := pid()
	if err != nil {
		return nil, err
	}
	type answer struct {
		known accounts.Accounts
		err   error
	}
	read := make(chan answer, 1)
	go func() {
		a, err := bundle.ReadAccounts(fmt.Sprintf("/proc/%d/root", n))
		read <- answer{a, err}
	}()
	var found answer
	select {
	case found = <-read:
	case <-time.After(accountsTimeout):
		found.err = fmt.Errorf(
			"the container's /etc/passwd and /etc/group cannot be read within %s; allowed: UID:GID",
			accountsTimeout)
	}
	if found.err != nil {
		return nil, found.err
	}
	ids, err := found.known.Find(e.User)
	if err != nil {
		return nil, err
	}
	flags := []string{"--user", fmt.Sprintf("%d:%d", ids.UID, ids.GID)}
	for _, gid := range ids.Groups {
		flags = append(flags, "--additional-gids", strconv.FormatUint(uint64(gid), 10))
	}
	return flags, nil
}

// pidOf asks the runtime for the pid of a container, which is fresher than that in the status.
func pidOf(program, root, id string) (int, error) {
	out, err := exec.Command(program, "--root", root, "state", id).Output()
	if err != nil {
		return 0, fmt.Errorf("state of container %s: %w", id, err)
	}
	var state struct{ Pid int }
	if err := json.Unmarshal(out, &state); err != nil {
		return 0, fmt.Errorf("state of container %s: %w", id, err)
	}
	if state.Pid == 0 {
		return 0, fmt.Errorf("container %s does not run", id)
	}
	return state.Pid, nil
}

// wait runs a child process to its end, passes signals on to it, and returns its exit code.
func wait(child *exec.Cmd) (int, error) {
	signals := []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP}
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	return runtimecli.Run(child, signals, func(s os.Signal) bool {
		// Keys of a terminal reach the child by themselves.
		return !terminal || s == unix.SIGTERM || s == unix.SIGHUP
	})
}

// exitRuntime is the exit code of runc's exec, and of berth's, for every failure of its own.
const exitRuntime = 255

// translate returns the exit code that podman has for a failure of the runtime, whose log says
// which it was. Any other code is the command's own.
func translate(code int, log *os.File) int {
	if code != exitRuntime && code != 1 {
		return code
	}
	said := runtimecli.LastError(log)
	switch {
	case said == "":
		return code
	case strings.Contains(said, "executable file not found"),
		strings.Contains(said, "no such file or directory"):
		return exitNotFound
	case strings.Contains(said, "permission denied"), strings.Contains(said, "exec format error"),
		strings.Contains(said, "is a directory"):
		return exitNotExecutable
	}
	return ExitExecFailed
}
