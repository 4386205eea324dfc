// SPDX-License-Identifier: Apache-2.0

//go:build !cgo

package launch

// registered reports whether the kernel writes to memory of this program's threads (rseq(2)). It
// does not in a program whose threads are all of the Go runtime.
const registered = false
