// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"encoding/json"
	"strings"
	"unique"

	"github.com/berth-run/berth/api/v1alpha1"
)

// document is the config of a bundle. The seccomp profile is two thirds of most configs, and most
// containers have the same: one copy of each is held.
type document struct {
	before, after string
	profile       unique.Handle[string]
}

// takeDocument takes the config out of a spec.
func takeDocument(spec *v1alpha1.OCIBundleSpec) document {
	raw := string(spec.Config.Raw)
	var config struct {
		Linux struct {
			Seccomp json.RawMessage `json:"seccomp"`
		} `json:"linux"`
	}
	// A config that is no JSON is the compiler's fault, and refused by whoever reads it.
	_ = json.Unmarshal(spec.Config.Raw, &config)
	spec.Config.Raw = nil
	profile := string(config.Linux.Seccomp)
	before, after, _ := strings.Cut(raw, profile)
	return document{strings.Clone(before), strings.Clone(after), unique.Make(profile)}
}

// in returns a copy of a bundle that has the config.
func (d document) in(b *v1alpha1.OCIBundle) *v1alpha1.OCIBundle {
	out := *b
	profile := d.profile.Value()
	raw := make([]byte, 0, len(d.before)+len(profile)+len(d.after))
	out.Spec.Config.Raw = append(append(append(raw, d.before...), profile...), d.after...)
	return &out
}
