#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bench-runtime: `berth run` of /bin/true, default spec with cgroups, as a
# whole process, beside runc and crun and the same system calls in C, in one run.
# The ratios are what counts: the milliseconds are this machine's.
#
#   hack/bench/runtime.sh [RUNS]       60 by default
#
# runc of today is built from the Go module proxy and kept in
# ${XDG_CACHE_HOME:-~/.cache}/berth/bench.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
runs=${1:-60}
runc_version=v1.5.1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/berth/bench
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { echo "bench: $*" >&2; }

if [ ! -x "$cache/runc-$runc_version" ]; then
	say "building runc $runc_version"
	mkdir -p "$cache"
	GOBIN=$work CGO_ENABLED=1 go install -tags seccomp -ldflags "-s -w" "github.com/opencontainers/runc@$runc_version"
	mv "$work/runc" "$cache/runc-$runc_version"
fi
gcc -O2 -w -o "$work/floor" hack/bench/floor.c
cat >"$work/empty.go" <<'GO'
package main

func main() {}
GO
go build -ldflags "-s -w" -o "$work/empty" "$work/empty.go"

bundle=$work/bundle
mkdir -p "$bundle"/rootfs/{bin,proc,sys,dev,etc}
cp /bin/busybox "$bundle/rootfs/bin/true"
bin/berth spec --bundle "$bundle"
jq '.process.terminal = false | .process.args = ["/bin/true"]' "$bundle/config.json" >"$work/c" && mv "$work/c" "$bundle/config.json"

names=("berth run") commands=("$PWD/bin/berth run -b $bundle bench")
try() { # name, command
	if $2 >"$work/out" 2>&1; then
		names+=("$1") commands+=("$2")
	else
		say "$1 cannot run this bundle here: $(tail -1 "$work/out")"
	fi
}
try "runc $runc_version" "$cache/runc-$runc_version --root $work/runc run -b $bundle bench"
try "runc of Debian" "/usr/sbin/runc --root $work/runc-debian run -b $bundle bench"
try "crun of Debian" "/usr/bin/crun --root $work/crun run -b $bundle bench"
try "the calls in C" "$work/floor $bundle/rootfs 1"
try "an empty Go program" "$work/empty"

args=()
for i in "${!names[@]}"; do args+=(-n "${names[$i]}" "${commands[$i]}"); done
# The pause lets the kernel finish what the run before has left it to do, such as the removal of a network namespace.
hyperfine -N --warmup 5 --prepare 'sleep 0.1' --runs "$runs" --export-json "$work/result.json" "${args[@]}" >"$work/hyperfine" 2>&1 || { cat "$work/hyperfine" >&2; exit 1; }

memory() { /usr/bin/time -f %M sh -c "$1" 2>&1 >/dev/null | tail -1; }
berth=$(jq '.results[0].median' "$work/result.json")
echo
echo "$(date -u +%F), $(uname -r), $(nproc) cores, $runs runs, median"
printf '%-22s %10s %10s %16s %14s\n' what "ms" "± ms" "berth takes" "peak KiB"
for i in "${!names[@]}"; do
	jq -r --argjson b "$berth" --arg m "$(memory "${commands[$i]}")" --arg n "${names[$i]}" ".results[$i] | [\$n, .median*1000, .stddev*1000, \$b/.median, \$m] | @tsv" "$work/result.json" |
		awk -F'\t' '{printf "%-22s %10.2f %10.2f %15.2fx %14s\n", $1, $2, $3, $4, $5}'
done
echo
CGO_ENABLED=0 go test -c -o "$work/runtime.test" ./node-agent/runtime
inprocess() { (cd node-agent/runtime && BERTH_BENCH_BUNDLE=$bundle "$work/runtime.test" -test.run - -test.bench Run -test.benchtime 200x) | awk '/ns\/op/ {printf "%.3f", $3 / 1e6}'; }
for _ in 1 2 3; do
	sleep 1
	ours=$(inprocess)
	sleep 1
	floor=$("$work/floor" "$bundle/rootfs" 200 | cut -d' ' -f1)
	echo "in one process, 200 in a row, ms a container: berth $ours, the calls in C $floor, ratio $(awk "BEGIN {printf \"%.2f\", $ours / $floor}")"
done
