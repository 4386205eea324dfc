// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"strings"
	"testing"

	"github.com/berth-run/berth/internal/importtest"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestImports holds that a client of the supervisor links nothing of the agent, of handlers, of the
// runtime or of Kubernetes.
func TestImports(t *testing.T) {
	leaktest.Check(t)
	const module = "github.com/berth-run/berth/"
	for _, dep := range importtest.Deps(t) {
		switch {
		case strings.HasPrefix(dep, module+"internal/"),
			dep == module+"node-agent/boottime",
			dep == module+"node-agent/supervisor/protocol":
		case strings.HasPrefix(dep, module), strings.Contains(dep, "k8s.io/"):
			t.Errorf("it imports %s", dep)
		}
	}
}
