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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

func container(name, spec string) string {
	return fmt.Sprintf(
		"apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata: {name: %s}\nspec: {image: x, command: [/x]%s}\n", name, spec)
}

func jsonContainer(name string) string {
	return fmt.Sprintf(
		`{"apiVersion":"berth.run/v1alpha1","kind":"Container","metadata":{"name":%q},"spec":{"image":"x"}}`, name)
}

func newFolder(t *testing.T, dir, state string) *Folder {
	t.Helper()
	f, err := New(Options{
		Dir: dir, StateDir: state, NodeName: "node-1",
		NodeLabels: map[string]string{"kubernetes.io/hostname": "node-1"}, Rewrite: 1,
	})
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

// TestList: the items of a List are as documents of their own, and a file with a fault in one of them
// changes nothing.
func TestList(t *testing.T) {
	dir := t.TempDir()
	f := newFolder(t, dir, t.TempDir())
	write := func(items ...string) {
		text := "apiVersion: v1\nkind: List\nitems:\n"
		for _, item := range items {
			text += "- " + strings.ReplaceAll(strings.TrimSpace(item), "\n", "\n  ") + "\n"
		}
		if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f.scan()
	}
	write(container("a", ""), container("b", ""))
	if got := wanted(f); got != "a b" || refused(t, f) != "" {
		t.Errorf("found %q, refused %q; want a b", got, refused(t, f))
	}
	write(container("a", ""), container("b", ", hostname: A_b"), container("c", ""))
	if got := wanted(f); got != "a b" || !strings.HasPrefix(refused(t, f),
		"all.yaml:11:45: items[1].spec.hostname: ") {
		t.Errorf("found %q, refused %q; want a b as before, and the place of the fault", got,
			refused(t, f))
	}
	write(container("a", ""), container("c", ""))
	f.scan() // nothing is removed as long as the file may be being written
	if got := wanted(f); got != "a c" {
		t.Errorf("found %q; want a c", got)
	}
}

// TestRefusedWhileAway: a refused manifest that is gone when the agent starts leaves no status.
func TestRefusedWhileAway(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		err := os.WriteFile(filepath.Join(dir, name+".yaml"),
			[]byte(container(name, ", colour: blue")), 0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	newFolder(t, dir, state).scan()
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b.yaml"), []byte(container("b", "")),
		0o600); err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, state)
	f.scan()
	var names []string
	all, err := Read(state)
	for _, c := range all {
		names = append(names, fmt.Sprint(c.Name, c.Generation))
		valid := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionSpecValid)
		if c.Name == "c" && !strings.Contains(valid.Message, "spec.colour") {
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
		return f.ReportStatus(context.Background(), f.Get(key("a")),
			&v1alpha1.OCIBundleStatus{ObservedGeneration: 1, Phase: v1alpha1.ContainerRunning})
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
		text := strings.Replace(container("a", ""), "{name: a}", "{name: a, labels: {l: "+label+
			"}, annotations: {note: "+label+"}}", 1)
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
	if err != nil || len(all) != 1 || all[0].Labels["l"] != "two" ||
		all[0].Annotations["note"] != "two" {
		t.Errorf("found %+v, %v", all, err)
	}
	if now := f.Get(key("a")); now.Generation != first.Generation || now.UID != first.UID {
		t.Errorf("found generation %d, UID %s; want %d, %s", now.Generation, now.UID, first.Generation,
			first.UID)
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
	if first.Generation != 1 || first.UID == "" || first.Spec.NodeName != "node-1" ||
		first.Spec.RestartPolicy != corev1.RestartPolicyAlways {
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
	if b.Generation != 2 || b.UID != first.UID || b.Status.PID != 42 ||
		b.Status.ObservedGeneration != 2 {
		t.Errorf("found %+v after a restart", b)
	}
	all, err := Read(state)
	if err != nil || len(all) != 1 || !meta.IsStatusConditionTrue(all[0].Status.Conditions,
		v1alpha1.ConditionReady) {
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
