// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// RunDigest returns the same for two specs of a Container that differ only in where and how it is
// run: the same process comes of both.
func RunDigest(spec v1alpha1.ContainerSpec) string {
	spec.NodeName, spec.NodeSelector, spec.Tolerations = "", nil, nil
	spec.RestartPolicy, spec.ImagePullPolicy, spec.OnConfigChange = "", "", ""
	spec.ConfigChangeSignal = ""
	spec.RestartBackOff, spec.Logging, spec.ImagePullSecrets = nil, nil, nil
	spec.DependsOn = nil
	spec.TerminationGracePeriodSeconds, spec.ProgressDeadlineSeconds = nil, nil
	text, err := json.Marshal(spec)
	if err != nil {
		return "" // what came from JSON goes back
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(text))
}

// FixedDigest returns a digest without the fields that a running container can get (its resources),
// and without those that say where and how it is run. A variable that is one of the resources
// cannot change in a process that runs.
func FixedDigest(spec v1alpha1.ContainerSpec) string {
	for _, e := range spec.Env {
		if e.ValueFrom != nil && e.ValueFrom.ResourceFieldRef != nil {
			return RunDigest(spec)
		}
	}
	spec.Resources = corev1.ResourceRequirements{}
	return RunDigest(spec)
}
