// SPDX-License-Identifier: Apache-2.0

package nofile

const sysPrlimit64 = 261
