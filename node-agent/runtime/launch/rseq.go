// SPDX-License-Identifier: Apache-2.0

//go:build !cgo

package launch

// registered is whether the kernel writes to memory of this program's threads, which it does not
// for those of the Go runtime alone.
const registered = false
