// SPDX-License-Identifier: Apache-2.0

// Package seccompref takes the seccomp profile out of the compiled document of an OCIBundle and
// puts it back. Most containers of a cluster have the same profile, which is two thirds of a
// document: an OCIBundle refers to a SeccompProfile by the SHA-256 of its content instead. The
// content never changes, so an upgrade cannot change what a digest means.
//
// The package is pure. Who stores profiles and who reads them is not known here.
package seccompref

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/berth-run/berth/api/v1alpha1"
)

// absent is linux.seccomp of a document whose profile was taken out. It is no valid profile: a
// program that ignores spec.seccompProfile fails to run the document, and does not run it without a
// profile.
const absent = `{"defaultAction":"see spec.seccompProfile of the OCIBundle"}`

// Split takes linux.seccomp out of spec.config, sets spec.seccompProfile to its digest, and returns
// it. It returns "" if the document has no seccomp profile.
func Split(spec *v1alpha1.OCIBundleSpec) (profile string, err error) {
	found, config, err := swap(spec.Config.Raw, absent)
	if err != nil || found == "" {
		return "", err
	}
	spec.Config.Raw, spec.SeccompProfile = config, Digest(found)
	return found, nil
}

// Join returns the spec with profile in its document, and without the reference: as it was before
// Split. It fails if profile does not have the digest that spec.seccompProfile says.
func Join(spec *v1alpha1.OCIBundleSpec, profile string) (*v1alpha1.OCIBundleSpec, error) {
	if found := Digest(profile); found != spec.SeccompProfile {
		return nil, fmt.Errorf("spec.seccompProfile: found a profile with digest %s; allowed: %s", found,
			spec.SeccompProfile)
	}
	_, config, err := swap(spec.Config.Raw, profile)
	if err != nil {
		return nil, err
	}
	out := *spec
	out.Config.Raw, out.SeccompProfile = config, ""
	return &out, nil
}

// swap replaces linux.seccomp of a document, and returns the one before. A document that has none
// is returned as it is.
func swap(document []byte, seccomp string) (before string, after []byte, err error) {
	var top, linux map[string]json.RawMessage
	if err := json.Unmarshal(document, &top); err != nil {
		return "", nil, fmt.Errorf("config: %w", err)
	}
	if len(top["linux"]) > 0 {
		if err := json.Unmarshal(top["linux"], &linux); err != nil {
			return "", nil, fmt.Errorf("config.linux: %w", err)
		}
	}
	if linux["seccomp"] == nil || string(linux["seccomp"]) == "null" {
		return "", document, nil
	}
	before = string(linux["seccomp"])
	linux["seccomp"] = json.RawMessage(seccomp)
	if top["linux"], err = json.Marshal(linux); err != nil {
		return "", nil, fmt.Errorf("config.linux: %w", err)
	}
	if after, err = json.Marshal(top); err != nil {
		return "", nil, fmt.Errorf("config: %w", err)
	}
	return before, after, nil
}

const algorithm = "sha256"

// Digest returns spec.seccompProfile of an OCIBundle that refers to profile.
func Digest(profile string) string {
	return fmt.Sprintf("%s:%x", algorithm, sha256.Sum256([]byte(profile)))
}

// Name returns the name of the SeccompProfile with a digest.
func Name(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// OfName returns the digest of the SeccompProfile with a name.
func OfName(name string) string { return strings.Replace(name, "-", ":", 1) }
