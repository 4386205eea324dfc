// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/internal/heap"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/network"
	"github.com/berth-run/berth/node-agent/reconcile"
	"github.com/berth-run/berth/node-agent/registration"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/source/folder"
	"github.com/berth-run/berth/node-agent/supervision"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// options are the flags.
type options struct {
	stateDir, runDir, logDir string
	manifests, kubeconfig    string
	nodeName                 string
	cgroupParent             string
	berth                    string
	handlers                 []string
	healthAddress            string
	logFormat, logLevel      string
	removedLogs              lifecycle.Retention
	cniBinDirs               []string
	cniConfDir               string
	bridgeSubnet             []string
	bridgeSubnets            []netip.Prefix
}

// check returns the faults of the flags, and makes paths absolute, before anything is started.
func (o *options) check() error {
	if o.manifests != "" && o.kubeconfig != "" {
		return errors.New("found both --manifests and --kubeconfig; allowed: one of them, as an agent works alone or for a cluster")
	}
	if o.nodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--node-name: found nothing, and the host's name cannot be had: %w", err)
		}
		o.nodeName = strings.ToLower(name)
	}
	if msgs := validation.IsDNS1123Subdomain(o.nodeName); len(msgs) > 0 {
		return fmt.Errorf("--node-name: found %q; allowed: %s", o.nodeName, strings.Join(msgs, "; "))
	}
	if !path.IsAbs(o.cgroupParent) || path.Clean(o.cgroupParent) != o.cgroupParent || o.cgroupParent == "/" {
		return fmt.Errorf("--cgroup-parent: found %q; allowed: an absolute path below /, such as /berth", o.cgroupParent)
	}
	for _, dir := range []struct {
		flag  string
		value *string
	}{{"--state-dir", &o.stateDir}, {"--run-dir", &o.runDir}, {"--log-dir", &o.logDir}} {
		if *dir.value == "" {
			return fmt.Errorf("%s: found nothing; allowed: a directory", dir.flag)
		}
		abs, err := filepath.Abs(*dir.value)
		if err != nil {
			return fmt.Errorf("%s: %w", dir.flag, err)
		}
		*dir.value = abs
	}
	if err := protocol.CheckSocket(protocol.Socket(o.runDir)); err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	if o.removedLogs.Count < 0 {
		return fmt.Errorf("--removed-logs-count: found %d; allowed: 0 or more", o.removedLogs.Count)
	}
	if o.removedLogs.Age < 0 {
		return fmt.Errorf("--removed-logs-age: found %s; allowed: 0 for no limit, or more", o.removedLogs.Age)
	}
	if err := o.checkNetwork(); err != nil {
		return err
	}
	if o.berth == "" {
		found, err := findBerth()
		if err != nil {
			return err
		}
		o.berth = found
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("found user id %d; allowed: 0, since namespaces, mounts and cgroups of the host are made", os.Geteuid())
	}
	return nil
}

// checkNetwork returns the faults of the flags of the network.
func (o *options) checkNetwork() error {
	o.cniBinDirs = slices.DeleteFunc(o.cniBinDirs, func(dir string) bool { return dir == "" })
	for _, dir := range append([]string{o.cniConfDir}, o.cniBinDirs...) {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("--cni-bin-dir, --cni-conf-dir: found %q; allowed: absolute paths", dir)
		}
	}
	if len(o.bridgeSubnet) > 0 && o.manifests == "" {
		return errors.New("--bridge-subnet: found a subnet; allowed: none without --manifests, as the network of a cluster is in --cni-conf-dir")
	}
	o.bridgeSubnets = nil
	for _, text := range o.bridgeSubnet {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("--bridge-subnet: found %q; allowed: a subnet such as 10.89.0.0/16: %w", text, err)
		}
		o.bridgeSubnets = append(o.bridgeSubnets, p)
	}
	if err := network.CheckSubnets(o.bridgeSubnets); err != nil {
		return fmt.Errorf("--bridge-subnet: %w", err)
	}
	return nil
}

func findBerth() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "berth")
		if unix.Access(beside, unix.X_OK) == nil {
			return beside, nil
		}
	}
	found, err := exec.LookPath("berth")
	if err != nil {
		return "", fmt.Errorf("--berth-binary: found no program berth beside this one or in PATH; allowed: its path: %w", err)
	}
	return filepath.Abs(found)
}

func (o *options) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level: found %q; allowed: debug, info, warn, error", o.logLevel)
	}
	format := o.logFormat
	if format == "" {
		format = "json"
		if term.IsTerminal(int(os.Stderr.Fd())) {
			format = "text"
		}
	}
	ho := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, ho)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, ho)), nil
	}
	return nil, fmt.Errorf("--log-format: found %q; allowed: text, json", o.logFormat)
}

// run runs the agent until ctx ends.
func (o *options) run(ctx context.Context) error {
	log, err := o.logger()
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	heap.Adapt(ctx)
	// The end of the terminal that the agent was started from is no reason to end.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	klog.SetSlogLogger(log)
	if err := os.MkdirAll(o.stateDir, 0o700); err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	stateLock, err := claim.StateDir(ctx, o.stateDir)
	if err != nil {
		return err
	}
	defer stateLock.Close()
	journal, err := openJournal(o.stateDir, log)
	if err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	defer func() {
		if err := journal.Close(); err != nil {
			log.Error("the last changes may not survive a loss of power", "error", err)
		}
	}()
	client := protocol.NewClient(protocol.Socket(o.runDir))
	runDir, err := claim.NewRunDir(ctx, o.runDir, o.stateDir, client)
	if err != nil {
		return err
	}
	defer runDir.Close()
	keeper := supervision.New(supervision.Config{
		Berth: o.berth, RunDir: o.runDir, CgroupParent: o.cgroupParent, Handlers: o.handlers, Client: client,
		Claim: runDir.Assert, Version: buildVersion(), Log: log,
	})
	bundles, err := bundle.Open(filepath.Join(o.stateDir, "bundles"), bundle.WithJournal(journal))
	if err != nil {
		return err
	}
	settings := o.settings()
	if err := settings.CheckSource(o.stateDir, bundles); err != nil {
		return err
	}
	if err := settings.Write(o.stateDir); err != nil {
		// They are for other commands. An agent that ended here on a full disk could not stop what
		// fills it.
		log.Error("cannot write down the flags of the agent", "error", err)
	}
	if err := os.MkdirAll(o.logDir, 0o700); err != nil {
		return fmt.Errorf("--log-dir: %w", err)
	}
	pulling := &image.PullProgress{}
	images, err := image.Open(filepath.Join(o.stateDir, "images"), image.WithJournal(journal), image.WithProgress(func(p image.Progress) {
		pulling.Note(p)
		if len(p.Skipped) > 0 {
			log.Debug("extended attributes of a layer were passed over", "image", p.Ref, "layer", p.Layer, "attributes", p.Skipped)
		}
	}))
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	defer func() {
		if err := images.Close(); err != nil {
			log.Warn("close the image store", "error", err)
		}
	}()
	src, registerNode, err := o.source(log, journal)
	if err != nil {
		return err
	}

	if err := keeper.Start(ctx); err != nil {
		return err
	}
	facts, err := registration.Read("/", buildVersion())
	if err != nil {
		return fmt.Errorf("look at the node: %w", err)
	}
	objects, _ := src.(lifecycle.Objects) // a cluster's source has none
	networks := o.networks(log)
	if why := networks.Missing(); why != nil {
		log.Info("containers have loopback alone, but for those with hostNetwork", "why", why)
	}
	syncer, err := reconcile.New(reconcile.Config{
		Objects: objects,
		Source:  src, Images: imageStore{images, pulling}, Pulled: pulling.Text, Supervisor: keeper.Client(), Bundles: bundles,
		LogDir: o.logDir, CgroupParent: o.cgroupParent, Handlers: keeper.HandlerNames, Log: log, KeepLogs: o.removedLogs,
		Node:     lifecycle.Node{Addresses: registration.Addresses, Capacity: facts.Capacity},
		Networks: networks,
	})
	if err != nil {
		return err
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tasks := map[string]func(context.Context) error{"sync": syncer.Run, "supervisor": keeper.Run}
	if again, ok := src.(interface{ Rescan() }); ok {
		tasks["hangup"] = func(ctx context.Context) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-hangup:
					log.Info("SIGHUP: the manifests are read again")
					again.Rescan()
				}
			}
		}
	}
	ready := func(ctx context.Context) error {
		if !src.Synced() {
			return errors.New("the source of bundles has not been read yet")
		}
		if err := syncer.Following(); err != nil {
			return err
		}
		if w, ok := src.(interface{ Watching() error }); ok {
			if err := w.Watching(); err != nil {
				return err
			}
		}
		_, err := client.Ping(ctx)
		return err
	}
	if registerNode != nil {
		tasks["node"], err = registerNode(keeper.Handlers, func(ctx context.Context) registration.Load { return load(src.List(), ready(ctx)) })
		if err != nil {
			return err
		}
	}
	if o.healthAddress != "" {
		listener, err := net.Listen("tcp", o.healthAddress)
		if err != nil {
			return fmt.Errorf("--health-probe-bind-address: %w", err)
		}
		tasks["health"] = func(ctx context.Context) error { return serveHealth(ctx, listener, ready) }
	}
	log.Info("agent started", "version", buildVersion(), "node", o.nodeName, "manifests", o.manifests, "stateDir", o.stateDir)
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("cannot tell the service manager", "error", err)
	}
	ended := make(chan error, len(tasks))
	for name, task := range tasks {
		go func() {
			err := task(ctx)
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			cancel(err) // none of them ends by itself without a fault
			ended <- err
		}()
	}
	var errs []error
	for range tasks {
		errs = append(errs, <-ended)
	}
	log.Info("agent ended; containers go on")
	return errors.Join(errs...)
}

// settings returns the flags that are written down for other commands and for the next agent.
func (o *options) settings() claim.Settings {
	return claim.Settings{
		Manifests: o.manifests, Node: o.nodeName, RunDir: o.runDir, LogDir: o.logDir, Berth: o.berth, Handlers: o.handlers,
	}
}

// networks returns the networks of the node's containers.
func (o *options) networks(log *slog.Logger) *network.Networks {
	n := &network.Networks{
		Namespaces: network.Namespaces{Dir: filepath.Join(o.runDir, "netns")},
		BinDirs:    o.cniBinDirs, ConfDir: o.cniConfDir, Log: log,
	}
	if o.manifests != "" {
		n.Bridge = &network.Bridge{Subnets: o.bridgeSubnets, RunDir: o.runDir}
	}
	return network.New(n)
}

// openJournal opens the journal of the files that must survive a loss of power.
func openJournal(stateDir string, log *slog.Logger) (*durable.Journal, error) {
	journal, err := durable.OpenJournal(stateDir,
		"bundles/*/record.json", "bundles/*/desired.json", "bundles/*/"+network.RecordFile, "status/*.json", "images/images/*/*.json", "images/refs/*.json")
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// An agent that ended here could not stop what fills the disk.
		log.Error("what changes from now on may not survive a loss of power", "error", err)
		return nil, nil
	}
	return journal, err
}

// register returns the task that keeps the NodeAgent object and its heartbeat, from the handlers
// that the node has and what is asked of it at the time.
type register func(
	handlers func() []v1alpha1.NodeHandler, load func(context.Context) registration.Load,
) (task func(context.Context) error, err error)

// source returns where bundles come from and, for the agent of a cluster's node, how the node is
// registered there.
func (o *options) source(log *slog.Logger, journal *durable.Journal) (source.Source, register, error) {
	if o.manifests == "" {
		return o.clusterSource(log)
	}
	src, err := folder.New(folder.Options{
		Dir: o.manifests, StateDir: o.stateDir, Journal: journal, NewBoot: journal.NewBoot(),
		NodeName: o.nodeName, NodeLabels: registration.Labels(o.nodeName), Log: log,
	})
	return src, nil, err
}

// load sums up what is asked of the node.
func load(bundles []*v1alpha1.OCIBundle, ready error) registration.Load {
	l := registration.Load{Containers: int32(len(bundles)), Allocated: corev1.ResourceList{}, Ready: ready}
	for _, b := range bundles {
		for name, q := range b.Spec.Requests {
			sum := l.Allocated[name]
			sum.Add(q)
			l.Allocated[name] = sum
		}
	}
	return l
}

// imageStore is the image store as package lifecycle wants it.
type imageStore struct {
	store   *image.Store
	pulling *image.PullProgress
}

func (s imageStore) Ensure(ctx context.Context, reference string, policy corev1.PullPolicy) (*lifecycle.Image, error) {
	defer s.pulling.Forget(reference)
	img, err := s.store.Ensure(ctx, reference, image.PullPolicy(policy))
	if err != nil {
		return nil, err
	}
	return &lifecycle.Image{ID: img.ID(), Config: img.Config, Layers: img.Layers}, nil
}

// serveHealth answers /healthz while the agent lives, and /readyz when it can run containers.
func serveHealth(ctx context.Context, listener net.Listener, ready func(context.Context) error) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
