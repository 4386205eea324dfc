// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package launch

// registered reports whether the kernel writes to memory of this program's threads and of their
// forks whenever they run, as it does for threads of glibc (rseq(2)).
const registered = true
