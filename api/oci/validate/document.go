// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
)

// JSON decodes a config.json and returns it with every fault of its form and of its values. The
// spec is nil if there is a fault of the form; faults of its other fields are reported
// nevertheless.
func JSON(text []byte, o Options) (*specs.Spec, document.Faults) {
	return Document(document.Decode(text), o)
}

// Document is JSON for a document that is decoded already. A caller may use it before, to begin
// slow work or to fill in defaults.
func Document(d *document.Document[specs.Spec], o Options) (*specs.Spec, document.Faults) {
	return whole(d, func(spec *specs.Spec) document.Faults { return Spec(spec, o) })
}

// ProcessJSON is JSON for a process alone (process.json of `exec --process`).
func ProcessJSON(text []byte, o Options) (*specs.Process, document.Faults) {
	return whole(document.DecodeProcess(text), func(p *specs.Process) document.Faults {
		return Process(p, o)
	})
}

// SeccompJSON is JSON for a seccomp profile alone. Paths begin with "linux.seccomp".
func SeccompJSON(text []byte, o Options) (*specs.LinuxSeccomp, document.Faults) {
	return whole(document.DecodeSeccomp(text), func(profile *specs.LinuxSeccomp) document.Faults {
		c := newChecker(&specs.Spec{Linux: &specs.Linux{Seccomp: profile}}, o)
		c.seccomp()
		return c.all()
	})
}

// whole returns the value of a document with the faults of its form and those that check finds.
func whole[T document.Value](d *document.Document[T], check func(*T) document.Faults) (*T,
	document.Faults,
) {
	faults := d.Faults()
	if d.Value == nil {
		return nil, faults
	}
	value := d.Value
	if faults.Err() != nil {
		value = nil
	}
	return value, append(faults, apart(faults, check(d.Value))...)
}

// apart returns the faults that are not a consequence of those of the form: a field that is missing
// or of a wrong type is empty in the decoded value, which is a fault of the value too.
func apart(form, found document.Faults) document.Faults {
	if len(form) == 0 {
		return found
	}
	var kept document.Faults
	for _, f := range found {
		follows := false
		for _, p := range form {
			follows = follows || within(f.Path, p.Path) || f.Path == parent(p.Path)
		}
		if !follows {
			kept = append(kept, f)
		}
	}
	return kept
}

// within reports whether path is the field outer or one inside of it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && outer != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// parent returns the path of the object or array that a field is in.
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}
