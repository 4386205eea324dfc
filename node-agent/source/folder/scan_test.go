// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScan tells stories: at each step files are written (or removed, where the content is empty),
// and what is wanted and refused is looked at.
func TestScan(t *testing.T) {
	type step struct {
		files   map[string]string
		restart bool // a new agent with the state of the old one
		wanted  string
		args    string // of x, unless ""
		refused string // part of it; "" is nothing
	}
	for name, steps := range map[string][]step{
		"added and removed": {
			{files: map[string]string{
				"a.yaml": container("a", ""),
				"b.json": `{"apiVersion":"berth.run/v1alpha1","kind":"Container","metadata":{"name":"b"},"spec":{"image":"x"}}`,
			}, wanted: "a b"},
			{files: map[string]string{"a.yaml": ""}, wanted: "b"},
			{restart: true, wanted: "b"},
		},
		"several documents": {
			{files: map[string]string{"a.yml": "# comment\n---\n" + container("a", "") +
				"---\n# nothing\n---\n" + container("b", "")}, wanted: "a b"},
			{files: map[string]string{"a.yml": container("b", "")}, wanted: "b"},
		},
		"what is no manifest is passed over": {
			{files: map[string]string{
				"a.yaml": container("a", ""), "b.txt": "x", ".c.yaml": "x",
				"d.yaml~": "x",
			}, wanted: "a"},
		},
		"a broken file changes nothing": {
			{
				files:  map[string]string{"a.yaml": container("a", "") + "---\n" + container("b", "")},
				wanted: "a b",
			},
			{
				files: map[string]string{"a.yaml": container("a", ", colour: blue")}, wanted: "a b",
				refused: `a.yaml:4:33: spec.colour: found an unknown field; allowed: `,
			},
			{restart: true, wanted: "a b", refused: "spec.colour"},
			{files: map[string]string{"a.yaml": "{"}, wanted: "a b", refused: "a.yaml:1: "},
			{files: map[string]string{"a.yaml": "# soon\n"}, wanted: "a b", refused: "found no Container"},
			{files: map[string]string{"a.yaml": container("a", "")}, wanted: "a"},
		},
		"a broken file of something new": {
			{
				files:   map[string]string{"a.yaml": container("a", ", restartPolicy: Sometimes")},
				refused: "spec.restartPolicy",
			},
			{restart: true, refused: "spec.restartPolicy"},
			{files: map[string]string{"a.yaml": ""}},
		},
		"a name in two files": {
			{files: map[string]string{"b.yaml": container("x", "")}, wanted: "x"},
			{
				files:  map[string]string{"a.yaml": container("x", "") + "---\n" + container("z", "")},
				wanted: "x", refused: "a.yaml:3:18: metadata.name: found default/x, which b.yaml has already",
			},
			{restart: true, wanted: "x", refused: "a.yaml:3:18: "},
			{files: map[string]string{"b.yaml": ""}, wanted: "x z"},
		},
		"a name twice in a file": {
			{
				files:   map[string]string{"a.yaml": container("x", "") + "---\n" + container("x", "")},
				refused: "a.yaml:8:18: metadata.name: found default/x, which the document at line 1 has already",
			},
		},
		"several documents without a marker": {
			{files: map[string]string{"a.json": jsonContainer("a") + "\n" + jsonContainer("b") +
				jsonContainer("c")}, wanted: "a b c"},
			{files: map[string]string{"a.json": jsonContainer("a") + "\n" + jsonContainer("b") +
				`{"kind":"Pod"}`}, wanted: "a b c", refused: `a.json:2:108: apiVersion, kind: found "", "Pod"`},
			{files: map[string]string{"a.json": container("a", "") + "...\n" + container("b", "") +
				"...\n---\n" + container("c", "")}, wanted: "a b c"},
			{
				files: map[string]string{"a.json": container("a", "") + "...\ncolour: blue\n"}, wanted: "a b c",
				refused: `a.json:6:1: apiVersion, kind: found ""`,
			},
			{
				files: map[string]string{"a.json": jsonContainer("a") + "\ncolour: blue\n"}, wanted: "a b c",
				refused: "a.json:2: found more text after the end of the document",
			},
			{
				files: map[string]string{"a.json": jsonContainer("a") + " true"}, wanted: "a b c",
				refused: "a.json:1: found more text after the end of the document",
			},
		},
		"a name twice in objects of a file": {
			{
				files:   map[string]string{"a.json": jsonContainer("a") + "\n" + jsonContainer("a")},
				refused: "a.json:2:74: metadata.name: found default/a, which the document at line 1 has already",
			},
		},
		"a copy is refused, and stays so when the file is renamed": {
			{files: map[string]string{"m.yaml": container("x", ", args: [new]")}, wanted: "x", args: "new"},
			{
				files: map[string]string{"b.yaml": container("x", ", args: [old]")}, wanted: "x", args: "new",
				refused: "b.yaml:3:18: metadata.name: found default/x, which m.yaml has already",
			},
			{
				files: map[string]string{"m.yaml": "", "z.yaml": container("x", ", args: [new]")}, wanted: "x",
				args: "new", refused: "b.yaml:3:18: metadata.name: found default/x, which z.yaml has already",
			},
			{restart: true, wanted: "x", args: "new", refused: "b.yaml"},
			{
				files:  map[string]string{"z.yaml": "", "y.yaml": container("x", ", args: [newer]")},
				wanted: "x", args: "new",
				refused: "y.yaml:3:18: metadata.name: found default/x, which b.yaml and y.yaml have",
			},
			{
				files: map[string]string{"y.yaml": container("x", ", args: [newest]")}, wanted: "x",
				args: "new", refused: "b.yaml and y.yaml",
			},
			{files: map[string]string{"b.yaml": ""}, wanted: "x", args: "newest"},
		},
		"two files with a new name": {
			{
				files: map[string]string{
					"a.yaml": container("x", ", args: [a]"),
					"b.yaml": container("x", ", args: [b]"),
				},
				refused: "a.yaml:3:18: metadata.name: found default/x, which a.yaml and b.yaml have",
			},
			{
				restart: true,
				refused: "b.yaml:3:18: metadata.name: found default/x, which a.yaml and b.yaml have",
			},
			{files: map[string]string{"a.yaml": ""}, wanted: "x", args: "b"},
		},
		"a copy with another name beside": {
			{
				files:  map[string]string{"b.yaml": container("x", "") + "---\n" + container("z", "")},
				wanted: "x z",
			},
			{
				files:  map[string]string{"a.yaml": container("w", "") + "---\n" + container("x", "")},
				wanted: "x z", refused: "a.yaml:8:18: ",
			},
			{files: map[string]string{"b.yaml": container("z", "")}, wanted: "w x z"},
		},
		"moved to a file with a mistake elsewhere": {
			{files: map[string]string{"a.yaml": container("x", "")}, wanted: "x"},
			{files: map[string]string{"a.yaml": "", "b.yaml": container("x", "") + "---\n" +
				container("w", ", colour: blue")}, wanted: "x", refused: "b.yaml:9:33: spec.colour"},
			{files: map[string]string{"b.yaml": container("x", "")}, wanted: "x"},
		},
		"moved to another file": {
			{files: map[string]string{"a.yaml": container("x", "")}, wanted: "x"},
			{files: map[string]string{"a.yaml": "", "b.yaml": container("x", "")}, wanted: "x"},
		},
		"for another node": {
			{
				files:   map[string]string{"a.yaml": container("x", ", nodeName: node-2")},
				refused: `spec.nodeName: found "node-2"; allowed: "node-1"`,
			},
			{
				files: map[string]string{"a.yaml": container("x",
					", nodeSelector: {kubernetes.io/hostname: node-2}")},
				refused: "spec.nodeSelector[kubernetes.io/hostname]",
			},
			{files: map[string]string{"a.yaml": container("x",
				", nodeName: node-1, nodeSelector: {kubernetes.io/hostname: node-1}")}, wanted: "x"},
		},
		"another kind": {
			{
				files:   map[string]string{"a.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n"},
				refused: `found "v1", "Service"`,
			},
		},
		"a field twice": {
			{files: map[string]string{"a.yaml": container("x", "") + "spec: {}\n"}, refused: `"spec"`},
		},
		"other case": {
			{
				files:   map[string]string{"a.yaml": container("x", ", hostNETWORK: true")},
				refused: "spec.hostNETWORK",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, state := t.TempDir(), t.TempDir()
			f := newFolder(t, dir, state)
			for i, s := range steps {
				for file, content := range s.files {
					path := filepath.Join(dir, file)
					if content == "" {
						if err := os.Remove(path); err != nil {
							t.Fatal(err)
						}
					} else if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if s.restart {
					f = newFolder(t, dir, state)
					if f.Synced() {
						t.Errorf("step %d: synced before the folder is read", i)
					}
				}
				f.scan()
				if !f.Synced() {
					t.Errorf("step %d: not synced", i)
				}
				for _, b := range f.List() { // an agent does its work
					if b.DeletionTimestamp != nil {
						if err := f.Release(context.Background(), key(b.Name), b.UID); err != nil {
							t.Fatal(err)
						}
					}
				}
				if got := wanted(f); got != s.wanted {
					t.Errorf("step %d: found %q wanted; want %q", i, got, s.wanted)
				}
				if s.args != "" && fmt.Sprint(f.Get(key("x")).Spec.Process.Args) != "["+s.args+"]" {
					t.Errorf("step %d: found x with %v; want %s", i, f.Get(key("x")).Spec.Process.Args, s.args)
				}
				if got := refused(t, f); (got == "") != (s.refused == "") || !strings.Contains(got, s.refused) {
					t.Errorf("step %d: found refused %q; want %q", i, got, s.refused)
				}
			}
		})
	}
}

func TestMissingManifestDirectoryRemovesNothing(t *testing.T) {
	dir, state := filepath.Join(t.TempDir(), "m"), t.TempDir()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(container("a", "")), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, state)
	f.scan()
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	f.scan()
	if wanted(f) != "a" || !strings.Contains(refused(t, f), "no such file") {
		t.Errorf("found %q wanted, %q refused", wanted(f), refused(t, f))
	}
}
