// SPDX-License-Identifier: Apache-2.0

package selinux

import (
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"testing/fstest"

	corev1 "k8s.io/api/core/v1"
)

func ensure(t *testing.T, l *Levels, container, given string) string {
	t.Helper()
	level, err := l.Ensure(container, given)
	if err != nil {
		t.Fatal(err)
	}
	return level
}

// TestLevels: no two containers have a level in common unless somebody gave it to them, and each
// keeps its own, also if the agent was killed.
func TestLevels(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "selinux")
	l := Open(dir)
	form := regexp.MustCompile(`^s0:c\d+,c\d+$`)
	seen := map[string]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		all.Go(func() {
			level, err := l.Ensure(name, "")
			if err != nil || !form.MatchString(level) {
				t.Errorf("found %q, %v", level, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if seen[level] != "" {
				t.Errorf("%s and %s have %s", name, seen[level], level)
			}
			seen[level] = name
		})
	}
	all.Wait()
	l = Open(dir)
	for level, name := range seen {
		if got := ensure(t, l, name, ""); got != level {
			t.Errorf("%s: found %s after a restart; want %s", name, got, level)
		}
	}

	// One that is given may be others' as well, and is not kept once it is taken back.
	for _, name := range []string{"a", "e"} {
		if got := ensure(t, l, name, "s0:c5,c7"); got != "s0:c5,c7" {
			t.Errorf("found %s; want the one that was given", got)
		}
	}
	if err := os.Symlink("own s0:c1,c2", filepath.Join(dir, ".new-a")); err != nil { // of a kill
		t.Fatal(err)
	}
	l = Open(dir)
	if got := ensure(t, l, "a", "s0:c5,c7"); got != "s0:c5,c7" {
		t.Errorf("found %s after a restart; want the one that was given", got)
	}
	if got := ensure(t, l, "a", ""); got == "s0:c5,c7" || seen[got] != "" && seen[got] != "a" {
		t.Errorf("found %s; want one of its own", got)
	}
	if err := os.Symlink("given s0:c1", filepath.Join(dir, ".new-a")); err != nil { // of a kill
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Release("a"); err != nil {
			t.Error(err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*a")); err != nil || len(left) > 0 {
		t.Errorf("found %v, %v; want no link after Release", left, err)
	}
}

// TestFreeLevel: a level that is used is not given again.
func TestFreeLevel(t *testing.T) {
	l := Open(t.TempDir())
	l.of = map[string]level{}
	for range 2000 { // of 523776: without a look at them, some two would be the same
		text := l.free()
		if _, used := l.of[text]; used {
			t.Fatalf("found %s again", text)
		}
		l.of[text] = level{own: true, text: text}
	}
}

// TestLabelsFor: what the options say counts over the node's policy, and that over our own.
func TestLabelsFor(t *testing.T) {
	policy := fstest.MapFS{
		"etc/selinux/config": {Data: []byte("# SELINUXTYPE=mls\nSELINUX=enforcing\nSELINUXTYPE=default\n")},
		"etc/selinux/default/contexts/lxc_contexts": {Data: []byte(
			"process = \"sys:role:svirt_lxc_net_t:s0\"\nfile = \"sys:object_r:svirt_sandbox_file_t:s0\"\n")},
	}
	broken := fstest.MapFS{
		"etc/selinux/config":                         {Data: []byte("SELINUXTYPE=/../x\n")},
		"etc/selinux/targeted/contexts/lxc_contexts": {Data: []byte("process = \"x\"\n")},
	}
	for name, tc := range map[string]struct {
		options corev1.SELinuxOptions
		host    fstest.MapFS
		want    Labels
	}{
		"nothing": {
			corev1.SELinuxOptions{},
			fstest.MapFS{},
			Labels{"system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"},
		},
		"everything": {
			corev1.SELinuxOptions{User: "u", Role: "r", Type: "t"},
			policy,
			Labels{"u:r:t:s0:c1,c2", "u:object_r:svirt_sandbox_file_t:s0:c1,c2"},
		},
		"the policy": {
			corev1.SELinuxOptions{},
			policy,
			Labels{"sys:role:svirt_lxc_net_t:s0:c1,c2", "sys:object_r:svirt_sandbox_file_t:s0:c1,c2"},
		},
		"a broken policy": {
			corev1.SELinuxOptions{},
			broken,
			Labels{"system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"},
		},
	} {
		if got := LabelsFor(&tc.options, "s0:c1,c2", tc.host); got != tc.want {
			t.Errorf("%s: found %+v; want %+v", name, got, tc.want)
		}
	}
}
