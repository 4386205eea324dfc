// SPDX-License-Identifier: Apache-2.0

// Package standalone looks at an agent that works alone from outside of it, as the commands beside
// the agent do: it reads what the agent has written about its Containers and manifests, asks it to
// stop, start, restart or remove Containers, and executes commands in them. It lists and
// removes the images of the node, also if its agent belongs to a cluster. It goes through files of
// the state directory and through the runtimes, so that it needs neither Kubernetes nor an agent
// that answers.
package standalone
