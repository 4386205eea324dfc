// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-run/berth/api/v1alpha1"
)

// handlerStage checks that the node has the handler that is to run the container.
type handlerStage struct{ names func() []string }

func (handlerStage) Name() string { return "handler" }
func (handlerStage) Scope() Scope { return PerRun }

func (s handlerStage) Ensure(_ context.Context, c *Container) error {
	have := s.names()
	if slices.Contains(have, handlerOf(c)) {
		return nil
	}
	err := fmt.Errorf("handler: found %q, which this node does not have; allowed: %s",
		handlerOf(c), strings.Join(have, ", "))
	return &StageError{Reason: v1alpha1.ReasonHandlerNotFound, Err: err}
}

func (handlerStage) Release(context.Context, *Container) error { return nil }

// handlerOf returns the name of the handler that runs the container.
func handlerOf(c *Container) string {
	if c.Bundle.Spec.Handler == "" {
		return v1alpha1.HandlerNative
	}
	return c.Bundle.Spec.Handler
}
