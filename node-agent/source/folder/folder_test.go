// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

func container(name, spec string) string {
	return fmt.Sprintf("apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata: {name: %s}\nspec: {image: x, command: [/x]%s}\n", name, spec)
}

func jsonContainer(name string) string {
	return fmt.Sprintf(`{"apiVersion":"berth.run/v1alpha1","kind":"Container","metadata":{"name":%q},"spec":{"image":"x"}}`, name)
}

func newFolder(t *testing.T, dir, state string) *Folder {
	t.Helper()
	f, err := New(Options{Dir: dir, StateDir: state, NodeName: "node-1", NodeLabels: map[string]string{"kubernetes.io/hostname": "node-1"}, Rewrite: 1})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func key(name string) source.Key { return source.Key{Namespace: "default", Name: name} }

// wanted returns the names of the Containers that are to run.
func wanted(f *Folder) string {
	var names []string
	for _, b := range f.List() {
		if b.DeletionTimestamp == nil {
			names = append(names, b.Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func refused(t *testing.T, f *Folder) string {
	t.Helper()
	faults, err := ReadFaults(f.o.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, x := range faults {
		x.File = filepath.Base(x.File)
		out = append(out, x.Error())
	}
	return strings.Join(out, "\n")
}

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
			{files: map[string]string{"a.yaml": container("a", ""), "b.json": `{"apiVersion":"berth.run/v1alpha1","kind":"Container","metadata":{"name":"b"},"spec":{"image":"x"}}`}, wanted: "a b"},
			{files: map[string]string{"a.yaml": ""}, wanted: "b"},
			{restart: true, wanted: "b"},
		},
		"several documents": {
			{files: map[string]string{"a.yml": "# comment\n---\n" + container("a", "") + "---\n# nothing\n---\n" + container("b", "")}, wanted: "a b"},
			{files: map[string]string{"a.yml": container("b", "")}, wanted: "b"},
		},
		"what is no manifest is passed over": {
			{files: map[string]string{"a.yaml": container("a", ""), "b.txt": "x", ".c.yaml": "x", "d.yaml~": "x"}, wanted: "a"},
		},
		"a broken file changes nothing": {
			{files: map[string]string{"a.yaml": container("a", "") + "---\n" + container("b", "")}, wanted: "a b"},
			{files: map[string]string{"a.yaml": container("a", ", colour: blue")}, wanted: "a b", refused: `a.yaml:4:33: spec.colour: found an unknown field; allowed: `},
			{restart: true, wanted: "a b", refused: "spec.colour"},
			{files: map[string]string{"a.yaml": "{"}, wanted: "a b", refused: "a.yaml:1: "},
			{files: map[string]string{"a.yaml": "# soon\n"}, wanted: "a b", refused: "found no Container"},
			{files: map[string]string{"a.yaml": container("a", "")}, wanted: "a"},
		},
		"a broken file of something new": {
			{files: map[string]string{"a.yaml": container("a", ", restartPolicy: Sometimes")}, refused: "spec.restartPolicy"},
			{restart: true, refused: "spec.restartPolicy"},
			{files: map[string]string{"a.yaml": ""}},
		},
		"a name in two files": {
			{files: map[string]string{"b.yaml": container("x", "")}, wanted: "x"},
			{files: map[string]string{"a.yaml": container("x", "") + "---\n" + container("z", "")}, wanted: "x", refused: "a.yaml:3:18: metadata.name: found default/x, which b.yaml has already"},
			{restart: true, wanted: "x", refused: "a.yaml:3:18: "},
			{files: map[string]string{"b.yaml": ""}, wanted: "x z"},
		},
		"a name twice in a file": {
			{files: map[string]string{"a.yaml": container("x", "") + "---\n" + container("x", "")}, refused: "a.yaml:8:18: metadata.name: found default/x, which the document at line 1 has already"},
		},
		"several documents without a marker": {
			{files: map[string]string{"a.json": jsonContainer("a") + "\n" + jsonContainer("b") + jsonContainer("c")}, wanted: "a b c"},
			{files: map[string]string{"a.json": jsonContainer("a") + "\n" + jsonContainer("b") + `{"kind":"Pod"}`}, wanted: "a b c", refused: `a.json:2:108: apiVersion, kind: found "", "Pod"`},
			{files: map[string]string{"a.json": container("a", "") + "...\n" + container("b", "") + "...\n---\n" + container("c", "")}, wanted: "a b c"},
			{files: map[string]string{"a.json": container("a", "") + "...\ncolour: blue\n"}, wanted: "a b c", refused: `a.json:6:1: apiVersion, kind: found ""`},
			{files: map[string]string{"a.json": jsonContainer("a") + "\ncolour: blue\n"}, wanted: "a b c", refused: "a.json:2: found more text after the end of the document"},
			{files: map[string]string{"a.json": jsonContainer("a") + " true"}, wanted: "a b c", refused: "a.json:1: found more text after the end of the document"},
		},
		"a name twice in objects of a file": {
			{files: map[string]string{"a.json": jsonContainer("a") + "\n" + jsonContainer("a")}, refused: "a.json:2:74: metadata.name: found default/a, which the document at line 1 has already"},
		},
		"a copy is refused, and stays so when the file is renamed": {
			{files: map[string]string{"m.yaml": container("x", ", args: [new]")}, wanted: "x", args: "new"},
			{files: map[string]string{"b.yaml": container("x", ", args: [old]")}, wanted: "x", args: "new", refused: "b.yaml:3:18: metadata.name: found default/x, which m.yaml has already"},
			{files: map[string]string{"m.yaml": "", "z.yaml": container("x", ", args: [new]")}, wanted: "x", args: "new", refused: "b.yaml:3:18: metadata.name: found default/x, which z.yaml has already"},
			{restart: true, wanted: "x", args: "new", refused: "b.yaml"},
			{files: map[string]string{"z.yaml": "", "y.yaml": container("x", ", args: [newer]")}, wanted: "x", args: "new", refused: "y.yaml:3:18: metadata.name: found default/x, which b.yaml and y.yaml have"},
			{files: map[string]string{"y.yaml": container("x", ", args: [newest]")}, wanted: "x", args: "new", refused: "b.yaml and y.yaml"},
			{files: map[string]string{"b.yaml": ""}, wanted: "x", args: "newest"},
		},
		"two files with a new name": {
			{files: map[string]string{"a.yaml": container("x", ", args: [a]"), "b.yaml": container("x", ", args: [b]")}, refused: "a.yaml:3:18: metadata.name: found default/x, which a.yaml and b.yaml have"},
			{restart: true, refused: "b.yaml:3:18: metadata.name: found default/x, which a.yaml and b.yaml have"},
			{files: map[string]string{"a.yaml": ""}, wanted: "x", args: "b"},
		},
		"a copy with another name beside": {
			{files: map[string]string{"b.yaml": container("x", "") + "---\n" + container("z", "")}, wanted: "x z"},
			{files: map[string]string{"a.yaml": container("w", "") + "---\n" + container("x", "")}, wanted: "x z", refused: "a.yaml:8:18: "},
			{files: map[string]string{"b.yaml": container("z", "")}, wanted: "w x z"},
		},
		"moved to a file with a mistake elsewhere": {
			{files: map[string]string{"a.yaml": container("x", "")}, wanted: "x"},
			{files: map[string]string{"a.yaml": "", "b.yaml": container("x", "") + "---\n" + container("w", ", colour: blue")}, wanted: "x", refused: "b.yaml:9:33: spec.colour"},
			{files: map[string]string{"b.yaml": container("x", "")}, wanted: "x"},
		},
		"moved to another file": {
			{files: map[string]string{"a.yaml": container("x", "")}, wanted: "x"},
			{files: map[string]string{"a.yaml": "", "b.yaml": container("x", "")}, wanted: "x"},
		},
		"for another node": {
			{files: map[string]string{"a.yaml": container("x", ", nodeName: node-2")}, refused: `spec.nodeName: found "node-2"; allowed: "node-1"`},
			{files: map[string]string{"a.yaml": container("x", ", nodeSelector: {kubernetes.io/hostname: node-2}")}, refused: "spec.nodeSelector[kubernetes.io/hostname]"},
			{files: map[string]string{"a.yaml": container("x", ", nodeName: node-1, nodeSelector: {kubernetes.io/hostname: node-1}")}, wanted: "x"},
		},
		"another kind": {
			{files: map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n"}, refused: `found "v1", "Pod"`},
		},
		"a field twice": {
			{files: map[string]string{"a.yaml": container("x", "") + "spec: {}\n"}, refused: `"spec"`},
		},
		"other case": {
			{files: map[string]string{"a.yaml": container("x", ", hostNETWORK: true")}, refused: "spec.hostNETWORK"},
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
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(container("a", "")), 0o600); err != nil {
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

// TestRefusedWhileAway: a refused manifest that is gone when the agent starts leaves no status.
func TestRefusedWhileAway(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(container(name, ", colour: blue")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newFolder(t, dir, state).scan()
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b.yaml"), []byte(container("b", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, state)
	f.scan()
	var names []string
	all, err := Read(state)
	for _, c := range all {
		names = append(names, fmt.Sprint(c.Name, c.Generation))
		if valid := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionSpecValid); c.Name == "c" && !strings.Contains(valid.Message, "spec.colour") {
			t.Errorf("found %+v", valid)
		}
	}
	if err != nil || fmt.Sprint(names) != "[b1 c0]" || wanted(f) != "b" {
		t.Errorf("found status of %v, %v; wanted %s", names, err, wanted(f))
	}
}

// TestRefreshed: the status counts as current only while all of it can be written.
func TestRefreshed(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yaml", container("a", ""))
	f := newFolder(t, dir, state)
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	current := func() bool {
		t.Helper()
		f.scan()
		at, err := Refreshed(state)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(faultsFile(state), old, old); err != nil {
			t.Fatal(err)
		}
		return !at.Equal(old)
	}
	if first := current(); !first || !current() {
		t.Error("found a status that is not current, though all can be written")
	}
	// A directory in the place of a status file stands for a disk that takes nothing.
	if err := os.MkdirAll(filepath.Join(statusFile(state, key("b")), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("b.yaml", container("b", ""))
	if first := current(); first || current() {
		t.Error("found a status that is current, though one could not be written")
	}
	if err := os.RemoveAll(statusFile(state, key("b"))); err != nil {
		t.Fatal(err)
	}
	if !current() {
		t.Error("found a status that is not current once all can be written")
	}
	if all, err := Read(state); err != nil || len(all) != 2 {
		t.Errorf("found %d Containers, %v", len(all), err)
	}

	report := func() error {
		return f.ReportStatus(context.Background(), f.Get(key("a")), &v1alpha1.OCIBundleStatus{ObservedGeneration: 1, Phase: v1alpha1.ContainerRunning})
	}
	aside := statusFile(state, key("a")) + ".aside"
	if err := os.Rename(statusFile(state, key("a")), aside); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(statusFile(state, key("a")), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := report(); err == nil || current() {
		t.Errorf("found %v, and a status that is current, though a report could not be written", err)
	}
	if err := os.RemoveAll(statusFile(state, key("a"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, statusFile(state, key("a"))); err != nil {
		t.Fatal(err)
	}
	if current() {
		t.Error("found a status that is current before the report is repeated")
	}
	if err := report(); err != nil || !current() {
		t.Errorf("found %v, or a status that is not current", err)
	}
}

// TestLabelsAreSeen: a change of labels alone is shown, and starts nothing again.
func TestLabelsAreSeen(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	labelled := func(label string) {
		t.Helper()
		text := strings.Replace(container("a", ""), "{name: a}", "{name: a, labels: {l: "+label+"}, annotations: {note: "+label+"}}", 1)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	labelled("one")
	f := newFolder(t, dir, state)
	f.scan()
	first := f.Get(key("a"))
	labelled("two")
	if changed := f.scan(); len(changed) > 0 {
		t.Errorf("found %v changed", changed)
	}
	all, err := Read(state)
	if err != nil || len(all) != 1 || all[0].Labels["l"] != "two" || all[0].Annotations["note"] != "two" {
		t.Errorf("found %+v, %v", all, err)
	}
	if now := f.Get(key("a")); now.Generation != first.Generation || now.UID != first.UID {
		t.Errorf("found generation %d, UID %s; want %d, %s", now.Generation, now.UID, first.Generation, first.UID)
	}
}

// TestConflictsDoNotDependOnOrder: the same files at the end give the same, in whichever order they
// came.
func TestConflictsDoNotDependOnOrder(t *testing.T) {
	files := map[string]string{
		"a.yaml": container("x", ", args: [a]"),
		"b.yaml": container("x", ", args: [b]") + "---\n" + container("w", ""),
		"c.yaml": container("w", ", args: [c]"),
	}
	for _, order := range [][]string{{"a.yaml", "b.yaml", "c.yaml"}, {"c.yaml", "b.yaml", "a.yaml"}, {"b.yaml", "c.yaml", "a.yaml"}} {
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
		if err := os.WriteFile(filepath.Join(dir, "0.yaml"), []byte(container("x", ", args: [old]")), 0o600); err != nil {
			t.Fatal(err)
		}
		if order[0] == "a.yaml" {
			f.scan()
		}
		if err := os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "z.yaml")); err != nil {
			t.Fatal(err)
		}
		f.scan()
		if got := f.Get(key("x")); got == nil || fmt.Sprint(got.Spec.Process.Args) != "[a]" || got.Generation != 1 {
			t.Errorf("%v: found %+v after the file was renamed", order, got)
		}
	}
}

func TestAFifoDoesNotHoldUp(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "a.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, t.TempDir())
	f.scan()
	if got := refused(t, f); !strings.Contains(got, "a.yaml: found something other than a regular file") || !strings.Contains(got, "b.yaml: ") {
		t.Errorf("found %q", got)
	}
}

func TestGenerationAndIdentityLast(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write := func(content string) {
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(container("a", ""))
	f := newFolder(t, dir, state)
	f.scan()
	first := f.Get(key("a"))
	if first.Generation != 1 || first.UID == "" || first.Spec.NodeName != "node-1" || first.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Fatalf("found %+v", first)
	}
	write("# a comment\n" + container("a", ""))
	if f.scan(); f.Get(key("a")).Generation != 1 {
		t.Error("a comment is no new generation")
	}
	write(container("a", ", args: [z]"))
	f.scan()
	status := &v1alpha1.OCIBundleStatus{ObservedGeneration: 2, Phase: v1alpha1.ContainerRunning}
	status.PID = 42
	meta.SetStatusCondition(&status.Conditions, condition(v1alpha1.ConditionRunning, "True"))
	if err := f.ReportStatus(context.Background(), f.Get(key("a")), status); err != nil {
		t.Fatal(err)
	}
	f = newFolder(t, dir, state)
	f.scan()
	b := f.Get(key("a"))
	if b.Generation != 2 || b.UID != first.UID || b.Status.PID != 42 || b.Status.ObservedGeneration != 2 {
		t.Errorf("found %+v after a restart", b)
	}
	all, err := Read(state)
	if err != nil || len(all) != 1 || !meta.IsStatusConditionTrue(all[0].Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("found %+v, %v", all, err)
	}
	info, err := os.Stat(statusFile(state, key("a")))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the status file: %v, %v", info, err)
	}
}

// TestRemovalLasts: a Container that is being removed when the agent is killed stays unwanted when
// the agent starts again.
func TestRemovalLasts(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	if err := os.WriteFile(path, []byte(container("a", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, state)
	f.scan()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.scan()
	f = newFolder(t, dir, state)
	if got := wanted(f); got != "" || f.Get(key("a")) == nil {
		t.Errorf("found %q wanted, bundle %+v; want one that is being removed", got, f.Get(key("a")))
	}
	if err := os.WriteFile(path, []byte(container("a", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if f.scan(); wanted(f) != "" {
		t.Errorf("found %q wanted before the old one is gone", wanted(f))
	}
}

type events struct {
	changed chan source.Key
	synced  chan struct{}
}

func (e events) Changed(k source.Key) { e.changed <- k }
func (e events) Synced()              { close(e.synced) }

func TestRunFollowsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	f := newFolder(t, dir, t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	e := events{changed: make(chan source.Key, 10), synced: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, e) }()
	<-e.synced
	// As editors write: a file beside, then renamed.
	if err := os.WriteFile(filepath.Join(dir, ".tmp"), []byte(container("a", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, ".tmp"), filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	select {
	case k := <-e.changed:
		if k != key("a") {
			t.Errorf("found %v", k)
		}
	case <-time.After(2 * time.Minute):
		t.Error("never told of the new file")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestDefaultsAreTheCRDs holds SetDefaults against the defaults that the API server applies.
func TestDefaultsAreTheCRDs(t *testing.T) {
	data, err := os.ReadFile("../../../config/crd/bases/berth.run_containers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd map[string]any
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	version := crd["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
	schema := version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
	spec := schema["properties"].(map[string]any)["spec"].(map[string]any)["properties"].(map[string]any)
	want := map[string]any{}
	for name, property := range spec {
		if d, ok := property.(map[string]any)["default"]; ok {
			want[name] = d
		}
	}
	c := &v1alpha1.Container{}
	SetDefaults(c)
	raw, err := json.Marshal(c.Spec)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "resources") // a struct without omitempty: it is empty
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("found defaults %v; the CRD has %v", got, want)
	}
}

func condition(kind string, status metav1.ConditionStatus) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: "Test"}
}
