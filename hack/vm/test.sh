#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs Go tests as root under cgroup v2, or with -hybrid under v1, in one guest of run.sh.
#
#   hack/vm/test.sh [-v] [-run REGEXP] [-must REGEXP] [-systemd [-hybrid]] [-timeout SEC] [-mem MB] [-append WORDS] PACKAGE...
#
# The test binaries are compiled on this machine (CGO_ENABLED=0) and run in the
# guest one after the other, each in its package's folder. For each package it
# prints go test's own closing line; before that, of a package that fails, all
# its output, and of one that passes the tests that were skipped and why. -v
# prints all output. The exit status is 1 if any package fails, as go test's is.
#
# -must names tests, by a regular expression as grep -E has them, that have to run here: it is a failure if one of them is skipped, if
# there is none, or if a package has none that -run selects.
#
# In the guest BERTH_VM=1 is set; CI and every other BERTH_* variable are as they
# are here. HOME is /root, /tmp is an empty tmpfs. -timeout (default 900) is for
# everything together. The programs of cmd/berth and cmd/berth-agent, which their tests
# would build, are built here. -append is for kernel parameters, such as "apparmor=1 security=apparmor".
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "vm: $*" >&2; }
usage() { sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }

verbose=0 run='' must='' timeout=900 options=()
while [ $# -gt 0 ]; do
	case $1 in
	-v) verbose=1; shift ;;
	-run | -must | -timeout | -mem | -append)
		[ $# -gt 1 ] || { say "option $1 needs a value"; exit 2; }
		case $1 in
		-run) run=$2 ;;
		-must) must=$2 ;;
		-timeout) timeout=$2 ;;
		-mem) options+=(--mem "$2") ;;
		-append) options+=(--append "$2") ;;
		esac
		shift 2 ;;
	-systemd | -hybrid) options+=("-$1"); shift ;;
	-h | --help) usage; exit 0 ;;
	-*) say "unknown option $1; see $0 --help"; exit 2 ;;
	*) break ;;
	esac
done
[ $# -gt 0 ] || { usage >&2; exit 2; }

work=$(mktemp -d "${TMPDIR:-/tmp}/berth-vm-test.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Compile, with the collector of the compiler at ease: a fifth faster. A package without tests leaves no binary, and says so as go test does.
export CGO_ENABLED=0
failed=0 n=0
packages=$(go list -f '{{.ImportPath}} {{.Dir}}' "$@")
while read -r package dir; do
	n=$((n + 1))
	if [[ $package = */cmd/berth ]]; then
		GOGC=400 go build -ldflags "-E main.entry" -o "$work/berth" "$package"
		GOGC=400 go build -o "$work/berth-plain" "$package"
		options+=(--env BERTH_PROGRAMS=/host)
	fi
	if [[ $package = */cmd/berth-agent ]]; then
		mkdir -p "$work/agent"
		GOGC=400 go build -o "$work/agent/" "$package" "$(dirname "$package")/berth" "$(dirname "$(dirname "$package")")/hack/image"
		"$work/agent/image" --busybox -o "$work/agent/busybox.tar"
		"$work/agent/image" --busybox --arch s390x -o "$work/agent/s390x.tar"
		options+=(--env BERTH_AGENT_PROGRAMS=/host/agent)
	fi
	binary=$work/$n.test
	if ! GOGC=400 go test -c -o "$binary" "$package" >"$work/$n.build" 2>&1; then
		cat "$work/$n.build"
		printf 'FAIL\t%s [build failed]\n' "$package"
		failed=1
	elif [ -e "$binary" ]; then
		echo "$n $package $dir" >>"$work/list"
	else
		printf '?   \t%s\t[no test files]\n' "$package"
	fi
done <<<"$packages"
if [ ! -e "$work/list" ]; then exit $failed; fi

cp "$here/guest/go-test" "$work/go-test"
echo "$run" >"$work/run"
echo "$must" >"$work/must"
[ $verbose = 0 ] || : >"$work/verbose"
while IFS='=' read -r -d '' name value; do
	case $name in
	CI | BERTH_*) options+=(--env "$name=$value") ;;
	esac
done < <(env -0)
top=$(cd "$here/../.." && pwd) # may lie below /tmp; test/clients is a module of its own in it
status=0
"$here/run.sh" --share "$work" --see "$top" --timeout "$timeout" --env BERTH_VM=1 ${options[@]+"${options[@]}"} \
	-- /run/vm/busybox sh /host/go-test || status=$?
if [ $status -ge 124 ]; then
	# The guest broke or was too slow: show how far the package at hand came.
	if [ -e "$work/now" ]; then
		read -r n package _ <"$work/now"
		cat "$work/$n.out" 2>/dev/null || true
		printf 'FAIL\t%s [guest ended]\n' "$package"
	fi
	failed=1
elif [ $status != 0 ]; then
	failed=1
fi
[ $failed = 0 ] || echo FAIL
exit $failed
