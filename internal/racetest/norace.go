// SPDX-License-Identifier: Apache-2.0

//go:build !race

package racetest

// Enabled reports whether the test is built with the race detector.
const Enabled = false
