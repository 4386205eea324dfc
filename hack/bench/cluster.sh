#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bench-burst and make bench-nodes: starts a cluster of hack/cluster of their own, with a real API server, the
# controller and one agent, and measures it with hack/bench/cluster.
#
#   hack/bench/cluster.sh burst|nodes [FLAGS OF hack/bench/cluster]      such as -containers 200
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ "$(id -u)" = 0 ] || { echo "bench: containers need root" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/var/tmp}/berth-bench-XXXXXXXX")
export BERTH_CLUSTER_DIR=$work/cluster
cleanup() {
	hack/cluster/down.sh --timeout 30s > "$work/down.log" 2>&1 || cat "$work/down.log" >&2
	rm -rf "$work"
}
trap cleanup EXIT

CGO_ENABLED=0 go build -o "$work/bench" ./hack/bench/cluster
hack/cluster/up.sh > /dev/null
command=${1-}
[ $# = 0 ] || shift
"$work/bench" "$command" -dir "$BERTH_CLUSTER_DIR" -assets "$(hack/controlplane/build.sh --dir)" "$@"
