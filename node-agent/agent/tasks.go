// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// task is a part of the agent that runs until its context ends, or fails.
type task func(context.Context) error

// tasks returns the parts of the agent that run at the same time, by their names in errors.
func (a *agent) tasks() (map[string]task, error) {
	tasks := map[string]task{
		"sync": a.syncer.Run, "supervisor": a.keeper.Run, "images": a.collectImages,
		"network": a.followNetwork,
	}
	if s, ok := a.source.(rescanner); ok {
		tasks["hangup"] = func(ctx context.Context) error { return a.rescan(ctx, s) }
	}
	if a.volumes != nil {
		tasks["volumes"] = a.emptyTrash
	}
	if a.cluster != nil {
		register, err := a.registration()
		if err != nil {
			return nil, err
		}
		tasks["node"] = register
	}
	if a.HealthAddress != "" {
		listener, err := net.Listen("tcp", a.HealthAddress)
		if err != nil {
			return nil, fmt.Errorf("--health-probe-bind-address: %w", err)
		}
		tasks["health"] = func(ctx context.Context) error {
			return serveHealth(ctx, listener, map[string]check{
				"readyz": a.ready, "networkz": a.networkReady,
			})
		}
	}
	return tasks, nil
}

// runAll runs tasks until ctx ends. None of them ends by itself without a fault, so the end of one
// ends the others.
func runAll(ctx context.Context, tasks map[string]task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, len(tasks))
	for name, run := range tasks {
		go func() {
			err := run(ctx)
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			cancel(err)
			ended <- err
		}()
	}
	var errs []error
	for range tasks {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// rescanner is a source that can be told to look again.
type rescanner interface{ Rescan() }

// rescan has the source look again whenever a.Rescan receives.
func (a *agent) rescan(ctx context.Context, s rescanner) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.Rescan:
			a.Log.Info("SIGHUP: the manifests are read again")
			s.Rescan()
		}
	}
}

// emptyTrash removes the data of volumes whose removal was interrupted. The end of the agent does
// not wait for that.
func (a *agent) emptyTrash(ctx context.Context) error {
	go func() {
		if err := a.volumes.EmptyTrash(); err != nil {
			a.Log.Error("data of removed volumes are left", "error", err)
		}
	}()
	<-ctx.Done()
	return nil
}

// ready returns why the agent cannot run containers, or nil if it can.
func (a *agent) ready(ctx context.Context) error {
	if !a.source.Synced() {
		return errors.New("the source of bundles has not been read yet")
	}
	if err := a.syncer.Following(); err != nil {
		return err
	}
	if w, ok := a.source.(interface{ Watching() error }); ok {
		if err := w.Watching(); err != nil {
			return err
		}
	}
	_, err := a.client.Ping(ctx)
	return err
}
