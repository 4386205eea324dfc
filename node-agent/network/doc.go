// SPDX-License-Identifier: Apache-2.0

// Package network gives containers their networks.
//
// A container that is not in the node's network has a network namespace of its own, pinned by a
// bind mount in a directory that does not outlive a boot:
//
//	namespaces := network.Namespaces{Dir: "/run/berth/netns"}
//	path, err := namespaces.Ensure("default_web_1a2b3c4d")
//	err = namespaces.Remove("default_web_1a2b3c4d")
//
// The namespace exists before the container's first process and after its last one, so that a
// restart keeps it with its devices and addresses.
//
// The package must not know how a container is created, when it is started again, nor the API.
package network
