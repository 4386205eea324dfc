// SPDX-License-Identifier: Apache-2.0

package runtime

import "golang.org/x/sys/unix"

const mkdirNumber = unix.SYS_MKDIR
