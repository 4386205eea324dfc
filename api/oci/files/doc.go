// SPDX-License-Identifier: Apache-2.0

// Package files computes the files of volumes of the kinds configMap, secret, downwardAPI and
// projected, by the rules of a Pod.
//
//	tree, err := files.Compute("volumes[0]", &volume, values) // values knows objects and fields
//
// The compiler uses it to check paths, and the agent computes the files of a container on its node.
// The package is pure: Values gives it what it does not know.
package files
