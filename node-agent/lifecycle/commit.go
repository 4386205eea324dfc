// SPDX-License-Identifier: Apache-2.0

package lifecycle

import "context"

// commitStage writes down that the program may run from now on, once the image is there. Flushing
// that goes on while the container is made; startStage waits for it.
type commitStage struct{}

func (commitStage) Name() string { return "commit" }
func (commitStage) Scope() Scope { return PerRun }

func (commitStage) Ensure(_ context.Context, c *Container) error { return ownFiles(c.Commit()) }

// Release does nothing: whoever releases a container writes down why.
func (commitStage) Release(context.Context, *Container) error { return nil }
