#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make cluster-up: starts a Kubernetes API server with Berth's controller and one
# agent on this host, and waits until they are ready. Running it again starts what
# does not run, and anew what has been rebuilt. What it needs of Kubernetes it
# builds (some minutes the first time); bin/ has to be built before.
#
#   hack/cluster/up.sh [FLAG...]      the flags of hack/cluster, see --help
#
# BERTH_CLUSTER_DIR is the state folder, bin/cluster by default; the admin's
# kubeconfig is in it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
assets=$(hack/controlplane/build.sh etcd kube-apiserver kubectl)
CGO_ENABLED=0 go build -o bin/berth-cluster ./hack/cluster
exec bin/berth-cluster up --dir "${BERTH_CLUSTER_DIR:-bin/cluster}" --assets "$assets" "$@"
