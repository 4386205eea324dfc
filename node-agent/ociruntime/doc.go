// SPDX-License-Identifier: Apache-2.0

// Package ociruntime is Berth's own OCI runtime: it makes, starts, signals and removes the
// containers that runtime-spec bundles describe.
//
// A container's life is four calls: Create plans it (package plan), launches it (package launch)
// and records it below the root directory; Start lets it become its program; Kill and Delete end
// it. Everything that has to outlive the calling process is in that record, so that another
// process, such as the command line's next call, goes on from there:
//
//	<root>/<id>/state.json   the record, replaced atomically
//	<root>/<id>/exec.fifo    what a created container waits on; gone once it is started
//	<root>/<id>/result.fifo  where a started container says that its program could not be executed
//
// The package knows nothing of Kubernetes, images, logs or restarts.
package ociruntime
