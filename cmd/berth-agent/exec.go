// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/node-agent/standalone"
)

// exitCode ends the program with a code and says nothing: all has been said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func execCommand(o *options) *cobra.Command {
	e := &standalone.Exec{}
	var namespace string
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
			e.Command = command
			code, err := o.exec(e, namespace, name)
			if err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "berth-agent: %v\n", err)
				code = standalone.ExitExecFailed
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows NAME is the command's
	f.StringVarP(&namespace, "namespace", "n", corev1.NamespaceDefault, "`namespace` of NAME")
	f.BoolVarP(&e.Stdin, "stdin", "i", false, "pass standard input to the command")
	f.BoolVarP(&e.TTY, "tty", "t", false, "give the command a terminal")
	f.StringVarP(&e.User, "user", "u", "",
		"`USER[:GROUP]` to execute as, names of the container's /etc/passwd and /etc/group or numbers; absent, the container's")
	f.StringVarP(&e.Workdir, "workdir", "w", "", "working `directory`; absent, the container's")
	f.StringArrayVarP(&e.Env, "env", "e", nil,
		"`NAME=VALUE` for the environment; may be given several times")
	return c
}

// exec executes a command in the container of a name, and returns its exit code.
func (o *options) exec(e *standalone.Exec, namespace, name string) (code int, err error) {
	all, err := o.containers()
	if err != nil && len(all) == 0 {
		return 0, err
	}
	c, err := standalone.Find(all, namespace, name)
	if err != nil {
		return 0, err
	}
	settings, err := o.readSettings()
	if err != nil {
		return 0, err
	}
	return e.Run(settings, c)
}
