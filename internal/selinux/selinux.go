// SPDX-License-Identifier: Apache-2.0

// Package selinux finds out whether the kernel has SELinux.
package selinux

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Enabled reports whether SELinux is active and has a policy, as libselinux finds it: its
// filesystem can be written to, and processes have other contexts than that of a kernel without a
// policy.
func Enabled() bool {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/selinux", &st); err != nil || st.Type != unix.SELINUX_MAGIC ||
		st.Flags&unix.ST_RDONLY != 0 {
		return false
	}
	data, err := os.ReadFile("/proc/self/attr/current")
	return err == nil && strings.TrimRight(string(data), "\x00\n") != "kernel"
}
