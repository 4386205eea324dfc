#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make cluster-down: ends what up.sh started, and only that, and removes the
# state folder, BERTH_CLUSTER_DIR or bin/cluster.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
assets=$(hack/controlplane/build.sh --dir)
CGO_ENABLED=0 go build -o bin/berth-cluster ./hack/cluster
exec bin/berth-cluster down --dir "${BERTH_CLUSTER_DIR:-bin/cluster}" --assets "$assets" "$@"
