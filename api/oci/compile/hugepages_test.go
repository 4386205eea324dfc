// SPDX-License-Identifier: Apache-2.0

package compile

import "testing"

// TestHugePages: a medium without a size gets the size of the only limit, and the compiled Container
// does not change.
func TestHugePages(t *testing.T) {
	c := parse(t, `
image: x
resources: {limits: {hugepages-1Gi: 2Gi}, requests: {hugepages-1Gi: 2Gi}}
volumes:
- {name: a, emptyDir: {medium: HugePages, sizeLimit: 1Gi}}
- {name: b, emptyDir: {medium: HugePages-1Gi}}
`)
	b, faults := Bundle(c)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if got := c.Spec.Volumes[0].EmptyDir.Medium; got != "HugePages" {
		t.Errorf("the Container has the medium %s by now", got)
	}
	found := flatten(t, b)
	for path, want := range map[string]string{
		"volumes[a].emptyDir.medium":    `"HugePages-1Gi"`,
		"volumes[a].emptyDir.sizeLimit": `"1Gi"`,
		"volumes[b].emptyDir.medium":    `"HugePages-1Gi"`,

		`config.linux.resources.hugepageLimits[{"limit":2147483648,"pageSize":"1GB"}].limit`: `2147483648`,
	} {
		if found[path] != want {
			t.Errorf("%s is %s; want %s", path, found[path], want)
		}
	}
}
