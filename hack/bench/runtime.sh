#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bench-runtime: berth beside runc, crun and the same system calls in C, as
# whole processes, in one run: `run` of /bin/true with the default spec and
# cgroups; create, start and delete; `exec` of /bin/true; 100 containers at once;
# peak memory. The ratios are what counts: the milliseconds are this machine's.
#
#   hack/bench/runtime.sh [RUNS]       60 by default
#
# runc of today is built from the Go module proxy, crun of today is of Debian's
# unstable suite (crun.sh); both are kept in ${XDG_CACHE_HOME:-~/.cache}/berth/bench.
# The rest is Debian's. crun works on no host that has cgroup v1 and v2 side by
# side: there everything runs in a mount namespace of its own in which the v2
# hierarchy is not mounted.
set -euo pipefail

if [ -z "${BERTH_BENCH_INSIDE-}" ]; then
	exec env BERTH_BENCH_INSIDE=1 unshare --mount --propagation private "$0" "$@"
fi
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
runs=${1:-60}
runc_version=v1.5.1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/berth/bench
work=$(mktemp -d)
started=()
cleanup() {
	for i in "${!started[@]}"; do ${started[$i]} delete --force "bench-exec-$i" >/dev/null 2>&1 || true; done
	umount "$work/state" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
say() { echo "bench: $*" >&2; }

if [ ! -x "$cache/runc-$runc_version" ]; then
	say "building runc $runc_version"
	mkdir -p "$cache"
	GOBIN=$work CGO_ENABLED=1 go install -tags seccomp -ldflags "-s -w" "github.com/opencontainers/runc@$runc_version"
	mv "$work/runc" "$cache/runc-$runc_version"
fi
gcc -O2 -w -o "$work/floor" hack/bench/floor.c
# Copies, as an installation makes them: of a file that the linker has written page by page the kernel maps single pages, which
# costs berth and runc a tenth.
mkdir "$work/bin"
cp bin/berth "$work/bin/berth"
cp "$cache/runc-$runc_version" "$work/bin/runc"
cat >"$work/empty.go" <<'GO'
package main

func main() {}
GO
go build -ldflags "-s -w" -o "$work/empty" "$work/empty.go"

# The state of all lies on a tmpfs, as /run does on a machine of today.
mkdir "$work/state"
mount -t tmpfs tmpfs "$work/state"
bundle=$work/bundle
mkdir -p "$bundle"/rootfs/{bin,proc,sys,dev,etc}
cp /bin/busybox "$bundle/rootfs/bin/true"
ln "$bundle/rootfs/bin/true" "$bundle/rootfs/bin/sleep"
bin/berth spec --bundle "$bundle"
# Debian's crun does not know the newest versions of the specification.
jq '.ociVersion = "1.0.2" | .process.terminal = false | .process.args = ["/bin/true"]' "$bundle/config.json" >"$work/c" && mv "$work/c" "$bundle/config.json"
mkdir "$work/sleeping"
jq '.root.path = "'"$bundle"'/rootfs" | .process.args = ["/bin/sleep", "100000"]' "$bundle/config.json" >"$work/sleeping/config.json"

names=() runtimes=()
try() { # name, command
	if $2 run -b "$bundle" bench </dev/null >"$work/out" 2>&1; then
		names+=("$1") runtimes+=("$2")
	else
		say "$1 cannot run this bundle here: $(tail -1 "$work/out")"
	fi
}
try berth "$work/bin/berth --root $work/state/berth"
try "runc $runc_version" "$work/bin/runc --root $work/state/runc"
try "runc of Debian" "/usr/sbin/runc --root $work/state/runc-debian"
if crun=$(hack/bench/crun.sh); then
	try "crun $("$crun" --version | sed -n 's/^crun version //p')" "$crun --root $work/state/crun"
else
	say "Debian's newest crun cannot be had"
fi
try "crun of Debian" "/usr/bin/crun --root $work/state/crun-debian"

measure() { # result file, then name and command pairs
	local out=$1 args=()
	shift
	while [ $# -gt 0 ]; do
		args+=(-n "$1" "$2")
		shift 2
	done
	# The pause lets the kernel finish what the run before has left it to do, such as the removal of a network namespace.
	hyperfine -N --warmup 5 --prepare 'sleep 0.1' --runs "$runs" --export-json "$out" "${args[@]}" </dev/null >"$work/hyperfine" 2>&1 || { cat "$work/hyperfine" >&2; exit 1; }
}
print() { # title, result file
	echo
	echo "$1"
	printf '  %-22s %10s %10s %16s\n' "" "ms" "± ms" "berth takes"
	jq -r '.results[0].median as $b | .results[] | [.command, .median*1000, .stddev*1000, $b/.median] | @tsv' "$2" |
		awk -F'\t' '{printf "  %-22s %10.2f %10.2f %15.2fx\n", $1, $2, $3, $4}'
}

echo "$(date -u +%F), Linux $(uname -r), $(nproc) cores, median of $runs"
pairs=()
for i in "${!names[@]}"; do pairs+=("${names[$i]}" "${runtimes[$i]} run -b $bundle bench"); done
measure "$work/run.json" "${pairs[@]}" "the calls in C" "$work/floor $bundle/rootfs 1" "an empty Go program" "$work/empty"
print "run of /bin/true" "$work/run.json"

pairs=()
for i in "${!names[@]}"; do
	cat >"$work/csd-$i" <<SH
#!/bin/sh
${runtimes[$i]} create -b $bundle bench </dev/null >/dev/null 2>&1 && ${runtimes[$i]} start bench && ${runtimes[$i]} delete --force bench
SH
	chmod +x "$work/csd-$i"
	pairs+=("${names[$i]}" "$work/csd-$i")
done
measure "$work/csd.json" "${pairs[@]}"
print "create, start, delete --force" "$work/csd.json"

pairs=()
for i in "${!names[@]}"; do
	started+=("${runtimes[$i]}")
	${runtimes[$i]} run -d -b "$work/sleeping" "bench-exec-$i" </dev/null >/dev/null
	pairs+=("${names[$i]}" "${runtimes[$i]} exec bench-exec-$i /bin/true")
done
measure "$work/exec.json" "${pairs[@]}"
print "exec of /bin/true" "$work/exec.json"

runs=5 pairs=()
for i in "${!names[@]}"; do
	cat >"$work/many-$i" <<SH
#!/bin/sh
for n in \$(seq 100); do ${runtimes[$i]} run -b $bundle bench-\$n </dev/null >/dev/null & done
wait
SH
	chmod +x "$work/many-$i"
	pairs+=("${names[$i]}" "$work/many-$i")
done
measure "$work/many.json" "${pairs[@]}"
print "100 runs of /bin/true at once, median of $runs" "$work/many.json"

echo
echo "peak memory of the largest process, KiB"
memory() { /usr/bin/time -f %M "$@" 2>&1 >/dev/null </dev/null | tail -1; }
for i in "${!names[@]}"; do
	# shellcheck disable=SC2086 # a command with its arguments
	printf '  %-22s run %8s   exec %8s\n' "${names[$i]}" "$(memory ${runtimes[$i]} run -b "$bundle" bench)" "$(memory ${runtimes[$i]} exec "bench-exec-$i" /bin/true)"
done

echo
echo "in one process, median ms a container: until its program is executed, and until all is removed; median ratios of 9 rounds by turns"
CGO_ENABLED=0 go test -c -o "$work/runtime.test" ./node-agent/ociruntime
inprocess() { # N PAUSE_us
	(cd node-agent/ociruntime && TMPDIR=$work/state BERTH_BENCH_BUNDLE=$bundle BERTH_BENCH_PAUSE=$2us "$work/runtime.test" -test.run - -test.bench Run -test.benchtime "$1x") |
		awk '/ns\/op/ {for (i = 1; i < NF; i++) {if ($(i + 1) == "executed-ms") e = $i; if ($(i + 1) == "removed-ms") r = $i}; print e, r}'
}
median() { # COLUMN: of numbers on standard input
	awk -v c="$1" '{print $c}' | sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'
}
for how in "100 0 one_after_the_other" "25 100000 with_a_pause_of_0.1_s"; do
	read -r n pause what <<<"$how"
	: >"$work/rounds"
	for _ in $(seq 9); do
		echo "$(inprocess "$n" "$pause") $("$work/floor" "$bundle/rootfs" "$n" "$pause") $("$work/floor" "$bundle/rootfs" "$n" "$pause" bare)" |
			awk '{print $0, $1/$3, $2/$4, $1/$5, $2/$6}' >>"$work/rounds"
	done
	m=()
	for c in $(seq 10); do m+=("$(median "$c" <"$work/rounds")"); done
	printf '  %s: berth %.2f, %.2f; the same calls in C %.2f, %.2f, ratio %.2f, %.2f; fewer of them %.2f, %.2f, ratio %.2f, %.2f\n' "${what//_/ }" \
		"${m[0]}" "${m[1]}" "${m[2]}" "${m[3]}" "${m[6]}" "${m[7]}" "${m[4]}" "${m[5]}" "${m[8]}" "${m[9]}"
	printf '    ratios of the rounds: %s\n' "$(awk '{printf "%.2f ", $7}' "$work/rounds")"
done
