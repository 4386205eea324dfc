// SPDX-License-Identifier: Apache-2.0

package handler

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime"
)

// Native runs containers with node-agent/ociruntime, in this process: the container's first process
// is its child from the start.
type Native struct {
	Runtime *ociruntime.Runtime
}

var _ Handler = Native{}

// NewNative returns the native handler with its state below root.
func NewNative(root string, options ...ociruntime.Option) (Native, error) {
	r, err := ociruntime.New(root, options...)
	return Native{r}, err
}

// Create creates the container as a child of this process.
func (n Native) Create(ctx context.Context, id, bundle string, stdio Stdio) (int, error) {
	st, err := n.Runtime.Create(ctx, id, ociruntime.CreateOptions{
		Bundle: bundle, Stdin: stdio.Stdin,
		Stdout: stdio.Stdout, Stderr: stdio.Stderr,
	})
	if err != nil {
		return 0, named("create", id, err)
	}
	return st.PID, nil
}

// Start lets the program run.
func (n Native) Start(ctx context.Context, id string) error {
	return named("start", id, n.Runtime.Start(ctx, id))
}

// State returns the container's state.
func (n Native) State(ctx context.Context, id string) (*specs.State, error) {
	st, err := n.Runtime.State(ctx, id)
	if err != nil {
		return nil, named("state", id, err)
	}
	return &specs.State{
		Version: st.OCIVersion, ID: st.ID, Status: st.Status, Pid: st.PID, Bundle: st.Bundle,
		Annotations: st.Annotations,
	}, nil
}

// Kill sends a signal.
func (n Native) Kill(ctx context.Context, id string, sig unix.Signal, all bool) error {
	return named("kill", id, n.Runtime.Kill(ctx, id, sig, all))
}

// Update changes limits. The runtime itself knows the old ones.
func (n Native) Update(ctx context.Context, id string, to, _ *specs.LinuxResources) error {
	return named("update", id, n.Runtime.Update(ctx, id, ociruntime.Update{Resources: to}))
}

// Delete removes the container.
func (n Native) Delete(ctx context.Context, id string, force bool) error {
	return named("delete", id, n.Runtime.Delete(ctx, id, force))
}

// Features returns the features of the native runtime.
func (n Native) Features(context.Context) (*features.Features, error) {
	return ociruntime.Features(), nil
}

// named adds the call and the container to an error; the runtime's own errors leave that to its
// callers.
func named(call, id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", call, id, err)
}
