// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"encoding/json"
	"slices"
	"strings"
	"unique"

	"github.com/berth-run/berth/api/v1alpha1"
)

// document is the config of a bundle, in pieces whose concatenation it is. Most containers have the
// same in nearly all of it: of each piece one copy is held, however many configs have it.
type document []unique.Handle[string]

// takeDocument takes the config out of a spec.
func takeDocument(spec *v1alpha1.OCIBundleSpec) document {
	// The parts by which configs differ, and the longest ones, in the order in which they are compiled.
	var config struct {
		Process struct {
			Args json.RawMessage `json:"args"`
			Env  json.RawMessage `json:"env"`
		} `json:"process"`
		Hostname json.RawMessage `json:"hostname"`
		Mounts   json.RawMessage `json:"mounts"`
		Linux    struct {
			Resources json.RawMessage `json:"resources"`
			Seccomp   json.RawMessage `json:"seccomp"`
		} `json:"linux"`
	}
	// A config that is no JSON is the compiler's fault, and refused by whoever reads it.
	_ = json.Unmarshal(spec.Config.Raw, &config)
	rest := string(spec.Config.Raw)
	spec.Config.Raw = nil
	var out document
	for _, part := range []json.RawMessage{
		config.Process.Args, config.Process.Env, config.Hostname, config.Mounts, config.Linux.Resources, config.Linux.Seccomp,
	} {
		before, after, found := strings.Cut(rest, string(part))
		if found && len(part) > 0 {
			out, rest = append(out, unique.Make(before), unique.Make(string(part))), after
		}
	}
	return slices.Clip(append(out, unique.Make(rest)))
}

// in returns a copy of a bundle that has the config.
func (d document) in(b *v1alpha1.OCIBundle) *v1alpha1.OCIBundle {
	out := *b
	size := 0
	for _, piece := range d {
		size += len(piece.Value())
	}
	raw := make([]byte, 0, size)
	for _, piece := range d {
		raw = append(raw, piece.Value()...)
	}
	out.Spec.Config.Raw = raw
	return &out
}
