// SPDX-License-Identifier: Apache-2.0

package document

import (
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func BenchmarkDecode(b *testing.B) {
	text, err := os.ReadFile("testdata/containerd-spec.json")
	if err != nil {
		b.Fatal(err)
	}
	for name, f := range map[string]func(){
		"unmarshal": func() { _ = unmarshal(text, &specs.Spec{}) },
		"faults":    func() { Decode(text).Faults() },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
