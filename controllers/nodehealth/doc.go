// SPDX-License-Identifier: Apache-2.0

// Package nodehealth watches over the heartbeats of the node agents: where the Lease of a NodeAgent
// is not renewed for a grace period, the NodeAgent's condition Ready turns Unknown, and back when
// it is renewed again.
//
// It also gives each node a namespace and its agent an identity (namespace.go), by which the agent
// reads what is its node's and nothing else.
//
// That is all it says of a node. What it means for the Containers there is controllers/container's
// to know, and nothing is placed elsewhere: an agent that is not heard may still be running all it
// was given (the network is cut, the controller was too slow), and a second copy of a container
// beside the first can destroy what both write to. Containers are to be placed again only once the
// old node is surely fenced, which is its own piece of work.
package nodehealth
