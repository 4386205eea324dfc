// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/unixsignal"
	"github.com/berth-run/berth/node-agent/ociruntime"
)

// commands returns all commands, in the order of the help.
func commands() []command {
	return []command{
		createCommand, startCommand, runCommand, execCommand, stateCommand, listCommand, killCommand,
		deleteCommand, pauseCommand, resumeCommand,
		psCommand, updateCommand, eventsCommand, mountsCommand, specCommand, featuresCommand,
		checkpointCommand, restoreCommand, validateCommand, planCommand,
		superviseCommand,
	}
}

const runtimeTypeFlag = "runtime-type"

// createFlags returns the flags that create and run share.
func createFlags(fs *flag.FlagSet) *ociruntime.CreateOptions {
	o := &ociruntime.CreateOptions{}
	fs.StringVar(&o.Bundle, "bundle", ".", "`directory` of the bundle")
	fs.StringVar(&o.Bundle, "b", ".", "`directory` of the bundle")
	fs.StringVar(&o.Config, "config", "", "`file` to read in place of config.json")
	fs.StringVar(&o.Config, "f", "", "`file` to read in place of config.json")
	fs.StringVar(&o.ConsoleSocket, "console-socket", "",
		"unix `socket` that gets the terminal's master")
	fs.StringVar(&o.PidfdSocket, "pidfd-socket", "",
		"unix `socket` that gets a pidfd of the first process")
	fs.StringVar(&o.PidFile, "pid-file", "", "`file` that gets the pid of the first process")
	fs.BoolVar(&o.NoPivot, "no-pivot", false,
		"move the root in place of pivot_root(2), for a host on a ramfs")
	fs.BoolVar(&o.NoNewKeyring, "no-new-keyring", false, "leave the session keyring as it is")
	fs.IntVar(&o.PreserveFDs, "preserve-fds", 0,
		"`number` of descriptors that the process inherits, from 3 on or, with $LISTEN_FDS, from behind those on")
	fs.String(runtimeTypeFlag, nativeType,
		"which `runtime` runs the container, now and later: native, or one of --runtimes")
	fs.Bool("no-subreaper", false, "taken for runc's clients; berth never is a subreaper here")
	return o
}

// activate adds the sockets that a service manager has passed to berth for the container.
func activate(o *ociruntime.CreateOptions) error {
	o.ListenFDs = listenFDs()
	if err := checkPreserved("$LISTEN_FDS", 3, o.ListenFDs); err != nil {
		return err
	}
	if err := checkPreserved("--preserve-fds", 3+o.ListenFDs, o.PreserveFDs); err != nil {
		return err
	}
	o.PreserveFDs += o.ListenFDs
	o.Notify = os.Getenv(notifyVariable)
	return nil
}

// checkPreserved checks that the caller has passed the n descriptors from some on that it says it
// has.
func checkPreserved(said string, from, n int) error {
	if n < 0 {
		return fmt.Errorf("%s: found %d; allowed are 0 and more", said, n)
	}
	for fd := from; fd < from+n; fd++ {
		// What is close-on-exec has not come from the caller: it is berth's own.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil ||
			flags&unix.FD_CLOEXEC != 0 {
			return fmt.Errorf("%s: found %d, but descriptor %d is not open", said, n, fd)
		}
	}
	return nil
}

var createCommand = command{
	name: "create", args: "CONTAINER-ID", summary: "create a container, which start then runs", min: 1,
	max: 1, launches: true,
	examples: []string{"berth create --bundle /srv/hello --pid-file /run/hello.pid hello"},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		o := createFlags(fs)
		return func(ctx context.Context, a *app, args []string) error {
			if err := activate(o); err != nil {
				return err
			}
			r, err := a.runtime()
			if err != nil {
				return err
			}
			o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
			_, err = r.Create(ctx, args[0], *o)
			return err
		}
	},
}

var startCommand = command{
	name: "start", args: "CONTAINER-ID", summary: "start a created container", min: 1, max: 1,
	examples: []string{"berth start hello"},
	flags: func(*flag.FlagSet) func(context.Context, *app, []string) error {
		return func(ctx context.Context, a *app, args []string) error {
			r, err := a.runtime()
			if err != nil {
				return err
			}
			var notify *net.UnixConn
			if os.Getenv(notifyVariable) != "" {
				if notify, err = r.ListenNotify(args[0]); err != nil {
					return err
				}
			}
			err = r.Start(ctx, args[0])
			if err == nil && notify != nil {
				return a.started(ctx, r, args[0], notify)
			}
			if errors.Is(err, ociruntime.ErrNoProcess) {
				// An error of the operation, reported as one, but no exit code: the specification
				// leaves open how (runtime.md, Errors), and the validation suite takes any other
				// code for a failure.
				a.fail(err)
				return nil
			}
			return err
		}
	},
}

// started waits until a container that has been started is ready, for the service manager that
// called.
func (a *app) started(ctx context.Context, r *ociruntime.Runtime, id string,
	notify *net.UnixConn,
) error {
	s, err := r.State(ctx, id)
	if err != nil || s.PID == 0 {
		return notify.Close() // it has ended
	}
	a.waitReady(ctx, notify, s.PID)
	return nil
}

var runCommand = command{
	name: "run", args: "CONTAINER-ID",
	summary: "create and start a container and wait for it; its exit code becomes berth's", min: 1,
	max: 1, launches: true, signals: true,
	examples: []string{
		"berth run --bundle /srv/hello hello",
		"berth run -d --pid-file /run/hello.pid hello",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		o := createFlags(fs)
		detach := boolFlag(fs, "detach", "d", "return once the container runs")
		keep := fs.Bool("keep", false, "leave the stopped container for delete")
		return func(ctx context.Context, a *app, args []string) error {
			if err := activate(o); err != nil {
				return err
			}
			r, err := a.runtime()
			if err != nil {
				return err
			}
			run := func(ctx context.Context, o ociruntime.CreateOptions) (*ociruntime.Process, error) {
				return r.Run(ctx, args[0], o)
			}
			return a.runContainer(ctx, run, *o, *detach, *keep)
		}
	},
}

var stateCommand = command{
	name: "state", args: "CONTAINER-ID", summary: "print the state of a container as JSON", min: 1,
	max:      1,
	examples: []string{"berth state hello"},
	flags: func(*flag.FlagSet) func(context.Context, *app, []string) error {
		return func(ctx context.Context, a *app, args []string) error {
			r, err := a.runtime()
			if err != nil {
				return err
			}
			s, err := r.State(ctx, args[0])
			if err != nil {
				return err
			}
			data, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(data)
			return err
		}
	},
}

var listCommand = command{
	name: "list", summary: "list the containers below --root", min: 0, max: 0,
	examples: []string{
		"berth list", "berth list -q",
		"berth --root /run/containerd/runc/default list -f json",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		format := stringFlag(fs, "format", "f", "table", "`format`: table or json")
		quiet := boolFlag(fs, "quiet", "q", "print ids alone")
		return func(ctx context.Context, a *app, _ []string) error {
			r, err := a.runtime()
			if err != nil {
				return err
			}
			// Of the default directory, that it is not there means that there are no containers; of
			// one that is named, a slip.
			if a.rootGiven {
				if _, err := os.Stat(a.root); err != nil {
					return fmt.Errorf("--root: %w", err)
				}
			}
			list, err := r.List(ctx)
			if err != nil {
				return err
			}
			list = append(list, a.listExternal(ctx)...)
			slices.SortFunc(list, func(x, y *ociruntime.State) int { return strings.Compare(x.ID, y.ID) })
			if *quiet {
				for _, s := range list {
					fmt.Fprintln(a.stdout, s.ID)
				}
				return nil
			}
			switch *format {
			case "table":
				w := tabwriter.NewWriter(a.stdout, 12, 1, 3, ' ', 0)
				fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
				for _, s := range list {
					fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.PID, s.Status, s.Bundle,
						s.Created.Format(time.RFC3339Nano), s.Owner)
				}
				return w.Flush()
			case "json":
				return json.NewEncoder(a.stdout).Encode(list)
			}
			return fmt.Errorf("--format: found %q; allowed are table, json", *format)
		}
	},
}

var killCommand = command{
	name: "kill", args: "CONTAINER-ID [SIGNAL]",
	summary: "send a signal, TERM unless one is given, to a container's first process", min: 1, max: 2,
	examples: []string{
		"berth kill hello", "berth kill hello KILL", "berth kill --all hello 9",
		"berth kill --regex '^web-' HUP",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		all := boolFlag(fs, "all", "a", "send it to all processes of the container")
		regex := regexVar(fs)
		return func(ctx context.Context, a *app, args []string) error {
			name := "SIGTERM"
			if len(args) > 1 {
				name = args[1]
			}
			var sig unix.Signal // 0 only checks that there is a process (kill(2))
			if name != "0" {
				var err error
				if sig, err = unixsignal.Parse(name); err != nil {
					return err
				}
			}
			r, err := a.runtime()
			if err != nil {
				return err
			}
			if !*regex {
				return r.Kill(ctx, args[0], sig, *all)
			}
			flags := []string{}
			if *all {
				flags = append(flags, "--all")
			}
			return a.forEach(ctx, args[0], "kill", func(id string) []string {
				return append(flags, id, name)
			}, func(id string) error {
				return r.Kill(ctx, id, sig, *all)
			})
		}
	},
}

var deleteCommand = command{
	name: "delete", args: "CONTAINER-ID", summary: "remove a stopped container", min: 1, max: 1,
	examples: []string{
		"berth delete hello", "berth delete --force hello",
		"berth delete --regex '^web-'",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		force := boolFlag(fs, "force", "f",
			"kill the container first if it still runs, and succeed if it does not exist")
		regex := regexVar(fs)
		return func(ctx context.Context, a *app, args []string) error {
			r, err := a.runtime()
			if err != nil {
				return err
			}
			if !*regex {
				return r.Delete(ctx, args[0], *force)
			}
			flags := []string{}
			if *force {
				flags = append(flags, "--force")
			}
			return a.forEach(ctx, args[0], "delete", func(id string) []string {
				return append(flags, id)
			}, func(id string) error {
				return r.Delete(ctx, id, *force)
			})
		}
	},
}

// errDeleted keeps the exit code of a container whose removal failed.
var errDeleted = errors.New("the container has ended, but could not be removed")
