// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestFSGroup: a plain user writes into a volume of its fsGroup, also in a user namespace.
func TestFSGroup(t *testing.T) {
	h := newHost(t)
	h.start()
	text := sample(t, "fsgroup.yaml")
	h.raw("fsgroup.yaml", text)
	_, own, _ := strings.Cut(text, "---\n")
	h.raw("mapped.yaml", strings.NewReplacer("name: fsgroup\nspec:", "name: mapped\nspec:\n  hostUsers: false",
		"runAsUser: 1000", "runAsUser: 1001").Replace(own))
	for name, user := range map[string]string{"fsgroup": "1000", "mapped": "1001"} {
		groups := "1000 2000"
		if user == "1000" {
			groups = "1000 4 2000" // by /etc/group of the image
		}
		h.until(name+" has ended", func() bool {
			c := h.get(name)
			return c != nil && c.Status.State.Terminated != nil
		})
		want := groups + "\ndrwxrwsrwx 0 2000 /state\n-rw-r--r-- " + user +
			" 2000 /state/file\n-r--r----- 0 2000\nsecret"
		if got := strings.TrimSpace(h.logs(name)); got != want {
			t.Errorf("%s: found %q; want %q", name, got, want)
		}
	}
	h.removeAll("fsgroup.yaml", "mapped.yaml")
}
