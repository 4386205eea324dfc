// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package controlplane pins the Kubernetes programs that the tests and the
// local cluster of Berth run against. It is a module of its own because
// k8s.io/kubernetes demands a replace directive for each of its staging
// modules, and these must never reach Berth's own go.mod. Nothing of Berth is
// imported here.
package controlplane

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
