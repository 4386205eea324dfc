// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"math/rand/v2"
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

// TestEqualsReference compares with the naive evaluator, for docker's profile and random ones.
func TestEqualsReference(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	profiles := []*specs.LinuxSeccomp{defaultProfile(t), defaultProfile(t, "CAP_SYS_ADMIN", "CAP_NET_ADMIN")}
	for range 60 {
		profiles = append(profiles, randomProfile(r, SupportedOperators()))
	}
	for _, p := range profiles {
		f, _, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		if !compare(t, p, f.Program, newReference(p).verdict, r) {
			return
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	p := defaultProfile(b)
	b.ReportAllocs()
	for b.Loop() {
		Compile(p)
	}
}
