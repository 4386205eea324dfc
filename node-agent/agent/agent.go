// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/image/hostsdir"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/network"
	"github.com/berth-run/berth/node-agent/reconcile"
	"github.com/berth-run/berth/node-agent/registration"
	"github.com/berth-run/berth/node-agent/selinux"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervision"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
	"github.com/berth-run/berth/node-agent/userns"
	"github.com/berth-run/berth/node-agent/volume"
)

// Options are the settings of an agent. Every field without "optional" must be set.
type Options struct {
	// StateDir, RunDir and LogDir are absolute. RunDir must not outlive a boot.
	StateDir, RunDir, LogDir string
	// Manifests is the directory of manifests of an agent that works alone; optional: the agent
	// belongs to a cluster.
	Manifests string
	// Kubeconfig is the file of the cluster; optional: the service account of the pod.
	Kubeconfig string
	// NodeName is the name of the node's NodeAgent.
	NodeName string
	// CgroupParent is the cgroup that the containers' are made in, such as /berth.
	CgroupParent string
	// Berth is the path of the program berth.
	Berth string
	// Handlers are the runtimes besides the native one, each as NAME=PATH; optional.
	Handlers []string
	// HealthAddress is the address of /healthz and /readyz over HTTP; optional: none.
	HealthAddress string
	// RemovedLogs says how long the logs of removed containers are kept.
	RemovedLogs lifecycle.Retention
	// Network says how containers are connected.
	Network Network
	// RegistryConfig is a file of credentials for registries; optional: those of podman and docker, or
	// the kubelet's in a cluster.
	RegistryConfig string
	// RegistryHosts is the directory of hosts.toml files; optional.
	RegistryHosts string
	// ImageGC says which images are removed when, and PinnedImages are references of images that stay.
	ImageGC      ImageGC
	PinnedImages []string
	// ClusterDNS has the DNS servers and the domain of the cluster; optional.
	ClusterDNS bundle.ClusterDNS
	// SeccompRoot is the directory of the node's seccomp profiles, for the type Localhost.
	SeccompRoot string
	// CDIDirs are the directories of the node's CDI specs; optional.
	CDIDirs []string
	// FirstUser and LastUser are the range of ids for containers with a user namespace.
	FirstUser, LastUser uint32
	// HostUsers gives containers that do not say the node's ids; else a user namespace.
	HostUsers bool
	// Version is this program's.
	Version string
	// Rescan has the manifests read again each time that it receives; optional.
	Rescan <-chan os.Signal
	Log    *slog.Logger
}

// agent holds the parts of an agent that have been opened and started so far.
type agent struct {
	Options
	closers []func()

	journal *durable.Journal // nil if the disk is full
	client  *protocol.Client
	runDir  *claim.RunDir
	bundles *bundle.Root
	images  imageStore
	volumes *volume.Store // nil for an agent of a cluster
	source  interface {
		source.Source
		lifecycle.Objects
	}
	cluster *rest.Config // nil for an agent that works alone
	keeper  *supervision.Keeper
	facts   registration.Facts
	network *network.Networks
	syncer  *reconcile.Syncer
}

// Run runs an agent until ctx ends or a part of it fails. Containers go on then.
func Run(ctx context.Context, o Options) error {
	a := &agent{Options: o}
	defer a.close()
	for _, step := range []func(context.Context) error{
		a.lockStateDir, a.openJournal, a.claimRunDir, a.openBundles, a.openImages, a.openSource,
		a.startSupervisor, a.readFacts, a.createSyncer,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	tasks, err := a.tasks()
	if err != nil {
		return err
	}
	a.Log.Info("agent started", "version", a.Version, "node", a.NodeName, "manifests", a.Manifests,
		"stateDir", a.StateDir)
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		a.Log.Warn("cannot notify the service manager", "error", err)
	}
	err = runAll(ctx, tasks)
	a.Log.Info("agent ended; containers go on")
	return err
}

// closeLater has f called when the agent ends, after what was registered later.
func (a *agent) closeLater(f func()) { a.closers = append(a.closers, f) }

func (a *agent) close() {
	for i := len(a.closers) - 1; i >= 0; i-- {
		a.closers[i]()
	}
}

func (a *agent) lockStateDir(ctx context.Context) error {
	if err := os.MkdirAll(a.StateDir, 0o700); err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	lock, err := claim.StateDir(ctx, a.StateDir)
	if err != nil {
		return err
	}
	a.closeLater(func() { lock.Close() })
	return nil
}

// openJournal opens the journal of the files that must survive a loss of power.
func (a *agent) openJournal(context.Context) error {
	journal, err := durable.OpenJournal(a.StateDir,
		"bundles/*/record.json", "bundles/*/desired.json", "bundles/*/"+network.RecordFile,
		"status/*.json", "images/images/*/*.json", "images/refs/*.json")
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// An agent that ended here could not stop what fills the disk.
		a.Log.Error("what changes from now on may not survive a loss of power", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	a.journal = journal
	a.closeLater(func() {
		if err := journal.Close(); err != nil {
			a.Log.Error("the last changes may not survive a loss of power", "error", err)
		}
	})
	return nil
}

func (a *agent) claimRunDir(ctx context.Context) error {
	a.client = protocol.NewClient(protocol.Socket(a.RunDir))
	var err error
	if a.runDir, err = claim.NewRunDir(ctx, a.RunDir, a.StateDir, a.client); err != nil {
		return err
	}
	a.closeLater(a.runDir.Close)
	return nil
}

// openBundles opens the directory of bundles, unless its containers come from another source, and
// writes the settings that other commands and the next agent need.
func (a *agent) openBundles(context.Context) error {
	var err error
	if a.bundles, err = bundle.Open(filepath.Join(a.StateDir, "bundles"),
		bundle.WithJournal(a.journal)); err != nil {
		return err
	}
	settings := claim.Settings{
		Manifests: a.Manifests, Node: a.NodeName, RunDir: a.RunDir, LogDir: a.LogDir, Berth: a.Berth,
		Handlers: a.Handlers, RegistryConfig: a.RegistryConfig, RegistryHosts: a.RegistryHosts,
		PinnedImages: a.PinnedImages,
	}
	if err := settings.CheckSource(a.StateDir, a.bundles); err != nil {
		return err
	}
	if err := settings.Write(a.StateDir); err != nil {
		// They are for other commands. An agent that ended here on a full disk could not stop what
		// fills it.
		a.Log.Error("cannot write down the flags of the agent", "error", err)
	}
	return nil
}

func (a *agent) openImages(context.Context) error {
	pulling := &image.PullProgress{}
	store, err := image.Open(filepath.Join(a.StateDir, "images"), image.WithJournal(a.journal),
		image.WithKeyring(RegistryFiles(a.RegistryConfig, a.Manifests != "", a.Log)), image.WithHosts(hostsdir.Dir(a.RegistryHosts)),
		image.WithPinned(a.PinnedImages),
		image.WithProgress(func(p image.Progress) {
			pulling.Note(p)
			if len(p.Skipped) > 0 {
				a.Log.Debug("extended attributes of a layer were passed over", "image", p.Ref, "layer", p.Layer,
					"attributes", p.Skipped)
			}
		}))
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	a.images = imageStore{store: store, pulling: pulling, full: make(chan struct{}, 1)}
	a.closeLater(func() {
		if err := store.Close(); err != nil {
			a.Log.Warn("close the image store", "error", err)
		}
	})
	return nil
}

func (a *agent) startSupervisor(ctx context.Context) error {
	a.keeper = supervision.New(supervision.Config{
		Berth: a.Berth, RunDir: a.RunDir, CgroupParent: a.CgroupParent, Handlers: a.Handlers,
		Client: a.client,
		Claim:  a.runDir.Assert, Version: a.Version, Log: a.Log,
	})
	return a.keeper.Start(ctx)
}

func (a *agent) readFacts(context.Context) error {
	var err error
	if a.facts, err = registration.Read("/", a.Version); err != nil {
		return fmt.Errorf("look at the node: %w", err)
	}
	return nil
}

func (a *agent) createSyncer(context.Context) error {
	if err := os.MkdirAll(a.LogDir, 0o700); err != nil {
		return fmt.Errorf("--log-dir: %w", err)
	}
	claims, alone := a.source.(lifecycle.Claims)
	if alone {
		a.volumes = volume.Open(a.StateDir)
	}
	tokens, _ := a.source.(lifecycle.Tokens)
	networks := a.networks()
	a.network = networks
	if why := networks.Missing(); why != nil {
		a.Log.Info("containers have loopback alone, but for those with hostNetwork", "why", why)
	}
	users, err := userns.Open(filepath.Join(a.StateDir, "userns"), a.FirstUser, a.LastUser)
	if err != nil {
		return fmt.Errorf("--user-namespace-ids: %w", err)
	}
	a.syncer, err = reconcile.New(reconcile.Config{
		Source: a.source, Objects: a.source, Tokens: tokens,
		Images: a.images, Pulled: a.images.pulling.Text,
		Claims: claims, Volumes: a.volumes, Supervisor: a.keeper.Client(),
		Bundles: a.bundles,
		LogDir:  a.LogDir, CgroupParent: a.CgroupParent, Handlers: a.keeper.HandlerNames, Log: a.Log,
		KeepLogs: a.RemovedLogs,
		Node:     lifecycle.Node{Addresses: registration.Addresses, Capacity: a.facts.Capacity},
		Networks: networks, ClusterDNS: a.ClusterDNS, SeccompRoot: a.SeccompRoot, CDIDirs: a.CDIDirs,
		Users: users, OwnUsers: !a.HostUsers, Levels: selinux.Open(filepath.Join(a.StateDir, "selinux")),
	})
	return err
}
