// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-run/berth/node-agent/registration"
	"github.com/berth-run/berth/node-agent/source/folder"
	"github.com/berth-run/berth/node-agent/source/kubernetes"
)

// openSource opens where bundles come from: the manifests, or the cluster.
func (a *agent) openSource(context.Context) error {
	if a.Manifests == "" {
		return a.openCluster()
	}
	src, err := folder.New(folder.Options{
		Dir: a.Manifests, StateDir: a.StateDir, Journal: a.journal, NewBoot: a.journal.NewBoot(),
		NodeName: a.NodeName, NodeLabels: registration.Labels(a.NodeName), Log: a.Log,
	})
	if err != nil {
		return err
	}
	a.source = src
	return nil
}

// openCluster takes bundles from the API server.
func (a *agent) openCluster() error {
	config, err := a.clusterConfig()
	if err != nil {
		return err
	}
	config.UserAgent = "berth-agent/" + a.Version
	// One agent's share of an API server: some 50 status writes a second while many containers
	// start.
	config.QPS, config.Burst = 50, 200
	if config, err = registration.Identify(config, a.NodeName); err != nil {
		return err
	}
	src, err := kubernetes.New(kubernetes.Options{Config: config, NodeName: a.NodeName, Log: a.Log})
	if err != nil {
		return err
	}
	a.cluster, a.source = config, src
	return nil
}

func (a *agent) clusterConfig() (*rest.Config, error) {
	if a.Kubeconfig != "" {
		return clientcmd.BuildConfigFromFlags("", a.Kubeconfig)
	}
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New(
			"found neither --manifests nor --kubeconfig, outside of a pod; allowed: one of them")
	}
	return config, err
}

// registration returns the task that keeps the NodeAgent object of the cluster and its heartbeat.
func (a *agent) registration() (task, error) {
	node, err := registration.New(registration.Options{
		Config: a.cluster, Name: a.NodeName, Facts: a.facts, Handlers: a.keeper.Handlers, Log: a.Log,
		Load: func(ctx context.Context) registration.Load {
			load := registration.LoadOf(a.source.List(), a.ready(ctx))
			if network, known := a.network.Readiness(); known {
				load.Network, load.NetworkErr = network.Network, network.Err
			}
			return load
		},
	})
	if err != nil {
		return nil, err
	}
	return node.Run, nil
}
