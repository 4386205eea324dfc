// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/source/folder"
	"github.com/berth-run/berth/node-agent/standalone"
)

// control is a command that asks the agent for something and waits until it is done.
type control struct {
	o         *options
	namespace string
	noWait    bool
}

func stopCommand(o *options) *cobra.Command {
	return controlCommand(o, folder.Stop, &cobra.Command{
		Use:   "stop NAME...",
		Short: "Stop Containers of an agent that works alone; they stay stopped",
		Long: `stop sends the stop signal, and SIGKILL after terminationGracePeriodSeconds. The container stays stopped, also over starts of
the agent and of the machine and edits of its manifest, until berth-agent start or restart.`,
		Example: "  berth-agent stop hello\n  berth-agent stop web-1 web-2 --no-wait",
	})
}

func startCommand(o *options) *cobra.Command {
	return controlCommand(o, folder.Start, &cobra.Command{
		Use:   "start NAME...",
		Short: "Start Containers of an agent that works alone",
		Long: `start starts a container that was stopped. One that has ended runs again, and one that waits out a back-off is started at once. For one
that runs there is nothing to do.`,
		Example: "  berth-agent start hello",
	})
}

func restartCommand(o *options) *cobra.Command {
	return controlCommand(o, folder.Restart, &cobra.Command{
		Use:     "restart NAME...",
		Short:   "Restart Containers of an agent that works alone",
		Long:    "restart stops a container as stop does, and starts it again. One that does not run is started.",
		Example: "  berth-agent restart hello",
	})
}

func controlCommand(o *options, verb folder.Verb, c *cobra.Command) *cobra.Command {
	x := &control{o: o}
	c.Args = cobra.MinimumNArgs(1)
	c.RunE = func(cmd *cobra.Command, args []string) error { return x.run(cmd, verb, args) }
	c.Flags().StringVarP(&x.namespace, "namespace", "n", corev1.NamespaceDefault,
		"`namespace` of the NAMEs")
	c.Flags().BoolVar(&x.noWait, "no-wait", false, "return once the agent has been asked")
	return c
}

// run asks for all containers first, so that they stop at the same time, and then waits for each.
// It prints the names of those that are done.
func (x *control) run(cmd *cobra.Command, verb folder.Verb, names []string) error {
	all, err := x.o.containers()
	if err != nil && len(all) == 0 {
		return err
	}
	if !claim.AgentRuns(x.o.StateDir) {
		return fmt.Errorf(
			"found no running agent with --state-dir %s; allowed: one that runs, since it is the agent that does it", x.o.StateDir)
	}
	var wanted []*v1alpha1.Container
	for _, name := range names {
		c, err := standalone.Find(all, x.namespace, name)
		if err != nil {
			return err
		}
		if c.UID == "" || c.Generation == 0 {
			return fmt.Errorf("%s was never accepted: %s", standalone.DisplayName(c), standalone.Message(c))
		}
		wanted = append(wanted, c)
	}
	requests := make([]*standalone.Request, len(wanted))
	for i, c := range wanted {
		if !standalone.Needed(verb, c) {
			continue
		}
		if requests[i], err = standalone.Ask(x.o.StateDir, verb, c); err != nil {
			return needRoot(err)
		}
	}
	var errs []error
	for i, c := range wanted {
		if !x.noWait && requests[i] != nil {
			if err := x.wait(cmd.Context(), requests[i]); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", standalone.DisplayName(c), err))
				continue
			}
		}
		fmt.Fprintln(cmd.OutOrStdout(), standalone.DisplayName(c))
	}
	return errors.Join(errs...)
}

// wait waits until a request has been done, and shows the progress of a pull.
func (x *control) wait(ctx context.Context, r *standalone.Request) error {
	var shown progressLine
	defer shown.clear()
	return needRoot(r.Wait(ctx, func(c *v1alpha1.Container) {
		shown.show(standalone.DisplayName(c) + ": " + standalone.Message(c))
	}))
}

// progressLine is a line of a terminal that is written again and again, and nothing if standard
// error is no terminal.
type progressLine struct{ text string }

func (l *progressLine) show(text string) {
	if text == l.text || !term.IsTerminal(int(os.Stderr.Fd())) {
		return
	}
	l.text = text
	if width, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil && len(text) >= width &&
		width > 0 {
		text = text[:width-1]
	}
	fmt.Fprint(os.Stderr, "\r\x1b[K", text)
}

func (l *progressLine) clear() {
	if l.text != "" {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}

func pruneCommand(o *options) *cobra.Command {
	x := &control{o: o}
	c := &cobra.Command{
		Use:   "prune [NAME...]",
		Short: "Stop and remove Containers whose manifests are gone and that the agent holds on to",
		Long: `An agent that works alone stops nothing when its directory of manifests is away, is another one
than before, or lost all of its several manifests at once: a volume may not be mounted, or another
branch be checked out. status lists the Containers that are held. prune confirms that they are to
go: all of them, or the NAMEs. A manifest that is put back needs no prune.`,
		Example: "  berth-agent prune\n  berth-agent prune web-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := o.containers()
			if err != nil && len(all) == 0 {
				return err
			}
			for i := range all {
				c := &all[i]
				if c.Namespace == x.namespace && slices.Contains(args, c.Name) && folder.Missing(c) == "" {
					return fmt.Errorf(
						"%s has its manifest; allowed: Containers whose manifest is gone (remove the manifest to remove the Container)", standalone.DisplayName(c))
				}
			}
			if len(args) > 0 {
				return x.run(cmd, folder.Remove, args)
			}
			var errs []error
			missing := missingNames(all)
			for _, namespace := range slices.Sorted(maps.Keys(missing)) {
				y := &control{o: o, namespace: namespace, noWait: x.noWait}
				errs = append(errs, y.run(cmd, folder.Remove, missing[namespace]))
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().StringVarP(&x.namespace, "namespace", "n", corev1.NamespaceDefault,
		"`namespace` of the NAMEs")
	c.Flags().BoolVar(&x.noWait, "no-wait", false, "return once the agent has been asked")
	return c
}

// missingNames returns the names of the Containers whose manifests are gone, by namespace.
func missingNames(all []v1alpha1.Container) map[string][]string {
	out := map[string][]string{}
	for i := range all {
		if folder.Missing(&all[i]) != "" {
			out[all[i].Namespace] = append(out[all[i].Namespace], all[i].Name)
		}
	}
	return out
}
