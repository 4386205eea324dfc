// SPDX-License-Identifier: Apache-2.0

// Package crilog prints container logs: files in the CRI format ("TIME STREAM P|F TEXT"), which the
// supervisor writes and rotates to PATH.1, PATH.2 and so on.
package crilog
