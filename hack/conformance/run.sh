#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make conformance: runs the validation programs of opencontainers/runtime-tools
# with bin/berth, and fails if one fails that the list in docs/conformance.md
# does not name.
#
#   hack/conformance/run.sh [--all] [--vm | --guest-command] [-v] [PROGRAM...]
#
#   --all             the same with runc and crun of today beside it
#   --vm              in the virtual machine of hack/vm, under cgroup v2
#   --guest-command   builds what is needed, and prints the command that does
#                     this in a guest of hack/vm, beside other tests
#   -v                show the output of what fails
#
# runc is built from the Go module proxy and kept where hack/bench/runtime.sh
# keeps it. Two runs at once would use the same cgroups: the second one waits.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
runc_version=v1.5.1
say() { echo "conformance: $*" >&2; }

compare=0 where=here arguments=()
while [ $# -gt 0 ]; do
	case $1 in
	--all) compare=1; shift ;;
	--vm) where=vm; shift ;;
	--guest-command) where=guest; shift ;;
	-v) arguments+=(-v); shift ;;
	-h | --help) sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
	-*) say "unknown option $1; see $0 --help"; exit 2 ;;
	*) break ;;
	esac
done
[ -x bin/berth ] || { say "no bin/berth: run make build"; exit 2; }

suite=$(hack/conformance/build.sh)
CGO_ENABLED=0 go build -o bin/conformance ./hack/conformance
runtimes=(-runtime berth=bin/berth)
if [ $compare = 1 ]; then
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/berth/bench
	if [ ! -x "$cache/runc-$runc_version" ]; then
		say "building runc $runc_version"
		mkdir -p "$cache"
		work=$(mktemp -d "$cache/.make.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		GOBIN=$work CGO_ENABLED=1 go install -tags seccomp -ldflags "-s -w" "github.com/opencontainers/runc@$runc_version"
		mv "$work/runc" "$cache/runc-$runc_version"
	fi
	runtimes+=(-compare "runc=$cache/runc-$runc_version" -compare "crun=$(hack/bench/crun.sh)")
fi
arguments=(-suite "$suite" -doc docs/conformance.md "${runtimes[@]}" ${arguments[@]+"${arguments[@]}"})

# guest_command prints what a shell in a guest runs. The guest has AppArmor, and one program asks for
# a profile. Some programs mostly wait: a third one uses what they leave of two processors.
guest_command() {
	printf 'cd %q && apparmor_parser --replace --skip-cache hack/conformance/apparmor-profile && exec bin/conformance' "$PWD"
	printf ' %q' -jobs 3 -timeout 3m "${arguments[@]}" "$@"
}

case $where in
guest) guest_command "$@" ;;
vm) hack/vm/run.sh --see "$PWD" --see "$suite" --timeout 7200 -- sh -c "$(guest_command "$@")" ;;
here)
	exec 9>"$suite/.running"
	flock -n 9 || { say "waiting for another run"; flock 9; }
	bin/conformance "${arguments[@]}" "$@"
	;;
esac
