// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"reflect"
	"testing"

	"github.com/berth-run/berth/internal/importtest"
)

// TestFindUser: who is meant by a user, as docker and podman have it.
func TestFindUser(t *testing.T) {
	a := Parse([]byte(
		"root:x:0:0::/root:\napp:x:7:8::/:\nbig:x:2147483648:1::/:\nbiggroup:x:12:2147483648::/:\n"),
		[]byte("root:x:0:\napp:x:8:\nwheel:x:10:root,app\naudio:x:11:app\n"))
	for user, want := range map[string]IDs{
		"app":          {7, 8, []uint32{10, 11}},
		"7":            {7, 8, []uint32{10, 11}},
		"app:wheel":    {7, 10, nil},
		"app:5":        {7, 5, nil},
		"9:audio":      {9, 11, nil},
		"9":            {9, 0, nil},
		"root":         {0, 0, []uint32{10}},
		"nosuch":       {},
		"big":          {},
		"biggroup":     {},
		"app:nosuch":   {},
		"app:":         {},
		":wheel":       {},
		"2147483648:0": {},
	} {
		got, err := a.Find(user)
		if wrong := reflect.DeepEqual(want, IDs{}); wrong && err == nil || !wrong &&
			(err != nil || !reflect.DeepEqual(got, want)) {
			t.Errorf("%s: found %+v, %v; want %+v", user, got, err, want)
		}
	}
}

// TestHome: the runtime reads the same lines as the agent does, with all ids that the kernel has.
func TestHome(t *testing.T) {
	passwd := []byte(
		"root:x:0:0::/root:/bin/sh\n#c:x:4:4::/c:\nshort:x:5\nnul:x:6:6::/\x00:\nu:x:6:6::/home/u:\r\n" +
			"gid:x:7:g::/g:\nbig:x:4294967294:0::/big:\ntwice:x:8:8::/first:\ntwice:x:8:8::/second:")
	for uid, want := range map[uint32]string{
		0: "/root", 4: "", 5: "", 6: "/home/u", 7: "", 8: "/first", 9: "", 4294967294: "/big",
	} {
		if got := Home(passwd, uid); got != want {
			t.Errorf("uid %d: found %q, want %q", uid, got, want)
		}
	}
}

// TestImports holds that the native runtime can import the package.
func TestImports(t *testing.T) {
	importtest.AllowOnly(t, importtest.Deps(t), "github.com/berth-run/berth/api/oci/accounts")
}
