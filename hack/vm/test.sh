#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs Go tests as root under cgroup v2, or with -hybrid under v1, in one guest of run.sh.
#
#   hack/vm/test.sh [-v] [-p N] [-systemd [-hybrid]] [-timeout SEC] [-mem MB] [-append WORDS]
#                   GROUP [+ GROUP]...
#   GROUP: [-C DIR] [-run REGEXP] [-must REGEXP] PACKAGE... | -command NAME TEXT
#
# All groups share one boot of the guest, and a package that several groups name
# is compiled once. -C names the directory in which a group's packages are
# looked for, such as that of another Go module. -command has a shell run TEXT
# in the project's directory, and reports it as package NAME with all its output.
#
# The test binaries are compiled on this machine (CGO_ENABLED=0) and run in the
# guest, each in its package's directory, and N (default 1) at the same time.
# For each package it prints go test's own closing line; before that, of a
# package that fails, all its output, and of one that passes the tests that were
# skipped and why. -v prints all output as it comes, of one package at a time.
# The exit status is 1 if any package fails, as go test's is.
#
# -must names tests, by a regular expression as grep -E has them, that have to run here: it is a failure if one of them is skipped, if
# the group has none, or if a package has none that -run selects.
#
# In the guest BERTH_VM=1 is set; CI and every other BERTH_* variable are as they
# are here. HOME is /root, /tmp is an empty tmpfs. -timeout (default 900) is for
# everything together. The programs of cmd/berth and cmd/berth-agent, which their tests
# would build, are built here. -append is for kernel parameters, such as "apparmor=1 security=apparmor".
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "vm: $*" >&2; }
usage() { sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }

top=$(cd "$here/../.." && pwd) # may lie below /tmp; test/clients is a module of its own in it
verbose=0 timeout=900 jobs=1 options=()
commands=() # of the groups that have one
runs=('') musts=('') dirs=(.) # of each group
packages=('')                 # of each group, one a line
group=0
while [ $# -gt 0 ]; do
	case $1 in
	-v) verbose=1; shift ;;
	-command)
		[ $# -gt 2 ] && [ -n "$3" ] || { say "option $1 needs a name and a text"; exit 2; }
		packages[group]=$2$'\n' commands[group]=$3
		shift 3 ;;
	-p | -run | -must | -C | -timeout | -mem | -append)
		[ $# -gt 1 ] || { say "option $1 needs a value"; exit 2; }
		case $1 in
		-p) jobs=$2 ;;
		-run) runs[group]=$2 ;;
		-must) musts[group]=$2 ;;
		-C) dirs[group]=$2 ;;
		-timeout) timeout=$2 ;;
		-mem) options+=(--mem "$2") ;;
		-append) options+=(--append "$2") ;;
		esac
		shift 2 ;;
	-systemd | -hybrid) options+=("-$1"); shift ;;
	-h | --help) usage; exit 0 ;;
	-*) say "unknown option $1; see $0 --help"; exit 2 ;;
	+) group=$((group + 1)) runs[group]='' musts[group]='' dirs[group]=. packages[group]=''; shift ;;
	*) packages[group]+="$1"$'\n'; shift ;;
	esac
done
for p in "${packages[@]}"; do [ -n "$p" ] || { usage >&2; exit 2; }; done

work=$(mktemp -d "${TMPDIR:-/tmp}/berth-vm-test.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Compile, with the collector of the compiler at ease: a fifth faster.
export CGO_ENABLED=0 GOGC=400

# programs builds what the tests of a package run, and would build themselves.
programs() { # PACKAGE
	case $1 in
	*/cmd/berth)
		options+=(--env BERTH_PROGRAMS="$work")
		go build -ldflags "-E main.entry" -o "$work/berth" "$1" &&
			go build -o "$work/berth-plain" "$1" ;;
	*/cmd/berth-agent)
		options+=(--env BERTH_AGENT_PROGRAMS="$work/agent")
		mkdir -p "$work/agent" &&
			go build -o "$work/agent/" "$1" "$(dirname "$1")/berth" "$(dirname "$(dirname "$1")")/hack/image" &&
			"$work/agent/image" --busybox -o "$work/agent/busybox.tar" &&
			"$work/agent/image" --busybox --arch s390x -o "$work/agent/s390x.tar" ;;
	esac
}

# compile makes a test binary, adds its line to the list, and returns 1 if it cannot be built. A package without tests leaves no
# binary, and says so as go test does.
declare -A binaries # by package
n=0
compile() { # GROUP PACKAGE DIRECTORY
	n=$((n + 1))
	local binary=${binaries[$2]-}
	if [ -z "$binary" ]; then
		binary=$n.test
		if ! programs "$2" || ! go test -C "$3" -c -o "$work/$binary" . >"$work/$n.build" 2>&1; then
			cat "$work/$n.build"
			printf 'FAIL\t%s [build failed]\n' "$2"
			return 1
		fi
		if ! [ -e "$work/$binary" ]; then
			printf '?   \t%s\t[no test files]\n' "$2"
			return 0
		fi
		binaries[$2]=$binary
	fi
	echo "$n $1 $work/$binary $2 $3" >>"$work/list"
}

failed=0
for group in "${!packages[@]}"; do
	echo "${runs[group]}" >"$work/run.$group"
	echo "${musts[group]}" >"$work/must.$group"
	mapfile -t names < <(printf %s "${packages[group]}")
	if [ -n "${commands[group]-}" ]; then
		n=$((n + 1))
		echo "${commands[group]}" >"$work/$n.command"
		echo "$n $group - ${names[0]} $top" >>"$work/list"
		continue
	fi
	listed=$(go list -C "${dirs[group]}" -f '{{.ImportPath}} {{.Dir}}' "${names[@]}")
	while read -r package dir; do
		compile "$group" "$package" "$dir" || failed=1
	done <<<"$listed"
done
if [ ! -e "$work/list" ]; then exit $failed; fi

cp "$here/guest/go-test" "$work/go-test"
[ $verbose = 0 ] || { : >"$work/verbose"; jobs=1; }
while IFS='=' read -r -d '' name value; do
	case $name in
	CI | BERTH_*) options+=(--env "$name=$value") ;;
	esac
done < <(env -0)
status=0
"$here/run.sh" --share "$work" --see "$work" --see "$top" --timeout "$timeout" --env BERTH_VM=1 ${options[@]+"${options[@]}"} \
	-- /run/vm/busybox sh /host/go-test "$jobs" || status=$?
if [ $status -ge 124 ]; then
	# The guest broke or was too slow: show how far the packages at hand came.
	for f in "$work"/*.now; do
		[ -e "$f" ] || continue
		cat "${f%.now}.out" 2>/dev/null || true
		printf 'FAIL\t%s [guest ended]\n' "$(cat "$f")"
	done
	failed=1
elif [ $status != 0 ]; then
	failed=1
fi
[ $failed = 0 ] || echo FAIL
exit $failed
