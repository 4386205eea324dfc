#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs a script of bash below `tini -s` in a pid and a mount namespace of its own, with
# an empty /run and TMPDIR and an /etc whose changes are discarded: tests of checkpoints
# write a configuration of criu there. Ends the script and all its processes after
# SECONDS.
#
#   hack/isolate.sh SECONDS SCRIPT
set -euo pipefail

[ $# = 2 ] || { sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/berth-isolate.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
chmod 755 "$TMPDIR" # containers of other users have to reach their bundles
prepare='
mount -t tmpfs tmpfs /run && mkdir /run/etc /run/etc.work || exit 125
mount -t overlay etc /etc -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work || exit 125
'
timeout -k 5 "$1" unshare --pid --fork --kill-child --mount --propagation private --mount-proc tini -s -- bash -c "$prepare$2"
