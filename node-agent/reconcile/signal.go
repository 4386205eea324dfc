// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// signalOutdated tells a running program that objects have changed. Its files come first (Refresh).
func signalOutdated(in Input) (Decision, bool) {
	return Decision{
		Verb: Signal,
		Why:  "a ConfigMap or Secret has changed of which the program wants to be told",
	}, in.Untold != "" && in.alive() && in.Actual.State == protocol.Running
}

// signal sends the signal of a change. What is kept before it differs from every digest, so that an
// agent that is killed in between sends the signal again, also if the change was taken back since.
func (s *Syncer) signal(ctx context.Context, in *Input) error {
	dir := s.Bundles.Dir(in.Record.ID)
	if err := dir.KeepObjectsDigest("a signal is being sent"); err != nil {
		return err
	}
	name := in.Desired.Spec.ConfigChangeSignal
	if err := ignoreGone(s.Supervisor.Kill(ctx, in.Record.ID, name, false)); err != nil {
		return err
	}
	return dir.KeepObjectsDigest(in.Untold)
}
