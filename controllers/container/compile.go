// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/api/v1alpha1"
)

// compile turns the spec into that of an OCIBundle. Where it cannot, everything stops here: what runs already, of an
// earlier generation, is left as it is.
func (r *Reconciler) compile(_ context.Context, s *scope) (bool, error) {
	desired, faults := compile.Bundle(s.container)
	lines := make([]string, 0, len(faults))
	for _, f := range faults {
		lines = append(lines, f.Error())
	}
	if len(lines) == 0 {
		found := validateBundle(desired)
		for _, f := range found.Errors() {
			lines = append(lines, "config."+f.Error())
		}
		for _, w := range found.Warnings() {
			s.found.warnings = append(s.found.warnings, "config."+w.Error())
		}
	}
	s.found.compiled = true
	if len(lines) > 0 {
		s.found.invalid = strings.Join(lines, "; ")
		return false, nil
	}
	s.desired = desired
	return true, nil
}

// compileFor compiles once more where the node is of another architecture than the controller, since the default seccomp
// profile names the system calls of a machine. The same faults, none, come out of it.
func (s *scope) compileFor(architecture string) error {
	if architecture == "" || architecture == runtime.GOARCH {
		return nil
	}
	desired, faults := compile.Bundle(s.container, compile.Architecture(architecture))
	if len(faults) > 0 {
		return fmt.Errorf("compile for %s: %w", architecture, faults.ToAggregate())
	}
	s.desired = desired
	return nil
}

// fromImage stands for what the image says in a document that is checked before the image is known.
const fromImage = "(from the image)"

// validateBundle checks the runtime-spec document as far as it can be without the image; the agent checks it again when it
// has put in what the image says.
func validateBundle(b *v1alpha1.OCIBundleSpec) validate.Faults {
	doc := &specs.Spec{}
	if err := json.Unmarshal(b.Config.Raw, doc); err != nil {
		return validate.Faults{{Found: err.Error(), Allowed: "a runtime-spec document", Severity: validate.Error}}
	}
	if b.Image != nil {
		if doc.Process == nil {
			doc.Process = &specs.Process{}
		}
		if len(doc.Process.Args) == 0 {
			doc.Process.Args = []string{fromImage}
		}
		if doc.Process.Cwd == "" {
			doc.Process.Cwd = "/"
		}
	}
	return validate.Spec(doc, validate.Options{})
}

// shorten keeps a message within n bytes, which is what a condition or an event may hold, and says that it did.
func shorten(message string, n int) string {
	if len(message) <= n {
		return message
	}
	const rest = "… (%d bytes more)"
	keep := n - len(rest) - 8
	return strings.ToValidUTF8(message[:keep], "") + fmt.Sprintf(rest, len(message)-keep)
}
