// SPDX-License-Identifier: Apache-2.0

// Package lifecycle prepares, creates and starts a container, and takes all of that back.
//
// Each concern of a container's life is a Stage in a file of its own; Stages returns them in their
// order. Adding a concern takes that file and one line in Stages.
//
//	stages := lifecycle.Stages(config)
//	err := stages.Ensure(ctx, c)                      // forwards
//	err = stages.Release(ctx, c, lifecycle.PerRun)    // backwards
//
// A start that failed, a container that has ended and one that is removed are all released, from
// what is stored: the container's record, the supervisor and the disk.
//
// The package must not know what is decided about a container, when it is started again, nor how
// its record is written: that is package reconcile.
package lifecycle
