// SPDX-License-Identifier: Apache-2.0

// Package crd holds the CustomResourceDefinitions of this version, for a program that compares them
// with those of a cluster.
package crd

import "embed"

// Bases has the files berth.run_*.yaml below "bases".
//
//go:embed bases/*.yaml
var Bases embed.FS
