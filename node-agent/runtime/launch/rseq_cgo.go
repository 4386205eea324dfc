// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package launch

// registered is whether the kernel writes to memory of this program's threads whenever they run,
// and of their forks, as it does for those of glibc (rseq(2)).
const registered = true
