// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/registration"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/source/kubernetes"
)

// clusterSource takes bundles from the API server, and registers the node there.
func (o *options) clusterSource(log *slog.Logger) (source.Source, register, error) {
	var config *rest.Config
	var err error
	if o.kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	} else if config, err = rest.InClusterConfig(); errors.Is(err, rest.ErrNotInCluster) {
		err = errors.New("found neither --manifests nor --kubeconfig, outside of a pod; allowed: one of them")
	}
	if err != nil {
		return nil, nil, err
	}
	config.UserAgent = "berth-agent/" + buildVersion()
	// One agent's share of an API server: some 50 status writes a second while many containers
	// start.
	config.QPS, config.Burst = 50, 200
	if config, err = registration.Identify(config, o.nodeName); err != nil {
		return nil, nil, err
	}
	src, err := kubernetes.New(kubernetes.Options{Config: config, NodeName: o.nodeName, Log: log})
	if err != nil {
		return nil, nil, err
	}
	return src, func(handlers func() []v1alpha1.NodeHandler, load func(context.Context) registration.Load) (func(context.Context) error, error) {
		facts, err := registration.Read("/", buildVersion())
		if err != nil {
			return nil, fmt.Errorf("facts of this node: %w", err)
		}
		agent, err := registration.New(registration.Options{Config: config, Name: o.nodeName, Facts: facts, Handlers: handlers, Log: log, Load: load})
		if err != nil {
			return nil, err
		}
		return agent.Run, nil
	}, nil
}
