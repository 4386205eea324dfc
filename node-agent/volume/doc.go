// SPDX-License-Identifier: Apache-2.0

// Package volume keeps the volumes of PersistentVolumeClaims on a host without a cluster: a
// directory each, STATE/volumes/NAMESPACE/NAME, which outlives the containers that use it and the
// claim.
//
//	store := volume.Open(stateDir)
//	paths, err := store.Use(ctx, user, claims) // the agent, before a start
//	err = store.Remove(ctx, id, check)         // an administrator
//
// Nothing but Store.Remove removes a volume. The users of volumes are written down in the
// directories of the bundles, so that a command beside the agent, or without one, knows them. A
// lock keeps Use and Remove apart. Remove renames the volume first, so that it is there whole or
// not at all, whenever a process is killed; EmptyTrash finishes what a killed process began.
//
// The package must not know manifests, nor how a directory is mounted.
package volume
