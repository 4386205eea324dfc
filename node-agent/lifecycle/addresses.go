// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// addressesStage computes the variables anew of a container that refers to its own addresses, which
// networkStage finds out, and writes them into the document.
type addressesStage struct {
	environment environmentStage
	document    documentStage
}

func (addressesStage) Name() string { return "addresses" }
func (addressesStage) Scope() Scope { return PerRun }

func (s addressesStage) Ensure(ctx context.Context, c *Container) error {
	if !slices.ContainsFunc(c.Bundle.Spec.Process.Env, isAddress) {
		return nil
	}
	if err := s.environment.Ensure(ctx, c); err != nil {
		return err
	}
	anew, err := s.document.merged(c)
	if err != nil {
		return err
	}
	c.Spec.Process.Env, c.Spec.Process.Args = anew.Process.Env, anew.Process.Args
	return nil
}

// Release does nothing: the variables are in config.json alone.
func (addressesStage) Release(context.Context, *Container) error { return nil }

// isAddress reports whether a variable is an address of its container.
func isAddress(e corev1.EnvVar) bool {
	if e.ValueFrom == nil || e.ValueFrom.FieldRef == nil {
		return false
	}
	return isAddressPath(e.ValueFrom.FieldRef.FieldPath)
}

func isAddressPath(path string) bool { return path == "status.podIP" || path == "status.podIPs" }

// ownNetwork reports whether a container has a network namespace of its own.
func ownNetwork(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
}
