// SPDX-License-Identifier: Apache-2.0

// Package selinux computes the SELinux labels of containers, and gives each container categories
// that no other one on the node has.
//
//	levels := selinux.Open("/var/lib/berth/selinux")
//	level, err := levels.Ensure("default_web_1a2b3c4d", "") // the same until Release
//	labels := selinux.LabelsFor(&corev1.SELinuxOptions{}, level, os.DirFS("/"))
//
// It must not know images, volumes and documents.
package selinux
