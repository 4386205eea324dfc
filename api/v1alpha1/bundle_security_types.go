// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import corev1 "k8s.io/api/core/v1"

// BundleSecurity holds the fields of a Container's securityContext whose values the agent finds on
// its node.
type BundleSecurity struct {
	// fsGroup is the group that the agent gives to volumes; absent, they keep theirs.
	// +optional
	FSGroup *int64 `json:"fsGroup,omitempty"`

	// fsGroupChangePolicy of the Container; absent, Always.
	// +optional
	FSGroupChangePolicy corev1.PodFSGroupChangePolicy `json:"fsGroupChangePolicy,omitempty"`

	// appArmorProfile of the Container; absent, config names none.
	// +optional
	AppArmorProfile *corev1.AppArmorProfile `json:"appArmorProfile,omitempty"`

	// seLinuxOptions of the Container; absent, config has no labels.
	// +optional
	SELinuxOptions *corev1.SELinuxOptions `json:"seLinuxOptions,omitempty"`

	// localhostSeccompProfile is the path of a seccomp profile below the node's directory of them.
	// The agent puts it into config.linux.seccomp.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	LocalhostSeccompProfile string `json:"localhostSeccompProfile,omitempty"`
}
