// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultProfile is docker's profile as a container with these capabilities gets it.
func defaultProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSmoke(t *testing.T) {
	f, w, err := Compile(defaultProfile(t))
	t.Log(w, err)
	t.Log(len(f.Program))
}

func BenchmarkCompile(b *testing.B) {
	p := defaultProfile(b)
	b.ReportAllocs()
	for b.Loop() {
		Compile(p)
	}
}
