// SPDX-License-Identifier: Apache-2.0

// Package network connects containers to the node's network.
//
// A container that is not in the node's own network has a network namespace, pinned by a bind mount
// in a directory that does not outlive a boot. CNI plugins connect that to a network of the node.
//
//	namespaces := network.Namespaces{Dir: "/run/berth/netns"}
//	networks := network.New(&network.Networks{Namespaces: namespaces, ...})
//	path, err := networks.Attach(ctx, "default_web_1a2b3c4d", dir, network.Wanted{})
//	addresses, err := network.Addresses(dir)
//	err = networks.Detach(ctx, "default_web_1a2b3c4d", dir)
//
// The namespace exists before the container's first process and after its last one, so that a
// restart keeps it with its devices and addresses.
//
// The package must not know how a container is created, when it is started again, nor the API.
package network
