// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestNodeNamespace: every name that a node can have gives a namespace of its own.
func TestNodeNamespace(t *testing.T) {
	long := strings.Repeat("a", 52)
	seen := map[string]string{}
	for node, want := range map[string]string{
		"worker-1":                      "berth-node-worker-1",
		long:                            "berth-node-" + long,
		long + "a":                      "",
		long + "b":                      "",
		"ip-10-0-0-1.ec2.internal":      "berth-node-ip-10-0-0-1-ec2-internal-f8d8022819",
		"ip-10-0-0-1-ec2.internal":      "",
		"lease":                         "",
		"a.b":                           "",
		"a-b":                           "berth-node-a-b",
		strings.Repeat("a.", 126) + "a": "",
		strings.Repeat("a", 41) + ".a":  "",
		strings.Repeat("a", 40) + ".a":  "",
	} {
		got := v1alpha1.NodeNamespace(node)
		if faults := validation.IsDNS1123Label(got); len(faults) > 0 ||
			!strings.HasPrefix(got, "berth-node-") || got == v1alpha1.FormerLeaseNamespace {
			t.Errorf("%s: found %s: %v", node, got, faults)
		}
		if want != "" && got != want {
			t.Errorf("%s: found %s; want %s", node, got, want)
		}
		if other, taken := seen[got]; taken {
			t.Errorf("%s and %s have the namespace %s", node, other, got)
		}
		seen[got] = node
	}
}

// TestBundleName: Containers of two namespaces never have OCIBundles of the same name.
func TestBundleName(t *testing.T) {
	long := strings.Repeat("n", 253)
	seen := map[string]bool{}
	for _, c := range [][3]string{
		{"default", "hello", "default.hello"},
		{"default", "a.b", "default.a.b"},
		{"a", "b.c", "a.b.c"},
		{"a-b", "c", "a-b.c"},
		{strings.Repeat("s", 63), long, ""},
		{strings.Repeat("s", 63), long[1:], ""},
		{strings.Repeat("s", 62), long, ""},
		{strings.Repeat("s", 63), strings.Repeat("n", 178) + "." + strings.Repeat("m", 74), ""},
	} {
		got := v1alpha1.BundleName(c[0], c[1])
		if faults := validation.IsDNS1123Subdomain(got); len(faults) > 0 ||
			!strings.HasPrefix(got, c[0]+".") {
			t.Errorf("%s/%s: found %s: %v", c[0], c[1], got, faults)
		}
		if c[2] != "" && got != c[2] {
			t.Errorf("%s/%s: found %s; want %s", c[0], c[1], got, c[2])
		}
		if seen[got] {
			t.Errorf("%s twice", got)
		}
		seen[got] = true
	}
}
