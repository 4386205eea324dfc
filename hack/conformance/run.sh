#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make conformance: runs the validation programs of opencontainers/runtime-tools
# with bin/berth, and fails if one fails that the list in docs/conformance.md
# does not name.
#
#   hack/conformance/run.sh [--all] [--vm] [-v] [PROGRAM...]
#
#   --all   the same with runc and crun of today beside it
#   --vm    in the virtual machine of hack/vm, under cgroup v2
#   -v      show the output of what fails
#
# runc is built from the Go module proxy and kept where hack/bench/runtime.sh
# keeps it. Two runs at once would use the same cgroups: the second one waits.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
runc_version=v1.5.1
say() { echo "conformance: $*" >&2; }

compare=0 vm=0 arguments=()
while [ $# -gt 0 ]; do
	case $1 in
	--all) compare=1; shift ;;
	--vm) vm=1; shift ;;
	-v) arguments+=(-v); shift ;;
	-h | --help) sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
	-*) say "unknown option $1; see $0 --help"; exit 2 ;;
	*) break ;;
	esac
done
[ -x bin/berth ] || { say "no bin/berth: run make build"; exit 2; }

suite=$(hack/conformance/build.sh)
work=$(mktemp -d "${TMPDIR:-/tmp}/berth-conformance.XXXXXX")
trap 'rm -rf "$work"' EXIT
CGO_ENABLED=0 go build -o "$work/conformance" ./hack/conformance
cp bin/berth docs/conformance.md "$work/"
# All paths below are relative to $work, which is /host in the guest.
runtimes=(-runtime berth=berth)
if [ $compare = 1 ]; then
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/berth/bench
	if [ ! -x "$cache/runc-$runc_version" ]; then
		say "building runc $runc_version"
		mkdir -p "$cache"
		GOBIN=$work CGO_ENABLED=1 go install -tags seccomp -ldflags "-s -w" "github.com/opencontainers/runc@$runc_version"
		mv "$work/runc" "$cache/runc-$runc_version"
	fi
	cp "$cache/runc-$runc_version" "$work/runc"
	crun=$(hack/bench/crun.sh)
	printf '#!/bin/sh\nexec %s "$@"\n' "$crun" >"$work/crun"
	chmod +x "$work/crun"
	runtimes+=(-compare runc=runc -compare crun=crun)
fi
arguments=(-doc conformance.md "${runtimes[@]}" ${arguments[@]+"${arguments[@]}"})

if [ $vm = 1 ]; then
	cp -r "$suite" "$work/suite"
	# The guest has AppArmor, and one program asks for this profile. It is written as it takes to be the outcome of a program, not
	# to protect from anything.
	cat >"$work/profile" <<-'PROFILE'
		profile acme_secure_profile flags=(attach_disconnected,mediate_deleted) {
		  file, capability, network, mount, umount, signal, ptrace, unix,
		}
	PROFILE
	# Some programs mostly wait: a third one uses what they leave of two processors.
	quoted=$(printf '%q ' -suite suite -jobs 3 -timeout 3m "${arguments[@]}" "$@")
	hack/vm/run.sh --share "$work" --timeout 7200 -- \
		sh -c "apparmor_parser --replace --skip-cache profile && exec ./conformance $quoted"
else
	exec 9>"$suite/.running"
	flock -n 9 || { say "waiting for another run"; flock 9; }
	cd "$work"
	./conformance -suite "$suite" "${arguments[@]}" "$@"
fi
