// SPDX-License-Identifier: Apache-2.0

// Package reconcile brings the containers of a node to the state that their bundles ask for.
//
// Each bundle has a worker, which is serial in itself and independent of all others. A worker
// gathers (what is desired, what it has written down, what the supervisor says), decides by a chain
// of pure functions (decide.go), does one thing, and begins again until there is nothing to do.
// Gathering only reads. What creates a container and takes it back is package lifecycle.
//
//	gather -> decide -> act -> report -> gather …
//
// What the agent must not forget stands in two files of the bundle's directory, record.json and
// desired.json, written before and after each step, so that the agent may be killed between any
// two: the next one finds its containers through these files and the supervisor, and goes on
// without touching what runs. While the container was made from another bundle than desired.json
// holds, running.json holds that (update.go).
//
// Only a start must be on disk before it is begun. What has happened, and what stops or removes a
// container, is noted in memory where the disk is full, and written at a later look (act.go, note):
// it is what makes room.
//
// The package must not know where bundles come from (package source), how images are fetched and
// containers are created (package lifecycle), nor how processes are made: it asks a Supervisor.
package reconcile
