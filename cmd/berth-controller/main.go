// SPDX-License-Identifier: Apache-2.0

// Command berth-controller is Berth's cluster controller: it compiles Containers, chooses their
// nodes, dispatches them as OCIBundles and mirrors what the agents say. It decides nothing itself;
// see package controllers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berth-run/berth/controllers"
	"github.com/berth-run/berth/controllers/deletion"
	"github.com/berth-run/berth/controllers/nodehealth"
)

// version is set by the build (-ldflags "-X main.version=…").
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(os.Stderr).ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "berth-controller: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	kubeconfig          string
	metricsAddress      string
	probeAddress        string
	webhookAddress      string
	leaderElect         bool
	leaderNamespace     string
	leaderID            string
	monitorGrace        time.Duration
	workers             int
	logFormat, logLevel string
}

// command returns the command line; log is where the log goes.
func command(log io.Writer) *cobra.Command {
	o := &options{}
	c := &cobra.Command{
		Use:   "berth-controller",
		Short: "Berth's cluster controller",
		Long: `berth-controller watches Containers (berth.run/v1alpha1), compiles each into an OCI runtime spec, chooses a node,
dispatches it to the node's agent as an OCIBundle, and mirrors what the agent says back into the
Container's status.

It needs the CRDs of config/crd, the permissions of config/rbac, and the namespace berth-nodes for
the agents' heartbeats; config/webhook has the API server ask it for the grace period of a deletion.
Several may run at once with
--leader-elect: one works, the others stand by and answer the API server.`,
		Example: `  # in a cluster, as its own Deployment runs it
  berth-controller --leader-elect

  # from a shell, against the cluster of a kubeconfig, with a log to read
  berth-controller --kubeconfig ~/.kube/config --log-format text --log-level debug

  # beside another controller on the host: no metrics and no webhook, probes on a port of its own
  berth-controller --metrics-bind-address 0 --webhook-bind-address 0 \
    --health-probe-bind-address 127.0.0.1:9081`,
		Args:          cobra.NoArgs,
		Version:       buildVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), log)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.kubeconfig, "kubeconfig", "",
		"kubeconfig of the cluster; default: $KUBECONFIG, else the pod's service account, else ~/.kube/config")
	f.StringVar(&o.metricsAddress, "metrics-bind-address", "127.0.0.1:8080",
		"where Prometheus metrics are served over HTTP at /metrics; 0 turns them off")
	f.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081",
		"where /healthz and /readyz are served over HTTP; 0 turns them off")
	f.StringVar(&o.webhookAddress, "webhook-bind-address", ":9443",
		"where the API server asks before it deletes a Container (config/webhook), over HTTPS; 0 turns it off, and with it the grace periods of deletions")
	f.BoolVar(&o.leaderElect, "leader-elect", false,
		"work only while holding a Lease, so that several controllers can stand by")
	f.StringVar(&o.leaderNamespace, "leader-elect-namespace", "",
		"namespace of that Lease; default: the pod's own, else berth-system")
	f.StringVar(&o.leaderID, "leader-elect-id", "berth-controller", "name of that Lease")
	f.DurationVar(&o.monitorGrace, "node-monitor-grace-period", nodehealth.DefaultGracePeriod,
		"how long an agent may not renew its Lease before its node counts as lost")
	f.IntVar(&o.workers, "workers", 4, "how many Containers are reconciled at once")
	f.StringVar(&o.logFormat, "log-format", "json", "json or text")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	return c
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

// check returns the faults of the flags, before anything is started.
func (o *options) check() error {
	if o.monitorGrace < time.Second {
		return fmt.Errorf("--node-monitor-grace-period: found %s; allowed: 1s or more", o.monitorGrace)
	}
	if o.workers < 1 {
		return fmt.Errorf("--workers: found %d; allowed: 1 or more", o.workers)
	}
	return nil
}

// webhook returns where the deletion webhook is served, or nil for nowhere.
func (o *options) webhook(namespace string) (*deletion.Options, error) {
	if o.webhookAddress == "0" {
		return nil, nil
	}
	host, port, err := net.SplitHostPort(o.webhookAddress)
	number, numberErr := strconv.ParseUint(port, 10, 16)
	if err != nil || numberErr != nil || number == 0 {
		return nil, fmt.Errorf("--webhook-bind-address: found %q; allowed: 0, :PORT, HOST:PORT",
			o.webhookAddress)
	}
	return &deletion.Options{Host: host, Port: int(number), Namespace: namespace}, nil
}

func (o *options) logger(w io.Writer) (logr.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return logr.Logger{}, fmt.Errorf("--log-level: found %q; allowed: debug, info, warn, error",
			o.logLevel)
	}
	settings := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "json":
		return logr.FromSlogHandler(slog.NewJSONHandler(w, settings)), nil
	case "text":
		return logr.FromSlogHandler(slog.NewTextHandler(w, settings)), nil
	}
	return logr.Logger{}, fmt.Errorf("--log-format: found %q; allowed: json, text", o.logFormat)
}

func (o *options) run(ctx context.Context, w io.Writer) error {
	if err := o.check(); err != nil {
		return err
	}
	namespace := o.leaderNamespace
	if namespace == "" {
		namespace = ownNamespace()
	}
	webhook, err := o.webhook(namespace)
	if err != nil {
		return err
	}
	log, err := o.logger(w)
	if err != nil {
		return err
	}
	ctrl.SetLogger(log)
	klog.SetLogger(log) // client-go's own

	cfg, err := restConfig(o.kubeconfig)
	if err != nil {
		return err
	}
	scheme, err := controllers.Scheme()
	if err != nil {
		return err
	}
	if err := checkCRDs(ctx, cfg, scheme, log); err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                 scheme,
		Logger:                 log,
		Cache:                  controllers.CacheOptions(),
		Metrics:                metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress: o.probeAddress,
		LeaderElection:         o.leaderElect,
		LeaderElectionID:       o.leaderID,

		LeaderElectionNamespace: namespace,
		// The process ends when the manager does, so the Lease may be given back at once: the next
		// one need not wait for it to run out.
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := controllers.SetupWithManager(ctx, mgr, controllers.Options{
		NodeMonitorGracePeriod: o.monitorGrace,
		Workers:                o.workers,
		Webhook:                webhook,
	}); err != nil {
		return err
	}
	if err := errors.Join(
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("ping", healthz.Ping),
	); err != nil {
		return fmt.Errorf("probes: %w", err)
	}
	log.Info("starting", "version", buildVersion(), "server", cfg.Host)
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

// checkCRDs refuses to start ahead of the CRDs: dispatching would fail for the whole fleet.
func checkCRDs(ctx context.Context, cfg *rest.Config, scheme *runtime.Scheme,
	log logr.Logger,
) error {
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("reach the cluster: %w", err)
	}
	err = controllers.CheckCRDs(ctx, c)
	if apierrors.IsForbidden(err) {
		log.Info("cannot check whether the CRDs are those of this version: apply config/rbac", "error",
			err.Error())
		return nil
	}
	return err
}

// restConfig finds the cluster. Requests are not throttled on this side: the API server's priority
// and fairness is there for that, and the default of 20 a second would be what a burst of
// Containers waits for.
func restConfig(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	if kubeconfig == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		cfg, err := rest.InClusterConfig()
		if err == nil {
			cfg.QPS = -1
			return cfg, nil
		}
		if !errors.Is(err, rest.ErrNotInCluster) {
			return nil, fmt.Errorf("the pod's service account: %w", err)
		}
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w (give --kubeconfig FILE)", err)
	}
	cfg.QPS = -1
	return cfg, nil
}

// namespaceFile is the file into which the kubelet writes the namespace of a pod's service account.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func ownNamespace() string {
	if b, err := os.ReadFile(namespaceFile); err == nil {
		if name := strings.TrimSpace(string(b)); name != "" {
			return name
		}
	}
	return "berth-system"
}
