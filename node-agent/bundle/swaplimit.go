// SPDX-License-Identifier: Apache-2.0

package bundle

import "io/fs"

// SwapLimit reports whether the node, whose root directory is host, can limit memory and swap
// together (memory.swap of the runtime-spec). A cgroup v1 kernel without swap accounting
// (swapaccount=0 on its command line; CONFIG_MEMCG_SWAP or CONFIG_SWAP off) has no
// memory.memsw.limit_in_bytes (Documentation/admin-guide/cgroup-v1/memory.rst), and runtimes fail
// to create a container that sets it. The limit of memory itself holds there; it is only that the
// kernel, if it swaps at all, counts no swap.
func SwapLimit(host fs.FS) bool {
	has := func(name string) bool {
		_, err := fs.Stat(host, name)
		return err == nil
	}
	if has("sys/fs/cgroup/memory/memory.limit_in_bytes") {
		return has("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	// cgroup v2 has memory.swap.max with CONFIG_SWAP, and that has this file: proc(5)
	return has("proc/swaps")
}
