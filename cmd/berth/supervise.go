// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/heap"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/ociruntime"
	"github.com/berth-run/berth/node-agent/supervisor"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

var superviseCommand = command{
	name: "supervise", summary: "be the parent of a node's containers, for the node agent", min: 0,
	max: 0, launches: true, signals: true,
	examples: []string{
		"berth supervise --run-dir /run/berth",
		"berth supervise --handler crun=/usr/bin/crun", "berth supervise --upgrade --run-dir /run/berth",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		var handlers list
		runDir := fs.String("run-dir", ociruntime.DefaultRoot,
			"`directory` for the supervisor's records and, in "+protocol.NativeDir+
				", the state of containers")
		socket := fs.String("socket", "",
			"`path` of the socket that agents connect to; absent, supervisor.sock in --run-dir")
		cgroup := fs.String("cgroup-parent", "",
			"`cgroup` that the supervisor moves itself into, such as /berth/supervisor")
		held := fs.Int("held", 0,
			"`descriptor` of a list of descriptors that the agent held for a supervisor before this one")
		check := fs.Bool("check-records", false,
			"only check that the records in --run-dir can be read, and change nothing")
		upgrade := fs.Bool("upgrade", false,
			"have the supervisor of --run-dir continue as this program, in its own process, and change nothing else")
		fs.Var(&handlers, "handler", "another runtime, as `name=/path`; may be given several times")
		return func(ctx context.Context, a *app, _ []string) error {
			level := slog.LevelInfo
			if a.level >= levelDebug {
				level = slog.LevelDebug
			}
			if *socket == "" {
				*socket = protocol.Socket(*runDir)
			}
			switch {
			case *check:
				return supervisor.CheckRecords(*runDir)
			case *upgrade:
				return upgradeSupervisor(ctx, a, *socket)
			}
			heap.Adapt(ctx)
			log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
			set := handler.Set{}
			native, err := handler.NewNative(protocol.NativeRoot(*runDir),
				ociruntime.WithWarnings(func(msg string) {
					log.Warn(msg)
				}))
			if err != nil {
				return err
			}
			if err := set.Add(handler.NativeName, native); err != nil {
				return err
			}
			for _, h := range handlers {
				if err := set.AddExternal(h, filepath.Join(*runDir, protocol.HandlersDir)); err != nil {
					return err
				}
			}
			ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
			defer stop()
			err = supervisor.Run(ctx, supervisor.Options{
				RunDir: *runDir, Socket: *socket, Handlers: set, CgroupParent: *cgroup, Log: log,
				Program: "berth " + version, Held: *held,
				Command: withoutHeld(os.Args),
			})
			if errors.Is(err, protocol.ErrHeld) {
				return failure{err, protocol.ExitHeld}
			}
			return err
		}
	},
}

// upgradeTimeout is the time that a supervisor may take to continue as another program: operations
// under way end first.
const upgradeTimeout = time.Minute

func upgradeSupervisor(ctx context.Context, a *app, socket string) error {
	// Not os.Executable: this process executes a sealed copy, which nobody else can.
	program, err := exec.LookPath(os.Args[0])
	if err == nil {
		program, err = filepath.Abs(program)
	}
	if err != nil {
		return fmt.Errorf("--upgrade: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
	defer cancel()
	if err := protocol.NewClient(socket).Upgrade(ctx, program); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "the supervisor at %s is now berth %s\n", socket, version)
	return nil
}

// withoutHeld returns the command line without --held and its value, which are for one start alone.
func withoutHeld(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		if strings.TrimLeft(args[i], "-") == "held" {
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out
}
