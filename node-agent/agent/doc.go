// SPDX-License-Identifier: Apache-2.0

// Package agent is the agent of a node, composed of the packages beside it: a source of bundles,
// the image store, a supervisor that is kept running, and the syncer that makes the node's
// containers what the bundles say. Its caller gives it settings and a context.
//
// Errors name the flags of berth-agent, which are what a user changes.
package agent
