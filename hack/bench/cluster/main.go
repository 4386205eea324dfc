// SPDX-License-Identifier: Apache-2.0

// Command cluster measures a cluster that hack/cluster has started: a burst of Containers on its
// one node, and what nodes cost the API server and the controller. hack/bench/cluster.sh starts the
// cluster, and ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

const usage = `usage: cluster burst|nodes [flags]

  burst  apply many Containers at once, and compare their status with their processes
  nodes  register nodes with fake agents, each of which does what an agent asks of the API server

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ctrl.SetLogger(logr.Discard())
	log.SetOutput(io.Discard) // of the HTTP client
	klog.SetLogger(logr.Discard())
	if err := bench(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage); flags.PrintDefaults() }
	dir := flags.String("dir", "bin/cluster", "state `directory` of the cluster")
	assets := flags.String("assets", "", "`directory` of kubectl, etcd and kube-apiserver")
	var b burst
	flags.IntVar(&b.count, "containers", 1000, "burst: `number` of Containers")
	flags.StringVar(&b.archive, "archive", "/var/lib/berth/archives/hello.tar",
		"`image` with /bin/sleep")
	flags.DurationVar(&b.settle, "settle", 130*time.Second,
		"burst: `time` before memory is measured; Go collects garbage every two minutes at the latest")
	var n nodes
	flags.StringVar(&n.counts, "nodes", "500,1000,2000,5000", "nodes: `numbers` of nodes, rising")
	flags.Float64Var(&n.pace, "pace", 50, "nodes: `agents` that begin a second")
	flags.DurationVar(&n.rest, "rest", time.Minute,
		"nodes: `time` over which processor time is measured at rest")
	if len(args) == 0 {
		flags.Usage()
		return errors.New("found no command; allowed: burst, nodes")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	c, err := newCluster(*dir, *assets)
	if err != nil {
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	fmt.Printf("%s, Linux %s, %d cores\n", time.Now().UTC().Format(time.DateOnly),
		unix.ByteSliceToString(uts.Release[:]), runtime.NumCPU())
	switch args[0] {
	case "burst":
		return b.run(ctx, c)
	case "nodes":
		n.archive = b.archive
		return n.run(ctx, c)
	}
	return fmt.Errorf("found command %q; allowed: burst, nodes", args[0])
}
