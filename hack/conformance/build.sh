#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the validation programs of opencontainers/runtime-tools and its
# runtimetest from the Go module proxy, puts the suite's root file systems
# beside them, and prints the folder they are in on stdout. Progress goes to
# stderr.
#
#   hack/conformance/build.sh
#
# Only what is absent is built. The programs are kept by the content of what
# they are made from, in ${XDG_CACHE_HOME:-~/.cache}/berth/conformance/KEY, so
# any checkout of the same content shares them. Which programs there are, and of
# which version, says suite/go.mod.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { echo "conformance: $*" >&2; }

case ${1-} in
'') ;;
*) sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; [[ $1 = -h || $1 = --help ]]; exit ;;
esac

cd "$here/suite"
# Static: runtimetest runs in containers that have no libraries.
export CGO_ENABLED=0 GOWORK=off GOFLAGS="-mod=readonly -buildvcs=false"
ldflags="-s -w"
key=$({
	sha256sum go.mod go.sum
	go version
	go env GOAMD64 GOARM64 GOEXPERIMENT
	echo "$GOFLAGS $ldflags"
} | sha256sum | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/berth/conformance/$key

if [ ! -e "$dir/done" ]; then
	mkdir -p "$dir"
	# One build at a time; a second caller waits and then finds it all done.
	exec 9>"$dir/.lock"
	flock -n 9 || { say "waiting for another build"; flock 9; }
	if [ ! -e "$dir/done" ]; then
		say "building the validation programs"
		start=$SECONDS
		go build -ldflags "$ldflags" -o "$dir/" tool >&2
		install -m 644 "$(go list -m -f '{{.Dir}}' github.com/opencontainers/runtime-tools)"/rootfs-*.tar.gz "$dir/"
		: >"$dir/done"
		say "built in $((SECONDS - start)) s"
	fi
	exec 9>&-
fi
echo "$dir"
