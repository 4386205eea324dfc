// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-run/berth/api/oci/environment"
)

func configMap(name, value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {k: " +
		value + "}\n"
}

func secretObject(name, value string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + "}\nstringData: {k: " +
		value + "}\n"
}

// frozen is the field that makes an object immutable.
const frozen = "immutable: true\n"

// TestObjectsOfFiles tells stories: at each step files are written with mode 0600 (or removed, where
// the content is empty), and what Containers can refer to, who is told, and what is refused is
// looked at.
func TestObjectsOfFiles(t *testing.T) {
	user := container("user", ", env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: k}}}]")
	type step struct {
		files   map[string]string
		open    string // a file that everybody may read from now on
		restart bool
		data    string // of ConfigMap c and Secret s
		changed string // Containers that are to be looked at
		refused string // part of it; "" is nothing
	}
	for name, steps := range map[string][]step{
		"added, changed and removed": {
			{files: map[string]string{"a.yaml": user}, changed: "user"},
			{files: map[string]string{"c.yaml": configMap("c", "one")}, data: "c=one", changed: "user"},
			{files: map[string]string{"s.yaml": secretObject("s", "two")}, data: "c=one s=two"},
			{
				files: map[string]string{"c.yaml": configMap("c", "two")}, data: "c=two s=two",
				changed: "user",
			},
			{files: map[string]string{"c.yaml": ""}, data: "s=two", changed: "user"},
		},
		"in the volumes of a Container": {
			{
				files: map[string]string{
					"a.yaml": container("user", ", volumes: [{name: v, projected: {sources: [{configMap: {name: c}}]}}]"),
					"b.yaml": container("other", ", volumes: [{name: v, secret: {secretName: c}}]"),
					"c.yaml": configMap("c", "one"),
				}, data: "c=one", changed: "other user",
			},
			{
				files: map[string]string{"c.yaml": configMap("c", "one") + "binaryData: {b: AAE=}\n"},
				data:  "c=one +b", changed: "user",
			},
			{restart: true, data: "c=one +b", changed: "other user"}, // what is optional waited for the look
			{data: "c=one +b"},
		},
		"beside a Container": {
			{
				files: map[string]string{"a.yaml": configMap("c", "one") + "---\n" + user}, data: "c=one",
				changed: "user",
			},
			{files: map[string]string{"a.yaml": user}, changed: "user"},
		},
		"a broken file keeps its objects, and those that are no Secrets over a restart": {
			{
				files: map[string]string{
					"a.yaml": user, "c.yaml": configMap("c", "one") + "---\n" + secretObject("s", "one"),
				},
				data: "c=one s=one", changed: "user",
			},
			{files: map[string]string{"c.yaml": "{"}, data: "c=one s=one", refused: "c.yaml:1: "},
			{restart: true, data: "c=one", changed: "user", refused: "c.yaml:1: "},
			{restart: true, data: "c=one", changed: "user", refused: "c.yaml:1: "},
			{files: map[string]string{"c.yaml": configMap("c", "two")}, data: "c=two", changed: "user"},
			{restart: true, data: "c=two", changed: "user"},
			{files: map[string]string{"c.yaml": ""}, changed: "user"},
			{restart: true, changed: "user"},
		},
		"changed, moved and removed while no agent runs": {
			{files: map[string]string{"c.yaml": configMap("c", "one")}, data: "c=one"},
			{files: map[string]string{"c.yaml": configMap("c", "two")}, restart: true, data: "c=two"},
			{
				files:   map[string]string{"b.yaml": configMap("c", "three"), "c.yaml": ""},
				restart: true, data: "c=three",
			},
			{
				files:   map[string]string{"a.yaml": configMap("c", "four")},
				restart: true, data: "c=three", refused: "which b.yaml has already",
			},
			{files: map[string]string{"a.yaml": "", "b.yaml": ""}, restart: true},
			{files: map[string]string{"b.yaml": "{"}, restart: true, refused: "b.yaml:1: "},
		},
		"an immutable ConfigMap": {
			{files: map[string]string{"c.yaml": configMap("c", "one") + frozen}, data: "c=one"},
			{
				files: map[string]string{"c.yaml": configMap("c", "two") + frozen}, data: "c=one",
				refused: "c.yaml:4:7: data: found a change of the ConfigMap default/c, which is immutable; allowed: its removal",
			},
			{restart: true, data: "c=one", refused: "c.yaml:4:7: data: found a change"},
			{
				files: map[string]string{"c.yaml": configMap("c", "one")}, data: "c=one",
				refused: "c.yaml:1:1: immutable: found a change",
			},
			{
				files: map[string]string{"c.yaml": frozen + configMap("c", "one") + "binaryData: {b: AAE=}\n"},
				data:  "c=one", refused: "binaryData: found a change",
			},
			{files: map[string]string{"c.yaml": frozen + configMap("c", "one")}, data: "c=one"},
			{files: map[string]string{"c.yaml": user}, changed: "user"},
			{files: map[string]string{"c.yaml": configMap("c", "two") + frozen + "---\n" + user}, data: "c=two", changed: "user"},
			{files: map[string]string{"c.yaml": "{"}, restart: true, data: "c=two", changed: "user", refused: "c.yaml:1: "},
			{files: map[string]string{"c.yaml": configMap("c", "one")}, restart: true, data: "c=two", changed: "user", refused: "immutable: found a change"},
			{files: map[string]string{"c.yaml": ""}, changed: "user"},
			{files: map[string]string{"d.yaml": configMap("c", "one")}, data: "c=one", changed: "user"},
			{files: map[string]string{"d.yaml": configMap("c", "two") + frozen}, data: "c=two", changed: "user"},
		},
		"an immutable Secret": {
			{files: map[string]string{"s.yaml": secretObject("s", "one") + frozen}, data: "s=one"},
			{restart: true, data: "s=one"},
			{
				files: map[string]string{"s.yaml": secretObject("s", "two") + frozen}, data: "s=one",
				refused: "s.yaml:4:13: stringData: found a change of the Secret default/s, which is immutable",
			},
			{restart: true, refused: "s.yaml:4:13: stringData: found a change of the Secret default/s"},
			{restart: true, files: map[string]string{"s.yaml": secretObject("s", "one")}, refused: "immutable: found a change"},
			{restart: true, files: map[string]string{"s.yaml": "{"}, refused: "s.yaml:1: "},
			{restart: true, files: map[string]string{"s.yaml": secretObject("s", "two") + frozen}, refused: "stringData: found a change"},
			{
				restart: true, data: "s=one",
				files: map[string]string{"s.yaml": "", "t.yaml": secretObject("s", "one") + frozen},
			},
			{restart: true, files: map[string]string{"t.yaml": secretObject("s", "two") + frozen}, refused: "t.yaml:4:13: stringData: found a change"},
			{files: map[string]string{"t.yaml": ""}},
			{files: map[string]string{"t.yaml": secretObject("s", "two") + frozen}, data: "s=two"},
			{restart: true, files: map[string]string{"t.yaml": secretObject("s", "three") + frozen}, refused: "stringData: found a change"},
		},
		"a Secret that others can read": {
			{files: map[string]string{"s.yaml": secretObject("s", "one")}, data: "s=one"},
			{
				open: "s.yaml", data: "s=one",
				refused: `s.yaml:2:7: kind: found mode 0644 of a file with a Secret; allowed: 0600 or 0400`,
			},
			{restart: true, refused: "found mode 0644"},
		},
		"a ConfigMap that others can read": {
			{files: map[string]string{"c.yaml": configMap("c", "one")}, data: "c=one"},
			{open: "c.yaml", data: "c=one"},
		},
		"a name in two files": {
			{files: map[string]string{"b.yaml": configMap("c", "one")}, data: "c=one"},
			{
				files: map[string]string{"a.yaml": configMap("c", "two")}, data: "c=one",
				refused: "a.yaml:3:18: metadata.name: found ConfigMap default/c, which b.yaml has already",
			},
			{
				files: map[string]string{"b.yaml": "{"}, data: "c=one",
				refused: "a.yaml:3:18: metadata.name: found ConfigMap default/c, which b.yaml has already",
			},
			{restart: true, data: "c=one", refused: "b.yaml:1: "},
			{
				files: map[string]string{"b.yaml": configMap("c", "three")}, data: "c=three",
				refused: "a.yaml:3:18: metadata.name: found ConfigMap default/c, which b.yaml has already",
			},
			{files: map[string]string{"b.yaml": ""}, data: "c=two"},
		},
		"a name in a faulty file and one after it": {
			{files: map[string]string{"b.yaml": configMap("c", "one")}, data: "c=one"},
			{files: map[string]string{"b.yaml": "{"}, data: "c=one", refused: "b.yaml:1: "},
			{files: map[string]string{"a.yaml": configMap("c", "two")}, data: "c=one", refused: "which b.yaml has already"},
			{files: map[string]string{"b.yaml": user}, data: "c=two", changed: "user"},
		},
		"a name in two new files": {
			{
				files:   map[string]string{"a.yaml": configMap("c", "one"), "b.yaml": configMap("c", "two")},
				refused: "which a.yaml and b.yaml have",
			},
			{files: map[string]string{"a.yaml": ""}, data: "c=two"},
		},
		"a name twice in a file": {
			{
				files:   map[string]string{"a.yaml": configMap("c", "one") + "---\n" + configMap("c", "two")},
				refused: "found ConfigMap default/c a second time in this file",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, state := t.TempDir(), t.TempDir()
			f := newFolder(t, dir, state)
			for i, s := range steps {
				for file, text := range s.files {
					var err error
					if path := filepath.Join(dir, file); text == "" {
						err = os.Remove(path)
					} else {
						err = os.WriteFile(path, []byte(text), 0o600)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if s.open != "" {
					if err := os.Chmod(filepath.Join(dir, s.open), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if s.restart {
					f = newFolder(t, dir, state)
				}
				var changed, data []string
				for _, k := range f.scan() {
					changed = append(changed, k.Name)
				}
				for _, o := range []environment.Object{
					{Kind: environment.KindConfigMap, Name: "c"},
					{Kind: environment.KindSecret, Name: "s"},
				} {
					found, ok := f.Data("default", o)
					files, same := f.Files("default", o)
					if ok != same || files["k"] != found["k"] || found["b"] != "" {
						t.Errorf("step %d: found the files %v beside %v", i, files, found)
					}
					if ok {
						data = append(data, o.Name+"="+found["k"])
					}
					if files["b"] == "\x00\x01" {
						data = append(data, "+b")
					}
				}
				slices.Sort(changed)
				if got := strings.Join(data, " "); got != s.data {
					t.Errorf("step %d: found the data %q; want %q", i, got, s.data)
				}
				if got := strings.Join(changed, " "); got != s.changed {
					t.Errorf("step %d: found changes of %q; want %q", i, got, s.changed)
				}
				if f.Complete() != (s.refused == "") {
					t.Errorf("step %d: complete: %v", i, f.Complete())
				}
				if got := refused(t, f); !strings.Contains(got, s.refused) || s.refused == "" && got != "" {
					t.Errorf("step %d: refused: %q; want %q", i, got, s.refused)
				}
			}
		})
	}
}

// TestReadsConfigMapsOfAllVersions reads the files of each version, and takes none that it cannot
// read for a ConfigMap.
func TestReadsConfigMapsOfAllVersions(t *testing.T) {
	const version1 = `{"version":1,"file":"c.yaml","namespace":"default","name":"c","data":{"k":"one"}}`
	for text, want := range map[string]bool{
		version1: true,
		`{"version":2,"file":"c.yaml","namespace":"default","name":"c","data":{"k":"one"}}`: false,
		`{"version":2,"namespace":{}}`: false,
		version1[:40]:                  false,
		`{"version":1}`:                false,
		"":                             false,
	} {
		dir, state := t.TempDir(), t.TempDir()
		if err := os.Mkdir(objectsDir(state, environment.KindConfigMap), 0o700); err != nil {
			t.Fatal(err)
		}
		for path, text := range map[string]string{
			filepath.Join(objectsDir(state, environment.KindConfigMap), "default_c.json"): text,
			filepath.Join(dir, "c.yaml"): "{",
		} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f := newFolder(t, dir, state)
		f.scan()
		c := environment.Object{Kind: environment.KindConfigMap, Name: "c"}
		if data, ok := f.Data("default", c); ok != want || want && data["k"] != "one" {
			t.Errorf("%s: found %v, %v; want it: %v", text, data, ok, want)
		}
	}
}

// TestConfigMapIsWrittenLate has no room for a ConfigMap at first: it is written at a later look.
func TestConfigMapIsWrittenLate(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	f := newFolder(t, dir, state)
	manifest := filepath.Join(dir, "c.yaml")
	obstacle := filepath.Join(objectsDir(state, environment.KindConfigMap), ".default_c.json.new", "x")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, []byte(configMap("c", "one")), 0o600); err != nil {
		t.Fatal(err)
	}
	f.scan()
	path := filepath.Join(objectsDir(state, environment.KindConfigMap), "default_c.json")
	if _, err := os.Stat(path); err == nil {
		t.Fatal("it is written in spite of the obstacle")
	}
	if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
		t.Fatal(err)
	}
	f.scan()
	if _, err := readObject(path, environment.KindConfigMap); err != nil {
		t.Error(err)
	}
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	f.scan()
	if left, err := os.ReadDir(objectsDir(state, environment.KindConfigMap)); err != nil || len(left) > 0 {
		t.Errorf("found %v, %v left", left, err)
	}
}

// TestBinaryDataIsKept has bytes that are no UTF-8, and a manifest that is broken while no agent
// runs.
func TestBinaryDataIsKept(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	manifest := filepath.Join(dir, "c.yaml")
	for _, text := range []string{configMap("c", "one") + "binaryData: {b: /wA=}\n", "{"} {
		if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f := newFolder(t, dir, state)
		f.scan()
		c := environment.Object{Kind: environment.KindConfigMap, Name: "c"}
		if got, _ := f.Files("default", c); got["b"] != "\xff\x00" || got["k"] != "one" {
			t.Errorf("%q: found %q", text, got)
		}
	}
}

// TestConfigMapsOfLongNames keeps ConfigMaps whose names are as long as Kubernetes allows, in a state
// directory whose name would be a pattern.
func TestConfigMapsOfLongNames(t *testing.T) {
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "[a-c]*")
	manifest := filepath.Join(dir, "c.yaml")
	long := strings.Repeat(strings.Repeat("n", 49)+".", 5)
	names := []string{"c", long + "a", long + "b"}
	text := ""
	for _, name := range names {
		text += configMap(name, name) + "---\n"
	}
	text = strings.ReplaceAll(text, "{name: n", "{namespace: "+strings.Repeat("s", 63)+", name: n")
	for _, text := range []string{text, "{"} {
		if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f := newFolder(t, dir, state)
		f.scan()
		for i, name := range names {
			namespace := "default"
			if i > 0 {
				namespace = strings.Repeat("s", 63)
			}
			o := environment.Object{Kind: environment.KindConfigMap, Name: name}
			if got, _ := f.Data(namespace, o); got["k"] != name {
				t.Errorf("%.20q: found %q of %s", text, got, name)
			}
		}
	}
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	newFolder(t, dir, state).scan()
	if left, err := os.ReadDir(objectsDir(state, environment.KindConfigMap)); err != nil || len(left) > 0 {
		t.Errorf("found %v, %v left", left, err)
	}
}

// TestSealedSecrets: of an immutable Secret nothing is stored but a digest, which only root can read
// and which says nothing without its key. One that cannot be read refuses no Secret.
func TestSealedSecrets(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "s.yaml")
	write := func(value string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(secretObject("s", value)+frozen), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("hunter2")
	newFolder(t, dir, state).scan()
	record, key := filepath.Join(state, "secrets/default_s.json"), filepath.Join(state, "secrets/key")
	for _, path := range []string{record, key} {
		text, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(text), "hunter2") {
			t.Errorf("%s: found %q, %v", path, text, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: found %v, %v; want mode 0600", path, info.Mode(), err)
		}
	}
	first, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	refusal := func(want string) {
		t.Helper()
		f := newFolder(t, dir, state)
		f.scan()
		if got := refused(t, f); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("found the refusal %q; want %q", got, want)
		}
	}
	write("hunter3")
	refusal("stringData: found a change")
	for what, damage := range map[string]func() error{
		"a cut off record": func() error { return os.WriteFile(record, first[:len(first)-3], 0o600) },
		"a newer record":   func() error { return os.WriteFile(record, []byte(`{"version":2}`), 0o600) },
		"no key":           func() error { return os.Remove(key) },
	} {
		write("hunter2")
		if err := os.RemoveAll(filepath.Join(state, "secrets")); err != nil {
			t.Fatal(err)
		}
		refusal("")
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		write("hunter4")
		refusal("")
		write("hunter2")
		t.Log(what)
		refusal("stringData: found a change")
	}
	again, err := os.ReadFile(record)
	if err != nil || string(again) == string(first) {
		t.Errorf("found the same digest with another key, %v", err)
	}
}

// TestSealKeyLost: with the key of digests, all that were made with it are lost. A Secret whose file
// was refused at that time is not compared with its old digest later.
func TestSealKeyLost(t *testing.T) {
	for name, lose := range map[string]func(key string) error{
		"lost":    os.Remove,
		"cut off": func(key string) error { return os.Truncate(key, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, state := t.TempDir(), t.TempDir()
			look := func(file, text, want string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				f := newFolder(t, dir, state)
				f.scan()
				if got := refused(t, f); (got == "") != (want == "") || !strings.Contains(got, want) {
					t.Errorf("found the refusal %q; want %q", got, want)
				}
			}
			secret := secretObject("s", "hunter2") + frozen
			look("s.yaml", secret, "")
			if err := lose(filepath.Join(state, "secrets", sealKey)); err != nil {
				t.Fatal(err)
			}
			look("s.yaml", "{", "s.yaml:1: ")
			look("t.yaml", secretObject("t", "hunter2")+frozen, "s.yaml:1: ") // has a new key written
			look("s.yaml", secret, "")
		})
	}
}
