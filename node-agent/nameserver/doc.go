// SPDX-License-Identifier: Apache-2.0

// Package nameserver answers the DNS questions of containers about each other.
//
// A Server listens on an address of each network that the node has, such as a bridge's. A
// container of the network gets the addresses of the others by their names, and the answers of the
// node's own DNS servers to all else. Nobody else gets an answer.
//
//	server := nameserver.New(upstreams, log)
//	faults := server.Put("default_web_1a2b3c4d", nameserver.Host{Name: "web", ...})
//	address, ok := server.Address("default_web_1a2b3c4d") // for its resolv.conf
//	server.Remove("default_web_1a2b3c4d")
//	server.Close()
//
// The package must not know how a container is connected.
package nameserver
