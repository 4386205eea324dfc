// SPDX-License-Identifier: Apache-2.0

// Package compile turns a Container into the runtime-spec document that its
// node will run, and says everything that stands in the way at once.
//
//	bundle, faults := compile.Bundle(container)
//	if len(faults) > 0 {
//		return faults.ToAggregate() // spec.volumes[0].emptyDir.mode: Forbidden: ...
//	}
//	bundle.NodeName, bundle.Handler = node, handler
//
// Every field of a Container is honoured or refused with its path; a test
// walks the Go types to hold that. What the user leaves open is as containerd's
// CRI plugin and the kubelet give it to a container of a Pod; docs/fields.md has
// the table of what reaches the kernel.
//
// The functions are pure: no file, no clock, no environment is read, so that
// the controller, the standalone agent and a test on any machine give the same
// bytes. This package must not know nodes, images or handlers. What only the
// node knows (the image's entrypoint, environment, user and working directory,
// the cgroup, the network) is merged there, under what the user said.
package compile
