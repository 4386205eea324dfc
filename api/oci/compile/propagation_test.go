// SPDX-License-Identifier: Apache-2.0

package compile

import "testing"

// TestBidirectional: a mount that is shared with the node needs a root that is shared, whatever
// other mounts ask for, in either order.
func TestBidirectional(t *testing.T) {
	b, faults := Bundle(parse(t, `
image: x
securityContext: {privileged: true}
volumes: [{name: v, hostPath: {path: /v}}]
volumeMounts:
- {name: v, mountPath: /a, mountPropagation: HostToContainer}
- {name: v, mountPath: /b, mountPropagation: Bidirectional}
- {name: v, mountPath: /c, mountPropagation: HostToContainer}
- {name: v, mountPath: /d}
`))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	found := flatten(t, b)
	for path, want := range map[string]string{
		"config.mounts[/a].options":      `["rbind","rslave","rw"]`,
		"config.mounts[/b].options":      `["rbind","rshared","rw"]`,
		"config.mounts[/c].options":      `["rbind","rslave","rw"]`,
		"config.mounts[/d].options":      `["rbind","rprivate","rw"]`,
		"config.linux.rootfsPropagation": `"shared"`,
	} {
		if found[path] != want {
			t.Errorf("%s is %s; want %s", path, found[path], want)
		}
	}
}
