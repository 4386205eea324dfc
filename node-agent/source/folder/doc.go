// SPDX-License-Identifier: Apache-2.0

// Package folder is the source of an agent that runs alone: a folder of manifests, which hold the
// very same Containers that are applied to a cluster, compiled by the same package.
//
// A file is taken whole or not at all. One that is wrong changes nothing of what an older, good
// version of it has brought about, also after the agent was started anew: the fault is logged, and
// stands in the status. A file that is removed, and a Container that is removed from a good file,
// are stopped and removed, unless the removal is more likely a mistake (missing.go). A file without
// any Container is wrong, so that an editor which empties a file before it writes removes nothing.
// A name that several files have belongs to the one that it was accepted from, or to the only one
// that says the same; otherwise all of them are refused, and what runs goes on (claim).
//
// What has been accepted, and what became of it, stands in one JSON file a Container,
// STATE/status/NAMESPACE_NAME.json: a Container with its status. Files that are wrong stand in
// STATE/manifests.json. Read and ReadFaults read both, for people's tools.
//
// A Container has a UID from its first acceptance to its removal, which stands in its status file.
// Requests of an administrator, such as to stop a container, are files in STATE/requests
// (requests.go).
//
// The package must not know how a container is run, nor any API server.
package folder
