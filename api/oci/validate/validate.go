// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"io/fs"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// MaxDocumentSize is the greatest size in bytes of a document that JSON and
// ProcessJSON read. The largest real ones (a default seccomp profile written
// out, hundreds of mounts) stay below 1 MiB.
const MaxDocumentSize = 16 << 20

// Options is what a validation knows beside the document. The zero value is
// good: it checks all that the document alone can tell.
type Options struct {
	// Bundle is the absolute folder that relative paths of the document are
	// relative to, or "" when it is not known. With it, an absolute root.path
	// may still be inside or outside of it; nothing is read from it by Spec,
	// JSON and Process. See OnHost for what is.
	Bundle string
	// VM says that the document is for a handler that runs virtual machines;
	// only such a one may have the vm section.
	VM bool
	// KnownSyscall tells whether a seccomp profile's name is a system call of
	// any architecture that the runtime has a table of. Names that it does not
	// know become warnings, since profiles list newer ones. With nil no name
	// is doubted.
	KnownSyscall func(name string) bool
}

// Spec returns every fault of a document that is parsed already. A nil spec is
// a fault. The spec is only read.
func Spec(spec *specs.Spec, o Options) Faults {
	if spec == nil {
		return Faults{{Found: "nothing", Allowed: "a runtime-spec document", Severity: Error}}
	}
	return nil
}

// Process returns every fault of a process alone, as `exec --process FILE`
// takes it. Paths begin at the process, such as "args" or "user.umask".
func Process(p *specs.Process, o Options) Faults {
	return nil
}

// JSON parses a document (config.json) strictly and returns it with every fault
// of it. Unknown fields are no fault (config.md, "Extensibility"); fields given
// twice, anything after the document, and documents of more than
// MaxDocumentSize bytes are. The spec is nil if the document cannot be parsed.
func JSON(document []byte, o Options) (*specs.Spec, Faults) {
	return nil, nil
}

// ProcessJSON is JSON for a process alone (process.json).
func ProcessJSON(document []byte, o Options) (*specs.Process, Faults) {
	return nil, nil
}

// OnHost returns the faults that only the host can show: a root.path that is no
// directory (config.md, "Root": "A directory MUST exist at the path"), and a
// bind mount's source that does not exist. Relative paths are relative to
// o.Bundle, and skipped if that is empty. host is the host's file system from
// its root, as os.DirFS("/").
func OnHost(spec *specs.Spec, host fs.FS, o Options) Faults {
	return nil
}
