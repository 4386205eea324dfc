// SPDX-License-Identifier: Apache-2.0

// Command berth-agent is Berth's node agent: it runs the containers that a folder of manifests or a
// cluster wants on one node. It decides nothing itself; see packages source and reconcile below
// node-agent.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/agent"
)

// version is set by the build (-ldflags "-X main.version=...").
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	var code exitCode
	if errors.As(err, &code) {
		os.Exit(int(code))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "berth-agent: %v\n", err)
		os.Exit(1)
	}
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// command returns the command line.
func command() *cobra.Command {
	o := &options{Options: agent.Options{Version: buildVersion()}}
	c := &cobra.Command{
		Use:   "berth-agent",
		Short: "Berth's node agent",
		Long: `berth-agent runs the containers of one node.

With --manifests it works alone: it runs the Containers (berth.run/v1alpha1) in the files of a
directory, and needs no Kubernetes. Else it belongs to a cluster: it runs the OCIBundles that the
controller has dispatched to --node-name.

Containers are children of a supervisor (berth supervise), which the agent starts unless it runs.
They go on when the agent ends, and the next agent takes them up again.`,
		Example: `  # alone: run what is in /etc/berth/manifests, and look at it
  berth-agent --manifests /etc/berth/manifests
  berth-agent status
  berth-agent logs hello -f
  berth-agent exec -it hello -- sh
  berth-agent restart hello

  # of a cluster
  berth-agent --kubeconfig /etc/berth/kubeconfig --node-name worker-1

  # apart from another agent on the same host
  berth-agent --manifests ./m --state-dir /tmp/b/state --run-dir /tmp/b/run \
    --log-dir /tmp/b/log --cgroup-parent /b`,
		Args:          cobra.NoArgs,
		Version:       buildVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	// That of the other commands, too.
	c.PersistentFlags().StringVar(&o.StateDir, "state-dir", "/var/lib/berth",
		"`directory` of images, bundles and status")
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.Manifests, "manifests", "", "`directory` of manifests to run, without Kubernetes")
	f.StringVar(&o.Kubeconfig, "kubeconfig", "",
		"kubeconfig `file` of the cluster; absent, and without --manifests, the pod's service account")
	f.StringVar(&o.NodeName, "node-name", "",
		"`name` of this node's NodeAgent; absent, the host's name")
	f.StringVar(&o.RunDir, "run-dir", "/run/berth",
		"`directory` of the runtime and the supervisor; it must not outlive a boot")
	f.StringVar(&o.LogDir, "log-dir", "/var/log/berth", "`directory` of the containers' logs")
	f.IntVar(&o.RemovedLogs.Count, "removed-logs-count", 100,
		"`number` of removed containers whose logs are kept")
	f.DurationVar(&o.RemovedLogs.Age, "removed-logs-age", 7*24*time.Hour,
		"`time` for which logs of removed containers are kept; 0 for no limit")
	f.StringVar(&o.CgroupParent, "cgroup-parent", "/berth",
		"`cgroup` that the containers' are made in")
	f.StringVar(&o.RegistryConfig, "registry-config", "",
		"`file` of credentials for registries, as docker's config.json; absent, with --manifests those that podman login and docker login of root write, else the kubelet's")
	f.StringVar(&o.RegistryHosts, "registry-hosts-dir", "",
		"`directory` of mirrors and certificates of registries, as containerd's: HOST/hosts.toml; absent, none")
	o.imageFlags(f)
	f.StringSliceVar(&o.Network.BinDirs, "cni-bin-dir", []string{"/opt/cni/bin", "/usr/lib/cni"},
		"`directories` of CNI plugins; empty, containers have loopback alone")
	f.StringVar(&o.Network.ConfDir, "cni-conf-dir", "/etc/cni/net.d",
		"`directory` of CNI configuration; the first file by name is the containers' network")
	f.StringArrayVar(&o.bridgeSubnet, "bridge-subnet", nil,
		"`subnet` of the bridge that containers have without CNI configuration, one of IPv4 and one of IPv6; absent, 10.89.0.0/16 or another that is free, and one of fd00::/8")
	f.StringSliceVar(&o.clusterDNS, "cluster-dns", nil,
		"`addresses` of the cluster's DNS servers, for containers with dnsPolicy ClusterFirst; absent, they have the node's or, without a cluster, the agent's own")
	f.StringVar(&o.ClusterDNS.Domain, "cluster-domain", "",
		"`domain` of the cluster, such as cluster.local: that of Services, in search lists and names of containers")
	o.isolationFlags(f)
	f.StringVar(&o.Berth, "berth-binary", "",
		"`path` of the program berth; absent, the one beside this program, else that in PATH")
	f.StringArrayVar(&o.Handlers, "handler", nil,
		"another runtime, as `name=/path`; may be given several times")
	f.StringVar(&o.HealthAddress, "health-probe-bind-address", "",
		"`address` of /healthz and /readyz over HTTP; absent, none")
	f.StringVar(&o.logFormat, "log-format", "", "text or json; absent, text on a terminal, else json")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	c.AddCommand(statusCommand(o), logsCommand(o), execCommand(o), stopCommand(o), startCommand(o),
		restartCommand(o), pruneCommand(o), volumeCommand(o), imageCommand(o))
	return c
}
