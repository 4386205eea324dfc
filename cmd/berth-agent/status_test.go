// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/agent"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// desk is the state of an agent without containers, and the status command on it.
type desk struct {
	*testing.T
	dir, state string
	directory  *folder.Folder
}

type noEvents struct{ synced chan struct{} }

func (e noEvents) Changed(source.Key) {}
func (e noEvents) Synced()            { close(e.synced) }

func newDesk(t *testing.T, manifests map[string]string) *desk {
	t.Helper()
	d := &desk{T: t, dir: t.TempDir(), state: t.TempDir()}
	for name, text := range manifests {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := durable.TryLock(filepath.Join(d.state, "agent.lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	if d.directory, err = folder.New(folder.Options{
		Dir: d.dir, StateDir: d.state,
		NodeName: "node-1",
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	events := noEvents{make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- d.directory.Run(ctx, events) }()
	select {
	case <-events.synced:
	case err := <-done:
		cancel()
		t.Fatalf("the folder ended: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

// report reports a status as the rest of the agent does.
func (d *desk) report(name string, phase v1alpha1.ContainerPhase, running metav1.Condition) {
	d.Helper()
	key := source.Key{Namespace: "default", Name: name}
	status := &v1alpha1.OCIBundleStatus{ObservedGeneration: 1, Phase: phase}
	running.Type = v1alpha1.ConditionRunning
	meta.SetStatusCondition(&status.Conditions, running)
	if err := d.directory.ReportStatus(d.Context(), d.directory.Get(key), status); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) status(args ...string) (stdout, stderr string, err error) {
	c := statusCommand(&options{Options: agent.Options{StateDir: d.state}})
	var out, complaints bytes.Buffer
	c.SetArgs(append([]string{}, args...)) // nil would mean those of this process
	c.SetOut(&out)
	c.SetErr(&complaints)
	c.SilenceUsage, c.SilenceErrors = true, true
	err = c.Execute()
	return out.String(), complaints.String(), err
}

// row returns the words of the line that begins with a name.
func (d *desk) row(name string) []string {
	d.Helper()
	out, _, err := d.status()
	if err != nil {
		d.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) > 0 && words[0] == name {
			return words
		}
	}
	d.Fatalf("found no line of %s in\n%s", name, out)
	return nil
}

const good = "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata: {name: good}\nspec: {image: x}\n"

func TestStatusOfPhases(t *testing.T) {
	d := newDesk(t, map[string]string{"good.yaml": good})
	if row := d.row("good"); row[1] != "Pending" || row[2] != "False" || row[3] != "0" {
		t.Errorf("found %q for a new Container", row)
	}
	d.report("good", v1alpha1.ContainerRunning, metav1.Condition{
		Status: "True",
		Reason: v1alpha1.ReasonStarted,
	})
	if row := d.row("good"); row[1] != "Running" || row[2] != "True" {
		t.Errorf("found %q for one that runs", row)
	}
	if _, _, err := d.status("--check"); err != nil {
		t.Errorf("found %v; want no error where all is well", err)
	}
	d.report("good", v1alpha1.ContainerRunning, metav1.Condition{
		Status: "False",
		Reason: v1alpha1.ReasonCrashLoopBackOff, Message: "it ended",
	})
	if row := d.row("good"); row[1] != "CrashLoopBackOff" || row[2] != "False" {
		t.Errorf("found %q in a crash loop", row)
	}
	_, _, err := d.status("--check")
	if err == nil || !strings.Contains(err.Error(), "container good is not Ready: CrashLoopBackOff") {
		t.Errorf("found %v", err)
	}
	if _, _, err := d.status("good", "--check"); err == nil {
		t.Error("found no error for the one that is named")
	}
}

func TestStatusOfRefusedManifests(t *testing.T) {
	d := newDesk(t, map[string]string{
		"good.yaml":    good,
		"bad.yaml":     "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata: {name: new}\nspec: {imagee: x}\n---\n" + strings.Replace(good, "image", "comand: [a], image", 1),
		"nameless.yml": "a: b\n",
	})
	d.report("good", v1alpha1.ContainerRunning, metav1.Condition{
		Status: "True",
		Reason: v1alpha1.ReasonStarted,
	})
	out, complaints, err := d.status()
	if err != nil {
		t.Fatal(err)
	}
	if row := d.row("bad.yaml"); row[1] != "Refused" || row[2] != "False" ||
		!strings.Contains(strings.Join(row, " "),
			`4:8: spec.imagee: found an unknown field; did you mean "image"? (and 1 more faults)`) {
		t.Errorf("found %q in\n%s", row, out)
	}
	if row := d.row("new"); row[1] != "InvalidSpec" {
		t.Errorf("found %q", row)
	}
	for _, want := range []string{
		"refused: " + d.dir + `/bad.yaml:4:8: spec.imagee: found an unknown field; did you mean "image"?`,
		"refused: " + d.dir +
			`/bad.yaml:9:8: spec.comand: found an unknown field; did you mean "command"?`,
		"refused: " + d.dir + `/nameless.yml:1:1: apiVersion, kind: found "", ""`,
	} {
		if !strings.Contains(complaints, want) {
			t.Errorf("found\n%s; want %s", complaints, want)
		}
	}

	out, _, err = d.status("-o", "json")
	var list struct {
		Kind  string
		Items []struct {
			Kind     string
			Metadata metav1.ObjectMeta
			Status   struct {
				Conditions []metav1.Condition
				Faults     []folder.Fault
			}
		}
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	if err != nil || list.Kind != "List" || len(list.Items) != 4 {
		t.Fatalf("found %v, %s", err, out)
	}
	item := list.Items[2]
	if item.Kind != "Manifest" || item.Metadata.Name != "bad.yaml" || len(item.Status.Faults) != 2 ||
		item.Status.Faults[1].Line != 9 ||
		!meta.IsStatusConditionFalse(item.Status.Conditions, v1alpha1.ConditionReady) ||
		item.Status.Conditions[0].LastTransitionTime.IsZero() {
		t.Errorf("found %+v", item)
	}
	if list.Items[3].Metadata.Name != "nameless.yml" {
		t.Errorf("found %+v; want the file without a Container", list.Items[3])
	}
	if _, _, err := d.status("--check"); err == nil || !strings.Contains(err.Error(),
		"manifest bad.yaml is refused; manifest nameless.yml is refused") {
		t.Errorf("found %v", err)
	}
	if _, _, err := d.status("good", "--check"); err != nil {
		t.Errorf("found %v for a Container that is well", err)
	}
}

// TestStatusThatIsNotRefreshed: a status that nobody can write, or nobody writes, is shown as
// unknown.
func TestStatusThatIsNotRefreshed(t *testing.T) {
	d := newDesk(t, map[string]string{"good.yaml": good})
	d.report("good", v1alpha1.ContainerRunning, metav1.Condition{
		Status: "True",
		Reason: v1alpha1.ReasonStarted, Message: "the process runs",
	})
	since := time.Now().Add(-10 * time.Minute).Truncate(time.Second)
	if err := os.Chtimes(filepath.Join(d.state, "manifests.json"), since, since); err != nil {
		t.Fatal(err)
	}
	want := "not known since " + since.Format(time.RFC3339) +
		": the agent cannot write its state directory, or does not get on: see its log; before that: the process runs"
	if row := d.row("good"); row[1] != "Unknown" || row[2] != "Unknown" ||
		!strings.HasSuffix(strings.Join(row, " "), want) {
		t.Errorf("found %q; want %q", row, want)
	}
	if _, _, err := d.status("--check"); err == nil {
		t.Error("found no error for a status that is old")
	}
}
