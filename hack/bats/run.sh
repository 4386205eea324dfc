#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bats: runs the integration suite of runc 1.5.1 with bin/berth in place of runc
# and with runc itself, and fails if a test fails that docs/runc-suite.md does not name
# and that passes with runc on this machine.
#
#   hack/bats/run.sh [--vm] [--systemd] [-v] [FILE...]
#
#   --vm       in the virtual machine of hack/vm, under cgroup v2
#   --systemd  there, with systemd as pid 1 and its cgroup driver
#   -v         show the output of what fails, and what is skipped
#   FILE       as kill or mounts, for tests/integration/FILE.bats (default: all)
#
# It needs root. The tests are those of the Go module; see build.sh. Two runs at once
# would use the same cgroups: the second one waits.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
say() { echo "bats: $*" >&2; }

vm=0 systemd=0 verbose=
while [ $# -gt 0 ]; do
	case $1 in
	--vm) vm=1; shift ;;
	--systemd) vm=1 systemd=1; shift ;;
	-v) verbose=1; shift ;;
	-h | --help) sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
	-*) say "unknown option $1; see $0 --help"; exit 2 ;;
	*) break ;;
	esac
done
[ -x bin/berth ] || { say "no bin/berth: run make build"; exit 2; }

suite=$(hack/bats/build.sh)
files=("$@")
if [ $# = 0 ]; then
	for f in "$suite"/tests/integration/*.bats; do
		files+=("$(basename "$f" .bats)")
	done
fi
for f in "${files[@]}"; do
	[ -e "$suite/tests/integration/$f.bats" ] || { say "$f: no such file of the suite"; exit 2; }
done

work=$(mktemp -d "${TMPDIR:-/tmp}/berth-bats.XXXXXX")
trap 'rm -rf "$work"' EXIT
exec 9>"$suite/.running"
flock -n 9 || { say "waiting for another run"; flock 9; }
# Under runc's name berth has that name in its version and help.
mkdir "$work/berth" "$work/runc"
cp bin/berth "$work/berth/runc"
cp "$suite/runc" "$work/runc/runc"
mkdir "$work/bats" && cp hack/bats/suite.sh "$work/bats/" && cp hack/isolate.sh "$work/"

# with runs files with berth or runc and leaves their results in $work/RUNTIME.
with() { # RUNTIME FILE...
	local runtime=$1 options=()
	shift
	if [ $vm = 0 ]; then
		"$work/bats/suite.sh" "$suite" "$work/$runtime/runc" "$work/$runtime.out" 600 "$@" 9>&-
		return
	fi
	[ $systemd = 0 ] || options=(--systemd --env RUNC_USE_SYSTEMD=yes)
	# Without KVM all takes ten times as long.
	hack/vm/run.sh --share "$work" --timeout 7200 "${options[@]}" -- ./bats/suite.sh "$suite" "/host/$runtime/runc" "/host/$runtime.out" 1800 "$@" 9>&- || say "the guest ended with status $?"
}

kind=v1
[ $vm = 0 ] && [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ] || kind=v2
[ $systemd = 0 ] || kind=systemd

with berth "${files[@]}"
with runc "${files[@]}"
say "both took $SECONDS s"
hack/compare.sh ${verbose:+-v} "$work" runc %s $kind "${files[@]}"
