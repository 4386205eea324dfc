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

vm=0 systemd=0 verbose=0
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
cp bin/berth "$work/berth"
cp "$suite/runc" "$work/runc"
cp hack/bats/suite.sh "$work/"

# with runs files with berth or runc and leaves their results in $work/RUNTIME.
with() { # RUNTIME FILE...
	local runtime=$1 options=()
	shift
	if [ $vm = 0 ]; then
		"$work/suite.sh" "$suite" "$work/$runtime" "$work/$runtime.out" 600 "$@" 9>&-
		return
	fi
	[ $systemd = 0 ] || options=(--systemd --env RUNC_USE_SYSTEMD=yes)
	# Without KVM all takes ten times as long.
	hack/vm/run.sh --share "$work" --timeout 7200 "${options[@]}" -- ./suite.sh "$suite" "/host/$runtime" "/host/$runtime.out" 1800 "$@" 9>&- || say "the guest ended with status $?"
}

# failed lists the tests of a file that failed, or that the file says and never came to.
failed() { # TAP
	awk '
		/^1\.\.[0-9]+$/ { plan = substr($0, 4) + 0; next }
		/^(ok|not ok) / { n++ }
		/^not ok / { sub(/^not ok [0-9]+ /, ""); sub(/ # timeout after .*/, ""); sub(/ +$/, ""); print }
		END { if (n < plan || !plan) print "(the file ended early)" }
	' "$1"
}

# excused is whether the table names a test for this kind of machine.
excused() { # FILE TEST
	awk -F ' *\\| *' -v file="\`$1\`" -v test="$2" -v kind="$kind" '
		$2 == file && $3 == test && index(", " $4 ",", ", " kind ",") { found = 1 }
		END { exit !found }
	' docs/runc-suite.md
}

kind=v1
[ $vm = 0 ] && [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ] || kind=v2
[ $systemd = 0 ] || kind=systemd

# count prints how many tests of the files passed, failed and were skipped with a runtime.
count() { # RUNTIME
	local passed=0 failures=0 skipped=0 tap
	for f in "${files[@]}"; do
		tap=$work/$1.out/$f.tap
		[ -e "$tap" ] || : >"$tap"
		passed=$((passed + $(grep '^ok ' "$tap" | grep -vc '# skip' || true)))
		skipped=$((skipped + $(grep -c '^ok .*# skip' "$tap" || true)))
		failures=$((failures + $(failed "$tap" | wc -l)))
	done
	echo "$1, $kind: $passed passed, $failures failed, $skipped skipped"
}

start=$SECONDS
with berth "${files[@]}"
with runc "${files[@]}"
berth=$(count berth) runc=$(count runc)
status=0 named=0 machine=0
for f in "${files[@]}"; do
	while IFS= read -r test; do
		if failed "$work/runc.out/$f.tap" | grep -qxF -- "$test"; then
			machine=$((machine + 1))
			[ $verbose = 0 ] || echo "both  $f: $test"
			continue
		fi
		if excused "$f" "$test"; then
			named=$((named + 1))
			continue
		fi
		echo "FAIL  $f: $test"
		status=1
		[ $verbose = 0 ] || awk -v test="$test" '/^(ok|not ok) / { on = 0; t = $0; sub(/^not ok [0-9]+ /, "", t); sub(/ +$/, "", t); if (t == test) on = 1 } on' "$work/berth.out/$f.tap"
	done < <(failed "$work/berth.out/$f.tap")
	[ $verbose = 0 ] || sed -n "s/^ok [0-9]* \(.* # skip\)/skip  $f: \1/p" "$work/berth.out/$f.tap"
done
echo "$runc"
echo "$berth: $named as docs/runc-suite.md says, $machine with runc too, in $((SECONDS - start)) s"
exit $status
