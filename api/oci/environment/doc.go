// SPDX-License-Identifier: Apache-2.0

// Package environment computes the environment variables of a container from its fields env and
// envFrom, by the rules of a Pod.
//
//	vars, err := environment.Compute(env, envFrom, values) // values knows fields and objects
//	args := environment.ExpandAll(command, vars.Map())
//
// The compiler uses it where all values are known, and the agent where only the node can find them.
// The package is pure: Values gives it what it does not know.
package environment
