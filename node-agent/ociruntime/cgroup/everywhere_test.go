// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/internal/needs"
)

// TestJoin has another process join a new cgroup below a new one: it is in every hierarchy then, a
// cpuset takes it, and RemoveEmpty leaves no directory of it.
func TestJoin(t *testing.T) {
	needs.Root(t)
	if path := os.Getenv("BERTH_TEST_JOIN"); path != "" {
		err := Join(layout(t), path)
		own, _ := os.ReadFile("/proc/self/cgroup")
		fmt.Printf("joined: %v\n%s", err, own)
		os.Exit(0)
	}
	parent := fmt.Sprintf("/t%d-join", os.Getpid())
	path := parent + "/below"
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestJoin$")
	cmd.Env = append(os.Environ(), "BERTH_TEST_JOIN="+path)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	result, memberships, _ := strings.Cut(string(out), "\n")
	if result != "joined: <nil>" {
		t.Error(result)
	}
	l := layout(t)
	joined := cgrouplayout.Memberships(memberships)
	if len(joined) < len(l.Dirs()) {
		t.Errorf("found %d hierarchies; want %d", len(joined), len(l.Dirs()))
	}
	for _, m := range joined {
		if m.Path != path && (m.Controllers != nil || l.V2() != "") {
			t.Errorf("hierarchy %v: in %s; want %s", m.Controllers, m.Path, path)
		}
	}
	for _, p := range []string{path, parent} {
		RemoveEmpty(l, filepath.Join(l.Dirs()[0], p))
		for _, top := range l.Dirs() {
			if _, err := os.Lstat(filepath.Join(top, p)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left: %s in %s", p, top)
			}
		}
	}
}
