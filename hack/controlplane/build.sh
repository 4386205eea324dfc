#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the Kubernetes programs that tests and the local cluster run against,
# from the Go module proxy, and prints the folder they are in on stdout: the
# value for KUBEBUILDER_ASSETS. Progress goes to stderr.
#
#   hack/controlplane/build.sh [--dir] [COMPONENT...]
#
# COMPONENT is one of etcd, kube-apiserver, kubectl, kube-controller-manager,
# kube-scheduler and kubelet; the default is the first three. --dir prints the
# folder and builds nothing.
#
# Only what is absent is built: some minutes on a cold machine, nothing after.
# Programs are kept by the content of what they are made from, in
# ${XDG_CACHE_HOME:-~/.cache}/berth/controlplane/KEY, so any checkout of the
# same content shares them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kubernetes=v1.37.2 # as in go.mod; checked below

say() { echo "controlplane: $*" >&2; }
die() { say "$*"; exit 1; }

build=1
components=()
for arg in "$@"; do
	case $arg in
	--dir) build=0 ;;
	-h | --help) sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
	etcd | kube-apiserver | kubectl | kube-controller-manager | kube-scheduler | kubelet) components+=("$arg") ;;
	*) die "unknown component $arg; allowed: etcd, kube-apiserver, kubectl, kube-controller-manager, kube-scheduler, kubelet" ;;
	esac
done
[ ${#components[@]} -gt 0 ] || components=(etcd kube-apiserver kubectl)

command -v go >/dev/null || die "go is not in PATH"
cd "$here"
grep -q "^	k8s.io/kubernetes $kubernetes$" go.mod || die "build.sh says Kubernetes $kubernetes, go.mod says otherwise"

# Static programs, and the same compile settings as Berth's own (no -trimpath),
# so that the packages both use are compiled once.
export CGO_ENABLED=0 GOWORK=off GOFLAGS="-mod=readonly -buildvcs=false"
version=k8s.io/component-base/version
minor=${kubernetes#v1.}
ldflags="-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"
ldflags+=" -X $version.gitTreeState=clean -X $version.gitCommit=unknown -X $version.buildDate=1970-01-01T00:00:00Z"

key=$({
	sha256sum go.mod go.sum etcd/main.go
	go version
	go env GOAMD64 GOARM64 GOEXPERIMENT
	echo "$GOFLAGS $ldflags"
} | sha256sum | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/berth/controlplane/$key

missing() {
	local c
	for c in "${components[@]}"; do [ -x "$dir/$c" ] || echo "$c"; done
}

if [ $build = 1 ] && [ -n "$(missing)" ]; then
	mkdir -p "$dir"
	# One build at a time; a second caller waits and then finds it all done.
	exec 9>"$dir/.lock"
	flock -n 9 || { say "waiting for another build"; flock 9; }
	mapfile -t absent < <(missing)
	if [ ${#absent[@]} -gt 0 ]; then
		packages=()
		for c in "${absent[@]}"; do
			if [ "$c" = etcd ]; then packages+=(./etcd); else packages+=("k8s.io/kubernetes/cmd/$c"); fi
		done
		tmp=$(mktemp -d "$dir/.build.XXXXXX")
		trap 'rm -rf "$tmp"' EXIT
		say "building ${absent[*]} of Kubernetes $kubernetes (some minutes when nothing is compiled yet)"
		start=$SECONDS
		# The compiler's garbage collector costs a fifth of the time: with
		# memory to spare it may run less often.
		spare=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)
		[ "$spare" -lt 8 ] || export GOGC=${GOGC:-400}
		# One go build for all: shared packages are compiled once and the
		# programs are linked side by side.
		go build -ldflags "$ldflags" -o "$tmp/" "${packages[@]}" >&2
		for c in "${absent[@]}"; do mv "$tmp/$c" "$dir/$c"; done
		say "built ${absent[*]} in $((SECONDS - start)) s"
	fi
	exec 9>&-
fi
echo "$dir"
