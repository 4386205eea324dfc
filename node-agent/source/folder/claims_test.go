// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestConflictsDoNotDependOnOrder: the same files at the end give the same, in whichever order they
// came.
func TestConflictsDoNotDependOnOrder(t *testing.T) {
	files := map[string]string{
		"a.yaml": container("x", ", args: [a]"),
		"b.yaml": container("x", ", args: [b]") + "---\n" + container("w", ""),
		"c.yaml": container("w", ", args: [c]"),
	}
	for _, order := range [][]string{
		{"a.yaml", "b.yaml", "c.yaml"},
		{"c.yaml", "b.yaml", "a.yaml"},
		{"b.yaml", "c.yaml", "a.yaml"},
	} {
		dir := t.TempDir()
		f := newFolder(t, dir, t.TempDir())
		for _, name := range order {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f.scan()
		if got := wanted(f); got != "" {
			t.Errorf("%v: found %q wanted", order, got)
		}
		// Whoever renames the owner's file, before or after the scan of the copy, keeps the
		// container.
		for _, name := range []string{"b.yaml", "c.yaml"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		f.scan()
		err := os.WriteFile(filepath.Join(dir, "0.yaml"), []byte(container("x", ", args: [old]")), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if order[0] == "a.yaml" {
			f.scan()
		}
		if err := os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "z.yaml")); err != nil {
			t.Fatal(err)
		}
		f.scan()
		if got := f.Get(key("x")); got == nil || fmt.Sprint(got.Spec.Process.Args) != "[a]" ||
			got.Generation != 1 {
			t.Errorf("%v: found %+v after the file was renamed", order, got)
		}
	}
}
