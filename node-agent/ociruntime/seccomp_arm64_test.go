// SPDX-License-Identifier: Apache-2.0

package ociruntime

const mkdirNumber = -1 // arm64 has mkdirat(2) alone
