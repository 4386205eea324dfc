#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Compares berth's results of a suite with those of PEER, the runtime that the suite was
# written for: prints both counts, and each test that fails with berth alone and that
# docs/runc-suite.md does not name. Fails if there is one, or if no test of a file ended.
#
#   hack/compare.sh [-v] DIR PEER ENTRY KIND FILE...
#
#   -v     print what fails with both, what is skipped, and the output of what fails
#   DIR    has the results, as berth.out/FILE.tap and PEER.out/FILE.tap
#   ENTRY  how the tables of docs/runc-suite.md name a file, with %s for FILE
#   KIND   the kind of machine that a row is for; empty if rows name none
set -euo pipefail

verbose=0
[ "${1-}" != -v ] || { verbose=1; shift; }
[ $# -gt 4 ] || { sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=$1 peer=$2 entry=$3 kind=$4
shift 4
files=("$@")

# failed lists the tests of a file that failed, and a line if planned tests did not run.
failed() { # TAP
	awk '
		/^1\.\.[0-9]+$/ { plan = substr($0, 4) + 0; next }
		/^(ok|not ok) / { n++ }
		/^not ok / { sub(/^not ok [0-9]+ (- )?/, ""); sub(/ # (timeout after .*|[0-9.]+s)$/, ""); sub(/ +$/, ""); print }
		END { if (n < plan || !plan) print "(the file ended early)" }
	' "$1"
}

# output prints the lines of a test that failed.
output() { # TAP TEST
	awk -v test="$2" '
		/^(ok|not ok) / { t = $0; sub(/^not ok [0-9]+ (- )?/, "", t); sub(/ # (timeout after .*|[0-9.]+s)$/, "", t); sub(/ +$/, "", t); on = t == test }
		on
	' "$1"
}

# excused succeeds if docs/runc-suite.md names a test.
excused() { # FILE TEST
	awk -F ' *\\| *' -v file="\`${entry/\%s/$1}\`" -v test="$2" -v kind="$kind" '
		$2 == file && $3 == test && (kind == "" || index(", " $4 ",", ", " kind ",")) { found = 1 }
		END { exit !found }
	' docs/runc-suite.md
}

# count prints how many tests passed, failed and were skipped with a runtime.
count() { # RUNTIME
	local passed=0 failures=0 skipped=0 f tap
	for f in "${files[@]}"; do
		tap=$dir/$1.out/$f.tap
		passed=$((passed + $(grep '^ok ' "$tap" | grep -vciE '# ?skip' || true)))
		skipped=$((skipped + $(grep -ciE '^ok .*# ?skip' "$tap" || true)))
		failures=$((failures + $(failed "$tap" | wc -l)))
	done
	echo "$1${kind:+, $kind}: $passed passed, $failures failed, $skipped skipped"
}

mkdir -p "$dir/berth.out" "$dir/$peer.out"
status=0 named=0 both=0
for f in "${files[@]}"; do
	tap=$dir/berth.out/$f.tap
	touch "$tap" "$dir/$peer.out/$f.tap"
	# A file that ends early with both is the machine's fault; one without a result is the harness's.
	if ! grep -qE '^(not )?ok ' "$tap"; then
		echo "FAIL  $f: no test ended"
		status=1
	fi
	while IFS= read -r test; do
		if failed "$dir/$peer.out/$f.tap" | grep -xF -- "$test" >/dev/null; then # -q would end the pipe early
			both=$((both + 1))
			[ $verbose = 0 ] || echo "both  $f: $test"
		elif excused "$f" "$test"; then
			named=$((named + 1))
		else
			echo "FAIL  $f: $test"
			status=1
			[ $verbose = 0 ] || output "$tap" "$test"
		fi
	done < <(failed "$tap")
	[ $verbose = 0 ] || sed -nE "s/^ok [0-9]+ (- )?(.* # ?(skip|SKIP))/skip  $f: \2/p" "$tap"
done
count "$peer"
echo "$(count berth): $named as docs/runc-suite.md says, $both with $peer too"
exit $status
