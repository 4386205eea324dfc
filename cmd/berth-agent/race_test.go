// SPDX-License-Identifier: Apache-2.0

//go:build race

package main

// The agent is built with the race detector where its tests are.
const raceDetector = true
