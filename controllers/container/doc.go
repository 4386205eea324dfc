// SPDX-License-Identifier: Apache-2.0

// Package container reconciles Containers: it compiles and validates the spec, chooses a node,
// keeps one OCIBundle for the agent of that node as it should be, and mirrors what the agent says
// of it back into the Container's status.
//
// A reconcile is: gather everything that is read into a scope, walk a list of phases (a file each:
// compile, schedule, dispatch; or finalize for one that is being deleted), and report. The status
// is computed by one pure function (status.go) from what the phases found, and written in one place
// (report.go), with the events of what has changed.
//
// There is never more than one live OCIBundle of a Container: it is in the namespace of the node
// that the Container names (bundles.go), and another node is named only when the agent of the first
// has let go of it.
//
// What a runtime-spec document says and whether it is valid are known to api/oci, which node fits
// to controllers/scheduling. Nothing here talks to an agent but through the API server.
package container
