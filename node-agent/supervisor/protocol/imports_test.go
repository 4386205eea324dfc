// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestImports holds that a client of the supervisor links nothing of the agent, of handlers, of the
// runtime or of Kubernetes.
func TestImports(t *testing.T) {
	leaktest.Check(t)
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 10 {
		t.Fatalf("go list names %d packages only", len(deps))
	}
	const module = "github.com/berth-run/berth/"
	for _, dep := range deps {
		switch {
		case strings.HasPrefix(dep, module+"internal/"),
			dep == module+"node-agent/boottime",
			dep == module+"node-agent/supervisor/protocol":
		case strings.HasPrefix(dep, module), strings.Contains(dep, "k8s.io/"):
			t.Errorf("it imports %s", dep)
		}
	}
}
