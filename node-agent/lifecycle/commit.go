// SPDX-License-Identifier: Apache-2.0

package lifecycle

import "context"

// commitStage writes down that the program may run from now on, once the image is there. Flushing
// that goes on while the container is made; startStage waits for it. From then on the record keeps
// the image on the node.
type commitStage struct{ pulls *Pulls }

func (commitStage) Name() string { return "commit" }
func (commitStage) Scope() Scope { return PerRun }

func (s commitStage) Ensure(_ context.Context, c *Container) error {
	if err := c.Commit(); err != nil {
		return ownFiles(err)
	}
	s.pulls.leave(c.ID)
	return nil
}

// Release does nothing: whoever releases a container writes down why.
func (commitStage) Release(context.Context, *Container) error { return nil }
