// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/heap"
	"github.com/berth-run/berth/node-agent/agent"
	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/network"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
	"github.com/berth-run/berth/node-agent/userns"
)

// options are the flags.
type options struct {
	agent.Options
	bridgeSubnet        []string
	clusterDNS          []string
	logFormat, logLevel string
	users               string
}

// check returns the faults of the flags, and makes paths absolute, before anything is started.
func (o *options) check() error {
	if o.Manifests != "" && o.Kubeconfig != "" {
		return errors.New(
			"found both --manifests and --kubeconfig; allowed: one of them, as an agent works alone or for a cluster")
	}
	if o.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--node-name: found nothing, and the host's name cannot be had: %w", err)
		}
		o.NodeName = strings.ToLower(name)
	}
	if msgs := validation.IsDNS1123Subdomain(o.NodeName); len(msgs) > 0 {
		return fmt.Errorf("--node-name: found %q; allowed: %s", o.NodeName, strings.Join(msgs, "; "))
	}
	if !path.IsAbs(o.CgroupParent) || path.Clean(o.CgroupParent) != o.CgroupParent ||
		o.CgroupParent == "/" {
		return fmt.Errorf("--cgroup-parent: found %q; allowed: an absolute path below /, such as /berth",
			o.CgroupParent)
	}
	for _, dir := range []struct {
		flag  string
		value *string
	}{{"--state-dir", &o.StateDir}, {"--run-dir", &o.RunDir}, {"--log-dir", &o.LogDir}} {
		if *dir.value == "" {
			return fmt.Errorf("%s: found nothing; allowed: a directory", dir.flag)
		}
		abs, err := filepath.Abs(*dir.value)
		if err != nil {
			return fmt.Errorf("%s: %w", dir.flag, err)
		}
		*dir.value = abs
	}
	if err := o.checkUsers(); err != nil {
		return err
	}
	if !path.IsAbs(o.SeccompRoot) {
		return fmt.Errorf("--seccomp-profile-root: found %q; allowed: an absolute path", o.SeccompRoot)
	}
	o.CDIDirs = slices.DeleteFunc(o.CDIDirs, func(dir string) bool { return dir == "" })
	for _, dir := range o.CDIDirs {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("--cdi-spec-dir: found %q; allowed: absolute paths", dir)
		}
	}
	if err := protocol.CheckSocket(protocol.Socket(o.RunDir)); err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	if o.RemovedLogs.Count < 0 {
		return fmt.Errorf("--removed-logs-count: found %d; allowed: 0 or more", o.RemovedLogs.Count)
	}
	if o.RemovedLogs.Age < 0 {
		return fmt.Errorf("--removed-logs-age: found %s; allowed: 0 for no limit, or more",
			o.RemovedLogs.Age)
	}
	if err := o.checkImages(); err != nil {
		return err
	}
	if err := o.checkNetwork(); err != nil {
		return err
	}
	if o.Berth == "" {
		found, err := findBerth()
		if err != nil {
			return err
		}
		o.Berth = found
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf(
			"found user id %d; allowed: 0, since namespaces, mounts and cgroups of the host are made",
			os.Geteuid())
	}
	return nil
}

// imageFlags adds the flags about the removal of images.
func (o *options) imageFlags(f *pflag.FlagSet) {
	f.IntVar(&o.ImageGC.High, "image-gc-high-threshold", 85,
		"`percent` of the disk of images in use from which on unused images are removed; 100 for never")
	f.IntVar(&o.ImageGC.Low, "image-gc-low-threshold", 80,
		"`percent` of the disk in use at which the removal of images ends")
	f.DurationVar(&o.ImageGC.MinAge, "image-gc-minimum-age", 2*time.Minute,
		"`time` since its pull for which an unused image stays")
	f.DurationVar(&o.ImageGC.MaxAge, "image-gc-maximum-age", 0,
		"`time` without a use after which an image is removed, however full the disk is; 0 for no limit")
	f.DurationVar(&o.ImageGC.Period, "image-gc-period", 5*time.Minute,
		"`time` between two looks at the disk of images")
	f.StringArrayVar(&o.PinnedImages, "pinned-image", nil,
		"`reference` of an image that garbage collection and prune keep; may be given several times")
}

// isolationFlags adds the flags about what containers have of the node, and what they do not.
func (o *options) isolationFlags(f *pflag.FlagSet) {
	f.StringVar(&o.SeccompRoot, "seccomp-profile-root", "/var/lib/kubelet/seccomp",
		"`directory` of seccomp profiles, for containers with seccompProfile Localhost")
	f.StringSliceVar(&o.CDIDirs, "cdi-spec-dir", []string{"/etc/cdi", "/var/run/cdi"},
		"`directories` of CDI specs, for containers with devices by cdi; a later one counts over an earlier one; empty, none")
	f.StringVar(&o.users, "user-namespace-ids", "1879048192-2147352575",
		"`range` of user and group ids for containers with hostUsers: false, 65536 for each")
	f.BoolVar(&o.HostUsers, "host-users-default", true,
		"hostUsers of containers that do not say: with =false each has a user namespace from its next creation on")
}

// checkImages returns the faults of the flags about images, and makes paths absolute.
func (o *options) checkImages() error {
	for _, p := range []*string{&o.RegistryConfig, &o.RegistryHosts} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("--registry-config, --registry-hosts-dir: %w", err)
		}
		*p = abs
	}
	if err := o.ImageGC.Check(); err != nil {
		return fmt.Errorf("--image-gc-*: %w", err)
	}
	if o.ImageGC.Period <= 0 {
		return fmt.Errorf("--image-gc-period: found %s; allowed: more than 0", o.ImageGC.Period)
	}
	if err := image.CheckPinned(o.PinnedImages); err != nil {
		return fmt.Errorf("--pinned-image: %w", err)
	}
	return nil
}

// checkUsers returns the faults of --user-namespace-ids.
func (o *options) checkUsers() error {
	first, last, _ := strings.Cut(o.users, "-")
	from, err := strconv.ParseUint(first, 10, 32)
	to, lastErr := strconv.ParseUint(last, 10, 32)
	if err != nil || lastErr != nil {
		return fmt.Errorf("--user-namespace-ids: found %q; allowed: FIRST-LAST, such as 65536-1048575",
			o.users)
	}
	o.FirstUser, o.LastUser = uint32(from), uint32(to)
	if _, err := userns.Open("", o.FirstUser, o.LastUser); err != nil {
		return fmt.Errorf("--user-namespace-ids: %w", err)
	}
	return nil
}

// checkNetwork returns the faults of the flags of the network.
func (o *options) checkNetwork() error {
	o.Network.BinDirs = slices.DeleteFunc(o.Network.BinDirs, func(dir string) bool {
		return dir == ""
	})
	for _, dir := range append([]string{o.Network.ConfDir}, o.Network.BinDirs...) {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("--cni-bin-dir, --cni-conf-dir: found %q; allowed: absolute paths", dir)
		}
	}
	if len(o.bridgeSubnet) > 0 && o.Manifests == "" {
		return errors.New(
			"--bridge-subnet: found a subnet; allowed: none without --manifests, as the network of a cluster is in --cni-conf-dir")
	}
	o.Network.Subnets = nil
	for _, text := range o.bridgeSubnet {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("--bridge-subnet: found %q; allowed: a subnet such as 10.89.0.0/16: %w",
				text, err)
		}
		o.Network.Subnets = append(o.Network.Subnets, p)
	}
	if err := network.CheckSubnets(o.Network.Subnets); err != nil {
		return fmt.Errorf("--bridge-subnet: %w", err)
	}
	return o.checkClusterDNS()
}

// checkClusterDNS returns the faults of the flags about names of the cluster.
func (o *options) checkClusterDNS() error {
	o.ClusterDNS.Servers = nil
	for _, text := range o.clusterDNS {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return fmt.Errorf("--cluster-dns: found %q; allowed: addresses such as 10.96.0.10", text)
		}
		o.ClusterDNS.Servers = append(o.ClusterDNS.Servers, a)
	}
	if n := len(o.ClusterDNS.Servers); n > v1alpha1.MaxNameservers {
		return fmt.Errorf("--cluster-dns: found %d addresses; allowed: at most %d", n,
			v1alpha1.MaxNameservers)
	}
	o.ClusterDNS.Domain = strings.TrimSuffix(o.ClusterDNS.Domain, ".")
	if d := o.ClusterDNS.Domain; d != "" {
		if msgs := validation.IsDNS1123Subdomain(d); len(msgs) > 0 {
			return fmt.Errorf("--cluster-domain: found %q; allowed: %s", d, strings.Join(msgs, "; "))
		}
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
		return "", fmt.Errorf(
			"--berth-binary: found no program berth beside this one or in PATH; allowed: its path: %w", err)
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
	o.Rescan, o.Log = hangup, log
	return agent.Run(ctx, o.Options)
}
