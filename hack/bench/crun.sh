#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of the newest crun that Debian has; see ../debian.sh.
#
#   hack/bench/crun.sh
exec "$(dirname "${BASH_SOURCE[0]}")/../debian.sh" unstable crun /usr/bin/crun
