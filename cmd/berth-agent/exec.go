// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/accounts"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/standalone"
)

// exitCode ends the program with a code and says nothing: all has been said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Exit codes of exec besides the command's own, as podman and docker have them.
const (
	exitExecFailed    = 125 // exec itself failed
	exitNotExecutable = 126
	exitNotFound      = 127
)

// execFlags are the flags of exec that are passed to the runtime.
type execFlags struct {
	namespace        string
	interactive, tty bool
	user, workdir    string
	env              []string
}

func execCommand(o *options) *cobra.Command {
	e := &execFlags{}
	c := &cobra.Command{
		Use:   "exec NAME -- COMMAND [ARGUMENT...]",
		Short: "Execute a command in a Container of an agent that works alone",
		Long: `exec executes a command in a running container, through the runtime that runs it. Its exit code is the command's; 127 if the command is
not found, 126 if it cannot be executed, 125 if exec itself fails.`,
		Example: `  berth-agent exec hello -- ps
  berth-agent exec -it hello -- sh
  berth-agent exec --user www-data hello -- id
  berth-agent exec --user 1000:1000 --workdir /srv --env A=b hello -- id`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, command := args[0], args[1:]
			if command[0] == "--" {
				command = command[1:]
			}
			if len(command) == 0 {
				return errors.New("COMMAND: found nothing; allowed: a command and its arguments")
			}
			err := e.run(o, name, command)
			var code exitCode
			if err == nil || errors.As(err, &code) {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "berth-agent: %v\n", err)
			return exitCode(exitExecFailed)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows NAME is the command's
	f.StringVarP(&e.namespace, "namespace", "n", corev1.NamespaceDefault, "`namespace` of NAME")
	f.BoolVarP(&e.interactive, "stdin", "i", false, "pass standard input to the command")
	f.BoolVarP(&e.tty, "tty", "t", false, "give the command a terminal")
	f.StringVarP(&e.user, "user", "u", "", "`USER[:GROUP]` to execute as, names of the container's /etc/passwd and /etc/group or numbers; absent, the container's")
	f.StringVarP(&e.workdir, "workdir", "w", "", "working `directory`; absent, the container's")
	f.StringArrayVarP(&e.env, "env", "e", nil, "`NAME=VALUE` for the environment; may be given several times")
	return c
}

func (e *execFlags) run(o *options, name string, command []string) error {
	all, err := o.containers()
	if err != nil && len(all) == 0 {
		return err
	}
	c, err := standalone.Find(all, e.namespace, name)
	if err != nil {
		return err
	}
	if c.Status.PID == 0 {
		return fmt.Errorf("%s does not run: %s", standalone.DisplayName(c), standalone.Message(c))
	}
	settings, err := o.readSettings()
	if err != nil {
		return err
	}
	program, root, err := settings.Runtime(c)
	if err != nil {
		return err
	}
	id := strings.TrimPrefix(c.Status.ContainerID, "berth://")
	user, err := e.runAs(func() (int, error) { return pidOf(program, root, id) })
	if err != nil {
		return fmt.Errorf("--user: %w", err)
	}
	log, err := os.CreateTemp("", "berth-exec-")
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	args := []string{"--root", root, "--log", log.Name(), "--log-format", "json", "exec"}
	if e.tty {
		args = append(args, "--tty")
	}
	args = append(args, user...)
	if e.workdir != "" {
		args = append(args, "--cwd", e.workdir)
	}
	for _, v := range e.env {
		args = append(args, "--env", v)
	}
	args = append(append(args, id), command...)
	child := exec.Command(program, args...)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if e.interactive || e.tty {
		child.Stdin = os.Stdin
	}
	code, err := wait(child)
	if err != nil {
		return err
	}
	if code != 0 {
		return exitCode(translate(code, log))
	}
	return nil
}

// accountsTimeout is the time for which a read of the container's files is waited for: they may lie
// on a filesystem that the container serves itself (FUSE) and that never answers.
const accountsTimeout = 10 * time.Second

// runAs returns the runtime's flags for --user. Runtimes take numbers alone: names are looked up in
// the container's files, as its processes see them.
func (e *execFlags) runAs(pid func() (int, error)) ([]string, error) {
	if e.user == "" {
		return nil, nil
	}
	if strings.Trim(e.user, "0123456789:") == "" {
		return []string{"--user", e.user}, nil
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
		found.err = fmt.Errorf("the container's /etc/passwd and /etc/group cannot be read within %s; allowed: UID:GID", accountsTimeout)
	}
	if found.err != nil {
		return nil, found.err
	}
	ids, err := found.known.Find(e.user)
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
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return 0, err
	}
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			// Keys of a terminal reach the child by themselves.
			if !terminal || s == unix.SIGTERM || s == unix.SIGHUP {
				_ = child.Process.Signal(s)
			}
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 0, err
			}
			if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return child.ProcessState.ExitCode(), nil
		}
	}
}

// exitRuntime is the exit code of runc's exec, and of berth's, for every failure of its own.
const exitRuntime = 255

// translate returns the exit code that podman has for a failure of the runtime, whose log says
// which it was. Any other code is the command's own.
func translate(code int, log *os.File) int {
	data, err := os.ReadFile(log.Name())
	if code != exitRuntime && code != 1 || err != nil {
		return code
	}
	var said string
	for line := range bytes.Lines(data) {
		var record struct{ Level, Msg string }
		if json.Unmarshal(line, &record) == nil && record.Level == "error" {
			said = record.Msg
		}
	}
	switch {
	case said == "":
		return code
	case strings.Contains(said, "executable file not found"), strings.Contains(said, "no such file or directory"):
		return exitNotFound
	case strings.Contains(said, "permission denied"), strings.Contains(said, "exec format error"), strings.Contains(said, "is a directory"):
		return exitNotExecutable
	}
	return exitExecFailed
}
