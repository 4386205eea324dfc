#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs files of runc's integration suite with a runtime, one after the other, and
# leaves FILE.tap in a folder. It is what run.sh calls, here or in the guest.
#
#   hack/bats/suite.sh SUITE RUNTIME OUT SECONDS FILE...
#
# Each file runs below `tini -s` in a pid and a mount namespace of its own, with an
# empty /run and TMPDIR and an /etc that forgets, on a terminal of its own: most tests run a container in the
# foreground with one. SECONDS are for one file.
set -euo pipefail

export suite=$1 RUNC=$2 out=$3
seconds=$4
shift 4
mkdir -p "$out"

# script(1) would take an end of its own input for ours, and spins when another child of its ends: its input is a fifo that never does.
# shellcheck disable=SC2016 # for the shell within
within='
mount -t tmpfs tmpfs /run && mkdir /run/etc /run/etc.work || exit 125
# checkpoint.bats leaves a configuration of criu in /etc.
mount -t overlay etc /etc -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work || exit 125
mkfifo /run/input && exec 8<>/run/input || exit 125
script -qec "bats --tap \"$suite/tests/integration/$file.bats\" >\"$out/$file.tap\" 2>\"$out/$file.err\"" /dev/null <&8 &
# A helper that a failed test has left keeps bats from ending: a moment after the last test it is over anyway.
while kill -0 $! 2>/dev/null; do
	sleep 0.2
	awk "/^1\.\.[0-9]/ { plan = substr(\$0, 4) + 0 } /^(ok|not ok) / { n++ } END { exit !plan || n < plan }" "$out/$file.tap" 2>/dev/null || continue
	for _ in {1..20}; do kill -0 $! 2>/dev/null || exit 0; sleep 0.2; done
	exit 0
done
'
for file; do
	export file
	TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/berth-bats.XXXXXX")
	chmod 755 "$TMPDIR" # containers of other users have to reach their bundles
	TMPDIR=$TMPDIR timeout -k 5 "$seconds" \
		unshare --pid --fork --kill-child --mount --propagation private --mount-proc tini -s -- bash -c "$within" >/dev/null 2>&1 || true
	rm -rf "$TMPDIR"
	unset TMPDIR
	# What a test that was cut short has left: the suite's folders, and those that a runtime names after its containers.
	for dir in /sys/fs/cgroup{,/*}/runc-cgroups-integration-test{/*/*,/*,}; do rmdir "$dir" 2>/dev/null || true; done
done
