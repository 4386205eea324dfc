// SPDX-License-Identifier: Apache-2.0

package supervision

import (
	"context"
	"time"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// Client is a client of the supervisor that starts a container once the agent holds its
// descriptors. Else its exit code and output would be lost if it ended after the supervisor was
// killed.
type Client struct {
	*protocol.Client
	keeper *Keeper
}

// Client returns a client of the supervisor.
func (k *Keeper) Client() Client { return Client{k.config.Client, k} }

// heldTimeout is the time for which a start waits: a supervisor that is older than this agent
// passes nothing on.
const heldTimeout = 5 * time.Second

// Start starts a container; see protocol.Client.
func (c Client) Start(ctx context.Context, id string) (protocol.Status, error) {
	short, cancel := context.WithTimeout(ctx, heldTimeout)
	defer cancel()
	if !c.keeper.passesNothing() {
		if err := c.keeper.holder.Await(short, id); err != nil && ctx.Err() == nil {
			c.keeper.config.Log.Warn(
				"the supervisor does not pass on the descriptors of a container; it is started all the same",
				"id", id)
		}
	}
	return c.Client.Start(ctx, id)
}
