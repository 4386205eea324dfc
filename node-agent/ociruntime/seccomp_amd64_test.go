// SPDX-License-Identifier: Apache-2.0

package ociruntime

import "golang.org/x/sys/unix"

const mkdirNumber = unix.SYS_MKDIR
