// SPDX-License-Identifier: Apache-2.0

package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-run/berth/internal/importtest"

	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/racetest"
)

// TestImports holds that the agent talks to its supervisor and links no runtime, and that it links
// the kinds of Kubernetes that it uses and no other: with all of them the program is twice as
// large, and so is the memory that it takes with no container.
func TestImports(t *testing.T) {
	const module = "github.com/berth-run/berth/node-agent/"
	kinds := []string{"core/v1", "coordination/v1", "authentication/v1"}
	for _, dep := range importtest.Deps(t) {
		if dep == module+"supervisor" || strings.HasPrefix(dep, module+"handler") ||
			strings.HasPrefix(dep, module+"runtime") {
			t.Errorf("it imports %s", dep)
		}
		for _, all := range []string{
			"sigs.k8s.io/controller-runtime", "k8s.io/client-go/kubernetes",
			"github.com/google/gnostic-models",
			"google.golang.org/protobuf", "github.com/prometheus",
		} {
			if dep == all || strings.HasPrefix(dep, all+"/") {
				t.Errorf("it imports %s", dep)
			}
		}
		if group, ok := strings.CutPrefix(dep, "k8s.io/api/"); ok && !slices.Contains(kinds, group) {
			t.Errorf("it imports %s; allowed of k8s.io/api: %v", dep, kinds)
		}
	}
}

// TestProgramSize limits the size of the agent's code and constants, most of which are in memory
// while it runs: 1 MiB is 1 KiB for each of 1,000 containers. A call of text/template, such as by
// cobra's SetVersionTemplate, adds 3.7 MiB: the linker drops no unused method of a program that
// looks up methods by name.
func TestProgramSize(t *testing.T) {
	needs.Root(t)
	program := programs + "/berth-agent"
	if racetest.Enabled { // that one has the detector in it
		program = filepath.Join(t.TempDir(), "berth-agent")
		build := exec.Command("go", "build", "-o", program, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", build, err, out)
		}
	}
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var size uint64
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_W == 0 {
			size += p.Filesz
		}
	}
	if limit := uint64(21 << 20); size > limit {
		t.Errorf("found %.1f MiB of code and constants; want at most %d", float64(size)/(1<<20),
			limit>>20)
	}
}
