// SPDX-License-Identifier: Apache-2.0

// Package registration describes the agent's machine to the cluster: a NodeAgent with what the
// machine is and has, and a Lease that is renewed as long as the agent lives.
//
// The package must not know containers: how many there are, and what they have asked for, it is
// given.
package registration
