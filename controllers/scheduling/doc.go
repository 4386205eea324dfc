// SPDX-License-Identifier: Apache-2.0

// Package scheduling chooses the node of a Container: which nodes fit, which of these has the most
// room, and what is said where none fits.
//
// Choose and Named are pure functions of a Request and Nodes. The Ledger is a book in memory of
// what each node has been given, with the dispatches that no watch has shown yet, so that a burst
// does not pile up on one node. The package reads and writes nothing outside of the process, and
// must not know a client, a cache or a condition: controllers/container gathers for it and reports
// what it says.
package scheduling
