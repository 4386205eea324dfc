// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/source/folder"
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
	c.Flags().StringVarP(&x.namespace, "namespace", "n", corev1.NamespaceDefault, "`namespace` of the NAMEs")
	c.Flags().BoolVar(&x.noWait, "no-wait", false, "return once the agent has been asked")
	return c
}

// asked is a container that the agent has been asked about.
type asked struct {
	before v1alpha1.Container
	id     string // of the request
	at     time.Time
}

// run asks for all containers first, so that they stop at the same time, and then waits for each.
// It prints the names of those that are done.
func (x *control) run(cmd *cobra.Command, verb folder.Verb, names []string) error {
	all, err := x.o.containers()
	if err != nil && len(all) == 0 {
		return err
	}
	if !claim.AgentRuns(x.o.stateDir) {
		return fmt.Errorf("found no running agent with --state-dir %s; allowed: one that runs, since it is the agent that does it", x.o.stateDir)
	}
	var work []asked
	for _, name := range names {
		c, err := find(all, x.namespace, name)
		if err != nil {
			return err
		}
		if c.UID == "" || c.Generation == 0 {
			return fmt.Errorf("%s was never accepted: %s", display(c), message(c))
		}
		work = append(work, asked{before: *c})
	}
	for i := range work {
		w := &work[i]
		if !needed(verb, &w.before) {
			continue
		}
		if w.id, err = folder.Ask(x.o.stateDir, verb, &w.before); err != nil {
			return needRoot(err)
		}
		w.at = time.Now()
	}
	var errs []error
	for _, w := range work {
		if !x.noWait && w.id != "" {
			if err := x.wait(cmd.Context(), verb, w); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", display(&w.before), err))
				continue
			}
		}
		fmt.Fprintln(cmd.OutOrStdout(), display(&w.before))
	}
	return errors.Join(errs...)
}

// needed reports whether the agent has anything to do.
func needed(verb folder.Verb, c *v1alpha1.Container) bool {
	_, stopped := folder.Taken(c)
	switch verb {
	case folder.Stop:
		return !stopped && !finished(c)
	case folder.Start:
		return stopped || c.Status.PID == 0
	}
	return true
}

func finished(c *v1alpha1.Container) bool {
	return c.Status.Phase == v1alpha1.ContainerSucceeded || c.Status.Phase == v1alpha1.ContainerFailed
}

// wait waits until a request has been done.
func (x *control) wait(ctx context.Context, verb folder.Verb, w asked) error {
	var shown progressLine
	defer shown.clear()
	for {
		select {
		case <-ctx.Done():
			return errors.New("interrupted; the agent does it all the same")
		case <-time.After(50 * time.Millisecond):
		}
		all, err := x.o.containers()
		if err != nil && len(all) == 0 {
			return err
		}
		i := slices.IndexFunc(all, func(c v1alpha1.Container) bool { return c.UID == w.before.UID })
		switch {
		case i < 0 && (verb == folder.Remove || verb == folder.Stop):
			return nil
		case i < 0:
			return errors.New("it was removed")
		case !claim.AgentRuns(x.o.stateDir):
			return errors.New("the agent ended before it was done; the next one goes on with it")
		}
		if done, err := settled(verb, w, &all[i], time.Since(w.at)); done || err != nil {
			return err
		}
		if s := all[i].Status.State.Waiting; s != nil && s.Reason == v1alpha1.ReasonPulling {
			shown.show(display(&all[i]) + ": " + message(&all[i]))
		}
	}
}

// progressLine is a line of a terminal that is written again and again, and nothing if standard
// error is no terminal.
type progressLine struct{ text string }

func (l *progressLine) show(text string) {
	if text == l.text || !term.IsTerminal(int(os.Stderr.Fd())) {
		return
	}
	l.text = text
	if width, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil && len(text) >= width && width > 0 {
		text = text[:width-1]
	}
	fmt.Fprint(os.Stderr, "\r\x1b[K", text)
}

func (l *progressLine) clear() {
	if l.text != "" {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}

// failureAfter is how long the failure that a container had before a request is not taken for the
// answer to it.
const failureAfter = 3 * time.Second

// settled reports whether the status of a container is the one after a request.
func settled(verb folder.Verb, w asked, c *v1alpha1.Container, waited time.Duration) (bool, error) {
	restart, stopped := folder.Taken(c)
	switch verb {
	case folder.Remove:
		return false, nil
	case folder.Stop:
		if !stopped && waited > failureAfter { // another request came after it
			return true, nil
		}
		waiting := c.Status.State.Waiting
		return stopped && c.Status.PID == 0 && waiting != nil && waiting.Reason == v1alpha1.ReasonStopped, nil
	}
	if restart != w.id {
		if waited > failureAfter && restart == w.before.Annotations[source.AnnotationRestart] && c.Status.PID != 0 {
			return true, nil // it ran by the time that the agent came to the request
		}
		return false, nil
	}
	if c.Status.PID != 0 && c.Status.PID != w.before.Status.PID {
		return true, nil
	}
	again := c.Status.RestartCount > w.before.Status.RestartCount
	if again && finished(c) {
		return true, nil
	}
	waiting := c.Status.State.Waiting
	if waiting == nil {
		return false, nil
	}
	switch waiting.Reason {
	case v1alpha1.ReasonProgressing, v1alpha1.ReasonPulling, v1alpha1.ReasonStopped:
		return false, nil
	case v1alpha1.ReasonCrashLoopBackOff:
		if !again {
			return false, nil
		}
	default:
		if before := w.before.Status.State.Waiting; before != nil && before.Message == waiting.Message && waited < failureAfter {
			return false, nil
		}
	}
	return false, errors.New(message(c))
}

func pruneCommand(o *options) *cobra.Command {
	x := &control{o: o}
	c := &cobra.Command{
		Use:   "prune [NAME...]",
		Short: "Stop and remove Containers whose manifests are gone and that the agent holds on to",
		Long: `An agent that works alone stops nothing when its folder of manifests is away, is another one than before, or lost all of its several
manifests at once: a volume may not be mounted, or another branch be checked out. status lists what is held. prune confirms that it
is to go: all of it, or the NAMEs. A manifest that is put back needs no prune.`,
		Example: "  berth-agent prune\n  berth-agent prune web-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := o.containers()
			if err != nil && len(all) == 0 {
				return err
			}
			for i := range all {
				c := &all[i]
				if c.Namespace == x.namespace && slices.Contains(args, c.Name) && folder.Missing(c) == "" {
					return fmt.Errorf("%s has its manifest; allowed: Containers whose manifest is gone (remove the manifest to remove the Container)", display(c))
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
	c.Flags().StringVarP(&x.namespace, "namespace", "n", corev1.NamespaceDefault, "`namespace` of the NAMEs")
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
