// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkPlace places Containers on equal nodes, as the burst after an upgrade or the loss of a
// node does.
func BenchmarkPlace(b *testing.B) {
	for _, n := range []int{100, 5000} {
		for name, r := range map[string]Request{
			"any":      {},
			"selector": {Selectors: []map[string]string{{corev1.LabelOSStable: "linux"}}},
		} {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				nodes := make([]Node, n)
				for i := range nodes {
					nodes[i] = node(fmt.Sprintf("node-%d", i))
					nodes[i].Agent.Labels = map[string]string{
						corev1.LabelHostname: nodes[i].Agent.Name, corev1.LabelOSStable: "linux",
						corev1.LabelArchStable: "amd64",
					}
				}
				l := NewLedger()
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if _, unfit := l.Place(types.NamespacedName{Name: fmt.Sprint(i)}, r, nodes); unfit != nil {
						b.Fatal(unfit)
					}
				}
			})
		}
	}
}
