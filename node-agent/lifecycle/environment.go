// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/environment"
)

// Node has the facts about a node that variables of its containers may refer to.
type Node struct {
	// Addresses returns the node's addresses, the one that other hosts use first.
	Addresses func() ([]netip.Addr, error)
	// Capacity has the resources that a container without limits may use.
	Capacity corev1.ResourceList
}

// environmentStage computes the variables of a container whose values only the node can find.
type environmentStage struct{ node Node }

func (environmentStage) Name() string { return "environment" }
func (environmentStage) Scope() Scope { return PerRun }

func (s environmentStage) Ensure(_ context.Context, c *Container) error {
	process := &c.Bundle.Spec.Process
	if !environment.ByNode(process) {
		return nil
	}
	vars, err := environment.Compute(process.Env, nodeValues{s.node, c})
	if err != nil {
		return fmt.Errorf("process.%w", err)
	}
	c.Environment = vars
	return nil
}

// Release does nothing: the variables are in config.json alone.
func (environmentStage) Release(context.Context, *Container) error { return nil }

// nodeValues gives the values of the variables of one container.
type nodeValues struct {
	node Node
	c    *Container
}

func (v nodeValues) Field(path string) (string, error) {
	switch path {
	case "metadata.uid":
		return string(v.c.Bundle.Owner().UID), nil
	case "spec.nodeName":
		return v.c.Bundle.Spec.NodeName, nil
	case "status.hostIP", "status.hostIPs":
		addresses, err := v.node.Addresses()
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		if path == "status.hostIP" {
			addresses = addresses[:1]
		}
		var words []string
		for _, a := range addresses {
			words = append(words, a.String())
		}
		return strings.Join(words, ","), nil
	}
	return "", fmt.Errorf("fieldRef.fieldPath: found %q; allowed: metadata.uid, spec.nodeName,"+
		" status.hostIP and status.hostIPs", path)
}

func (v nodeValues) Resource(r *corev1.ResourceFieldSelector) (string, error) {
	return environment.OfNode(r, v.node.Capacity)
}
