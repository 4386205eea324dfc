// SPDX-License-Identifier: Apache-2.0

// Package supervision keeps the supervisor of a node running while the agent lives: it starts the
// supervisor, finds out what it can do, holds its descriptors so that nothing is lost if it is
// killed, and starts another one when it is gone. It links no handler and no runtime.
package supervision
