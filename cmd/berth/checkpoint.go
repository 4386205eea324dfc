// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime"
)

// criuFlags returns the flags that checkpoint and restore share.
func criuFlags(fs *flag.FlagSet) *ociruntime.CriuOptions {
	// Network interfaces are made by whoever made the network namespace, not by criu.
	o := &ociruntime.CriuOptions{EmptyNS: unix.CLONE_NEWNET}
	fs.StringVar(&o.ImagePath, "image-path", "checkpoint", "`directory` of criu's image files")
	fs.StringVar(&o.WorkPath, "work-path", "",
		"`directory` of criu's work files and logs, that of the images unless given")
	fs.BoolVar(&o.TCPEstablished, "tcp-established", false, "allow established TCP connections")
	fs.BoolVar(&o.ExtUnixSockets, "ext-unix-sk", false, "allow connections to unix sockets outside")
	fs.BoolVar(&o.ShellJob, "shell-job", false, "allow a process whose session began outside")
	fs.BoolVar(&o.FileLocks, "file-locks", false, "allow file locks")
	fs.BoolVar(&o.AutoDedup, "auto-dedup", false, "drop from an image the memory that a later one has")
	fs.BoolVar(&o.LazyPages, "lazy-pages", false, "bring memory over when it is used (userfaultfd)")
	fs.StringVar(&o.ManageCgroups, "manage-cgroups-mode", "",
		"`mode` in which criu treats cgroups: soft, full, strict or ignore (default: soft)")
	fs.Func("empty-ns", "make a `namespace` and do not fill it; allowed is network, which never is",
		func(s string) error {
			if s != "network" {
				return fmt.Errorf("namespace %q is not supported", s)
			}
			return nil
		})
	return o
}

var checkpointCommand = command{
	name: "checkpoint", args: "CONTAINER-ID", summary: "write a running container to files by criu(8)",
	min: 1, max: 1,
	examples: []string{
		"berth checkpoint --image-path /srv/images hello",
		"berth checkpoint --pre-dump --image-path /srv/images/1 hello && berth checkpoint --parent-path ../1 --image-path /srv/images/2 hello",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		o := ociruntime.CheckpointOptions{}
		common := criuFlags(fs)
		fs.StringVar(&o.ParentPath, "parent-path", "",
			"`directory` of an earlier pre-dump, relative to --image-path")
		fs.BoolVar(&o.LeaveRunning, "leave-running", false, "let the container go on")
		fs.BoolVar(&o.PreDump, "pre-dump", false, "write the memory alone, and let the container go on")
		fs.BoolVar(&o.TCPSkipInFlight, "tcp-skip-in-flight", false,
			"leave out TCP connections that are being made")
		fs.BoolVar(&o.LinkRemap, "link-remap", false,
			"give files that have lost their name one for the time")
		fs.IntVar(&o.StatusFD, "status-fd", -1,
			"`descriptor` that gets a zero byte once lazy pages can be had")
		fs.StringVar(&o.PageServer, "page-server", "", "`ADDRESS:PORT` that the memory is sent to")
		fs.StringVar(&o.NetworkLock, "network-lock", "",
			"`tool` that stops the network: iptables, nftables or skip")
		return func(ctx context.Context, a *app, args []string) error {
			o.CriuOptions = *common
			r, err := a.runtime()
			if err != nil {
				return err
			}
			return r.Checkpoint(ctx, args[0], o)
		}
	},
}

var restoreCommand = command{
	name: "restore", args: "CONTAINER-ID",
	summary: "make a container from what checkpoint wrote; its exit code becomes berth's", min: 1,
	max: 1, launches: true, signals: true,
	examples: []string{
		"berth restore --bundle /srv/hello --image-path /srv/images hello",
		"berth restore -d --pid-file /run/hello.pid -b /srv/hello hello",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		o := ociruntime.RestoreOptions{}
		common := criuFlags(fs)
		fs.StringVar(&o.Bundle, "bundle", ".", "`directory` of the bundle")
		fs.StringVar(&o.Bundle, "b", ".", "`directory` of the bundle")
		fs.StringVar(&o.ConsoleSocket, "console-socket", "",
			"unix `socket` that gets the terminal's master")
		fs.StringVar(&o.PidFile, "pid-file", "", "`file` that gets the pid of the first process")
		fs.StringVar(&o.LSMProfile, "lsm-profile", "", "LSM profile to restore with, as `TYPE:NAME`")
		fs.StringVar(&o.LSMMountContext, "lsm-mount-context", "", "LSM mount `context` to restore with")
		fs.BoolVar(&o.TCPClose, "tcp-close", false, "close TCP connections that were established")
		fs.StringVar(&o.NetworkLock, "network-lock", "",
			"`tool` that stopped the network: iptables, nftables or skip")
		fs.Bool("no-pivot", false, "taken for runc's clients; criu makes the root")
		fs.Bool("no-subreaper", false, "taken for runc's clients; berth never is a subreaper here")
		detach := boolFlag(fs, "detach", "d", "return once the container runs")
		return func(ctx context.Context, a *app, args []string) error {
			o.CriuOptions = *common
			o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
			r, err := a.runtime()
			if err != nil {
				return err
			}
			run := func(ctx context.Context, c ociruntime.CreateOptions) (*ociruntime.Process, error) {
				o.CreateOptions = c
				return r.Restore(ctx, args[0], o)
			}
			return a.runContainer(ctx, run, o.CreateOptions, *detach, false)
		}
	},
}
