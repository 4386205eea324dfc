// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// FuzzAccounts: whatever an image has as /etc/passwd and /etc/group, whoever its config names gets
// ids that wrap nowhere, and is root only where the image says so by name or number.
func FuzzAccounts(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\nu:x:7:8::/home/u:\n"), []byte("wheel:x:10:u,root\nu:x:8:\n"), "u:wheel")
	f.Add([]byte("a:x:4294967296:0\nb:x:-1:-1\nc:x:2147483648:1\n::::::\n"), []byte("g:x:4294967295:a\n:x:0:a\n"), "a:g")
	f.Add([]byte("a:x:00:01\n#b:x:1:1\n a : x : 3 : 4 \n"), []byte("a:x:5:,,a,a\n"), "0007:a")
	f.Add([]byte("a\x00:x:0:0::/\x00:\n+:::::\n"), []byte("\xff:x:1:a"), ":")
	f.Fuzz(func(t *testing.T, passwd, groups []byte, user string) {
		a := Parse(passwd, groups)
		id, err := a.Identify(user, nil, nil)
		if err != nil {
			return
		}
		for _, n := range append([]uint32{id.UID, id.GID}, id.Groups...) {
			if n > math.MaxInt32 {
				t.Fatalf("%q has become %+v", user, id)
			}
		}
		if !slices.Contains(id.Groups, id.GID) {
			t.Fatalf("%q: the primary group is not among the others: %+v", user, id)
		}
		name, _, _ := strings.Cut(user, ":")
		zero := func(s string) bool { return s != "" && strings.Trim(s, "0") == "" }
		named := slices.ContainsFunc(strings.Split(string(passwd), "\n"), func(line string) bool {
			fields := strings.Split(strings.TrimSpace(line), ":")
			return len(fields) > 3 && fields[0] == name && zero(fields[2])
		})
		if id.UID == 0 && user != "" && !zero(name) && !named {
			t.Fatalf("%q has become root of %q", user, passwd)
		}
	})
}

// FuzzHome: a home directory found in any /etc/passwd can be in an environment.
func FuzzHome(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\n"), uint32(0))
	f.Add([]byte("::::::\na:b:7:c:d:e\n"), uint32(7))
	f.Add([]byte("a:b:7:c:d:\x00:\n+::::::\n"), uint32(7))
	f.Fuzz(func(t *testing.T, passwd []byte, uid uint32) {
		home := Home(passwd, uid)
		if strings.ContainsAny(home, "\x00\n:") {
			t.Fatalf("found the home directory %q", home)
		}
	})
}
