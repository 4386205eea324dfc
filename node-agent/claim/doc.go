// SPDX-License-Identifier: Apache-2.0

// Package claim marks the directories of an agent as its own: a lock of the state directory and of
// the run directory, the owner of the run directory, and agent.json in the state directory, which
// says where the agent's containers come from. An agent removes the containers that nobody wants
// any more, so one that worked on the directories of another would remove that one's.
//
// Errors name the flags of berth-agent, which are what a user changes.
package claim
