// SPDX-License-Identifier: Apache-2.0

// Command cluster is behind `make cluster-up` and `make cluster-down`: a
// Kubernetes API server on this host, without kubelet or pods, with Berth's
// controller and one agent on it. Every process outlives the command; what
// belongs to the cluster is in one state directory, by which `down` finds it.
//
// It starts programs, makes certificates and applies the files of config/. It
// must not know what Berth's objects mean, but for the NodeAgent's Ready
// condition, and it is for development and tests only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const usage = `usage: cluster up|down|status [flags]

  up      start the cluster, or what of it does not run; wait until it is ready
  down    end what up started and remove the state directory
  status  say what runs; the exit status is 1 if anything does not

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage); flags.PrintDefaults() }
	var c cluster
	flags.StringVar(&c.dir, "dir", "bin/cluster", "state directory; the admin's kubeconfig is in it")
	flags.StringVar(&c.assets, "assets", "", "directory of etcd, kube-apiserver and kubectl")
	flags.StringVar(&c.bin, "bin", "bin", "directory of berth-controller, berth-agent and berth")
	flags.BoolVar(&c.apiOnly, "api-only", false,
		"start no controller and no agent: the API server with the CRDs alone")
	flags.StringVar(&c.config, "config", "config", "directory of the kustomize bases")
	flags.StringVar(&c.node, "node-name", defaultNode(), "name of the one node")
	flags.DurationVar(&c.timeout, "timeout", 2*time.Minute, "how long to wait for each part")
	if len(args) == 0 {
		flags.Usage()
		return errors.New("found no command; allowed: up, down, status")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for _, path := range []*string{&c.dir, &c.assets, &c.bin, &c.config} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	c.programs = programs{dir: c.dir, grace: 15 * time.Second}
	unlock, err := lock(c.dir + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	switch args[0] {
	case "up":
		return c.up(ctx)
	case "down":
		return c.down(ctx)
	case "status":
		return c.status()
	default:
		return fmt.Errorf("unknown command %q; allowed: up, down, status", args[0])
	}
}

// lock keeps two commands from changing one cluster at once. The file stays:
// removing it would let a third in beside a second.
func lock(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		say("waiting for another cluster command")
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// defaultNode returns the host's name as a Kubernetes name, or node-1.
func defaultNode() string {
	name, err := os.Hostname()
	name = strings.ToLower(name)
	ok := strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" &&
		strings.Trim(name, "-") == name
	if err != nil || name == "" || name == "localhost" || !ok {
		return "node-1"
	}
	return name
}

// say prints a line of progress.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "cluster: "+format+"\n", args...)
}
