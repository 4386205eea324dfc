#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs files of runc's integration suite with a runtime, one after the other, and
# leaves FILE.tap in a folder. It is what run.sh calls, here or in the guest.
#
#   hack/bats/suite.sh SUITE RUNTIME OUT SECONDS FILE...
#
# Each file runs as ../isolate.sh runs it, on a terminal of its own: most tests run a
# container in the foreground with one. SECONDS are for one file.
#
# Tests that skip the host are run again where they can run, and their results take
# the place of the first ones: those for cgroup v2 with the v2 hierarchy of a hybrid
# host in place of all (it has few controllers or none), those for rootless containers
# as a user with subordinate ids.
set -euo pipefail

export suite=$1 RUNC=$2 out=$3 seconds=$4
shift 4
isolate=$(dirname "${BASH_SOURCE[0]}")/../isolate.sh
mkdir -p "$out"

# The programs of bin come before those of the machine.
export PATH=$suite/bin:$PATH
# spec.bats clones this.
export GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=url.$suite/runtime-spec.git.insteadOf \
	GIT_CONFIG_VALUE_0=https://github.com/opencontainers/runtime-spec.git GIT_CONFIG_KEY_1=safe.directory GIT_CONFIG_VALUE_1='*'

# script(1) would take an end of its own input for ours, and spins when another child of its ends: its input is a fifo that never does.
# shellcheck disable=SC2016 # for the shell within
within='
become=
case $view in
v2) mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup || exit 125 ;;
rootless)
	# What lies below a home of root is shown elsewhere. The ids are those of tests/rootless.sh.
	mkdir -p /run/home /run/suite /run/runtime && mount --bind "$suite" /run/suite && cp "$RUNC" /run/runtime/ || exit 125
	PATH=/run/suite/bin:${PATH#*:}
	suite=/run/suite RUNC=/run/runtime/$(basename "$RUNC") HOME=/run/home
	echo "rootless:x:7000:7000::/run/home:/bin/sh" >>/etc/passwd
	echo "rootless:x:7000:" >>/etc/group
	echo "rootless:100000:65536" >/etc/subuid
	echo "rootless:200000:65536" >/etc/subgid
	export ROOTLESS_FEATURES=idmap ROOTLESS_UIDMAP_START=100000 ROOTLESS_UIDMAP_LENGTH=65536 ROOTLESS_GIDMAP_START=200000 ROOTLESS_GIDMAP_LENGTH=65536
	export ROOTLESS_AUX_UID=1024 ROOTLESS_AUX_DIR=$TMPDIR/aux
	mkdir -m 700 "$ROOTLESS_AUX_DIR" && chown 100024 "$ROOTLESS_AUX_DIR" && chown 7000:7000 /run/home "$TMPDIR" || exit 125
	become="setpriv --reuid 7000 --regid 7000 --clear-groups"
	;;
esac
# criu may wait for ever; elsewhere the process that watches the time is one more that the wait of a test waits for.
[ "$file" != checkpoint ] || export BATS_TEST_TIMEOUT=$((seconds / 20))
mkfifo -m 666 /run/input && exec 8<>/run/input || exit 125
script -qec "$become bats --tap -f \"\$only\" \"$suite/tests/integration/$file.bats\" >\"$tap\" 2>\"$tap.err\"" /dev/null <&8 &
# A helper that a failed test has left keeps bats from ending: a moment after the last test it is over anyway.
while kill -0 $! 2>/dev/null; do
	sleep 0.2
	awk "/^1\.\.[0-9]/ { plan = substr(\$0, 4) + 0 } /^(ok|not ok) / { n++ } END { exit !plan || n < plan }" "$tap" 2>/dev/null || continue
	for _ in {1..20}; do kill -0 $! 2>/dev/null || exit 0; sleep 0.2; done
	exit 0
done
'

# run runs the tests of a file whose names match, on the host's own terms, under v2 or rootless.
run() { # VIEW FILE ONLY TAP
	local -x view=$1 file=$2 only=$3 tap=$4
	"$isolate" "$seconds" "$within" >/dev/null 2>&1 || true
	# What a test that was cut short has left: the suite's folders, and those that a runtime names after its containers.
	for dir in /sys/fs/cgroup{,/*}/runc-cgroups-integration-test{/*/*,/*,}; do rmdir "$dir" 2>/dev/null || true; done
}

# again runs the tests once more that a file has skipped for a reason, and puts their results in place of the first.
again() { # VIEW FILE REASON
	local tap=$out/$2.tap only
	[ -e "$tap" ] || return 0
	only=$(sed -n "s/^ok [0-9]* \(.*\) # skip test requires $3\$/\1/p" "$tap" | sed 's/[][\.*^$(){}?+|]/\\&/g' | paste -sd '|')
	[ -n "$only" ] || return 0
	run "$1" "$2" "^($only)\$" "$out/$2.$1"
	[ -s "$out/$2.$1" ] || return 0
	awk '
		/^(ok|not ok) / { name = $0; sub(/^(not )?ok [0-9]+ /, "", name); sub(/ # .*/, "", name) }
		NR == FNR { if (!/^1\.\./) block[name] = block[name] $0 "\n"; next }
		/^(ok|not ok) / && name in block { printf "%s", block[name]; skipping = 1; next }
		/^(ok|not ok) / { skipping = 0 }
		!skipping
	' "$out/$2.$1" "$tap" >"$tap.merged" && mv "$tap.merged" "$tap"
}

for f; do
	run host "$f" . "$out/$f.tap"
	[ "$(stat -f -c %T /sys/fs/cgroup/unified 2>/dev/null)" != cgroup2fs ] || again v2 "$f" cgroups_v2
	again rootless "$f" rootless
done
