// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/json"
	"slices"
	"strings"
	"unique"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Document is the config of a bundle, in pieces whose concatenation it is. Most containers have the
// same in nearly all of it: of each piece one copy is held, however many configs have it.
type Document []unique.Handle[string]

// TakeDocument takes the config out of a spec.
func TakeDocument(spec *v1alpha1.OCIBundleSpec) Document {
	// The parts by which configs differ, and the longest ones.
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
	// Whoever reads a config refuses one that is no JSON.
	_ = json.Unmarshal(spec.Config.Raw, &config)
	raw := string(spec.Config.Raw)
	spec.Config.Raw = nil
	type span struct{ from, to int }
	var parts []span
	for _, part := range []json.RawMessage{
		config.Process.Args, config.Process.Env, config.Hostname, config.Mounts, config.Linux.Resources,
		config.Linux.Seccomp,
	} {
		if from := strings.Index(raw, string(part)); from >= 0 && len(part) > 0 {
			parts = append(parts, span{from, from + len(part)})
		}
	}
	// The compiler's order is that of the runtime-spec, the API server's that of the names.
	slices.SortFunc(parts, func(a, b span) int { return a.from - b.from })
	var out Document
	end := 0
	for _, part := range parts {
		if part.from >= end {
			out, end = append(out, unique.Make(raw[end:part.from]), unique.Make(raw[part.from:part.to])),
				part.to
		}
	}
	return slices.Clip(append(out, unique.Make(raw[end:])))
}

// In returns a copy of a bundle that has the config.
func (d Document) In(b *v1alpha1.OCIBundle) *v1alpha1.OCIBundle {
	out := *b
	size := 0
	for _, piece := range d {
		size += len(piece.Value())
	}
	raw := slices.Grow([]byte(nil), size)
	for _, piece := range d {
		raw = append(raw, piece.Value()...)
	}
	out.Spec.Config.Raw = raw
	return &out
}
