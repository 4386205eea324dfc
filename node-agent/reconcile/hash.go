// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// Hash returns a hash that is equal for two specs from which the same container would be created.
// What the agent reads each time that it needs it (restart policy, back-off, grace period,
// requests, when to pull) is not part of it: a change of that needs no update.
//
// Records of older agents hold it, so it must stay what it is for every spec that they could have:
// a field that is added here, or to a type that is part of it, is left out where it is empty.
func Hash(spec *v1alpha1.OCIBundleSpec) (string, error) {
	var config any
	if err := json.Unmarshal(spec.Config.Raw, &config); err != nil {
		return "", fmt.Errorf("config: %w", err)
	}
	var image string
	if spec.Image != nil {
		image = spec.Image.Reference
	}
	// Marshal sorts the keys of config, so that the order in which the source has them does not
	// matter.
	data, err := json.Marshal(struct {
		Handler    string
		Image      string
		Process    v1alpha1.BundleProcess
		Config     any
		Volumes    []v1alpha1.Volume
		Logging    *v1alpha1.Logging        `json:",omitempty"`
		Network    *v1alpha1.BundleNetwork  `json:",omitempty"`
		Names      *v1alpha1.BundleNames    `json:",omitempty"`
		Devices    []v1alpha1.Device        `json:",omitempty"`
		AllDevices bool                     `json:",omitempty"`
		SubPaths   []v1alpha1.BundleSubPath `json:",omitempty"`
		Security   *v1alpha1.BundleSecurity `json:",omitempty"`
		Users      bool                     `json:",omitempty"`
		HostUsers  bool                     `json:",omitempty"`
		Claims     []v1alpha1.BundleClaim   `json:",omitempty"`
		// ServiceAccountName is of the tokens that the volumes ask for.
		ServiceAccountName string `json:",omitempty"`
	}{
		spec.Handler, image, spec.Process, config, spec.Volumes, spec.Logging, spec.Network, spec.Names,
		spec.Devices, spec.AllDevices, spec.SubPaths, spec.Security,
		spec.UserNamespace, spec.HostUsers, spec.Claims, spec.ServiceAccountName,
	})
	if err != nil {
		return "", fmt.Errorf("hash bundle: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16]), nil
}

// hashOf returns the hash of a bundle's spec; "" for no bundle.
func hashOf(b *v1alpha1.OCIBundle) string {
	if b == nil {
		return ""
	}
	hash, err := Hash(&b.Spec)
	if err != nil {
		// A document that is no JSON never comes from the API server; it differs from every good
		// one.
		return "invalid: " + err.Error()
	}
	return hash
}

// rehash computes the hash of the desired spec.
func (in *Input) rehash() { in.Hash = hashOf(in.Desired) }

// lastHash is the hash of the bundle that a worker has looked at last. It takes a whole document's
// worth of garbage to compute, and a worker looks many times at the same bundle.
type lastHash struct {
	uid        types.UID
	generation int64
	hash       string
}

// of returns the hash of the source's spec. Within one generation a source does not change it.
func (l *lastHash) of(b *v1alpha1.OCIBundle) string {
	if b == nil || b.Annotations[source.AnnotationUnresolved] != "" {
		return hashOf(b)
	}
	if l.hash == "" || l.uid != b.UID || l.generation != b.Generation {
		*l = lastHash{b.UID, b.Generation, hashOf(b)}
	}
	return l.hash
}
