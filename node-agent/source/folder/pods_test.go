// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// podOf is a Pod with an init container and an app.
func podOf(policy string) string {
	return `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  restartPolicy: ` + policy + `
  initContainers:
  - {name: setup, image: x}
  - {name: proxy, image: x, restartPolicy: Always}
  containers:
  - {name: app, image: x}
`
}

// TestPod: each container of a Pod is a Container, which goes with its file. Faults of one refuse the
// whole Pod, with the place in the Pod.
func TestPod(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "web.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := newFolder(t, dir, state)
	write(strings.Replace(podOf("Always"), "name: app, image: x", "name: app, image: x, args: 7", 1))
	f.scan()
	faults, err := ReadFaults(state)
	if err != nil || len(faults) != 1 || faults[0].Field != "spec.containers[0].args" ||
		faults[0].Line != 10 || wanted(f) != "" {
		t.Fatalf("found %v, %v, and %q wanted; want a fault of args at line 10", faults, err, wanted(f))
	}
	// Each of them shows up where people look for it.
	all, err := Read(state)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"web-app", "web-proxy", "web-setup"}) {
		t.Errorf("found the statuses of %q, %v", names, err)
	}
	write(podOf("Always"))
	f.scan()
	if got := wanted(f); got != "web-app web-proxy web-setup" {
		t.Fatalf("found %q wanted", got)
	}
	again := newFolder(t, dir, state)
	again.scan()
	if got := wanted(again); got != "web-app web-proxy web-setup" ||
		again.Get(key("web-app")).UID != f.Get(key("web-app")).UID {
		t.Errorf("found %q wanted by the next agent", got)
	}
	write(podOf("Always") + "---\n" + container("web-app", ""))
	again.scan()
	faults, err = ReadFaults(state)
	const twice = "the document at line 1 has already"
	if err != nil || len(faults) != 1 || !strings.Contains(faults[0].Message, twice) {
		t.Errorf("found %v, %v; want that %s", faults, err, twice)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	again.scan()
	if got := wanted(again); got != "" {
		t.Errorf("found %q wanted without a file", got)
	}
}

// statusesOf reports statuses of Containers, as the agent does.
func statusesOf(t *testing.T, f *Folder, of map[string]func(*v1alpha1.OCIBundleStatus)) {
	t.Helper()
	for name, set := range of {
		b := f.Get(key(name))
		status := &v1alpha1.OCIBundleStatus{ObservedGeneration: b.Generation}
		set(status)
		if err := f.ReportStatus(t.Context(), b, status); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInitAfterBoot: an init container that has succeeded runs again after a boot if another container
// of its Pod is to start then, and not otherwise. An agent that is killed at its start changes
// nothing of that.
func TestInitAfterBoot(t *testing.T) {
	succeeded := func(s *v1alpha1.OCIBundleStatus) {
		s.Phase = v1alpha1.ContainerSucceeded
		s.State.Terminated = &corev1.ContainerStateTerminated{}
	}
	failed := func(s *v1alpha1.OCIBundleStatus) {
		s.Phase = v1alpha1.ContainerFailed
		s.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1}
	}
	running := func(s *v1alpha1.OCIBundleStatus) {
		s.Phase = v1alpha1.ContainerRunning
		s.State.Running = &corev1.ContainerStateRunning{}
	}
	waits := func(s *v1alpha1.OCIBundleStatus) { s.Phase = v1alpha1.ContainerPending }
	for _, tc := range []struct {
		name, policy, boot string
		init, app          func(*v1alpha1.OCIBundleStatus)
		want               string
	}{
		{"it runs", "Always", "2", succeeded, running, "boot 2"},
		{"it runs, in the same boot", "Always", "1", succeeded, running, ""},
		{"it has ended, and is started again", "Always", "2", succeeded, succeeded, "boot 2"},
		{"it failed, and is started again", "OnFailure", "2", succeeded, failed, "boot 2"},
		{"it has succeeded for good", "OnFailure", "2", succeeded, succeeded, ""},
		{"it has failed for good", "Never", "2", succeeded, failed, ""},
		{"it ran its only time", "Never", "2", succeeded, running, ""},
		{"it has yet to run", "Never", "2", succeeded, waits, "boot 2"},
		{"the init container has failed", "Never", "2", failed, waits, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, state := t.TempDir(), t.TempDir()
			text := podOf(tc.policy)
			i := strings.Index(text, "  - {name: proxy")
			text = text[:i] + text[i+strings.Index(text[i:], "\n")+1:]
			if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			open := func(boot string) *Folder {
				t.Helper()
				f, err := New(Options{Dir: dir, StateDir: state, NodeName: "node-1", Boot: boot})
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			f := open("1")
			f.scan()
			statusesOf(t, f, map[string]func(*v1alpha1.OCIBundleStatus){
				"web-setup": tc.init, "web-app": tc.app,
			})
			// The second agent is killed before it could write down that the boot is a new one.
			for range 2 {
				f = open(tc.boot)
				b := f.Get(key("web-setup"))
				if got := b.Annotations[source.AnnotationRestart]; got != tc.want {
					t.Errorf("found the request %q; want %q", got, tc.want)
				}
				if known := b.Status.ObservedGeneration == b.Generation; known != (tc.want == "") {
					t.Errorf("found a status that counts: %t", known)
				}
				if err := os.WriteFile(bootFile(state), []byte("1"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestInitBeforeInitAfterBoot: with an init container, those before it run again after a boot, of
// which the first one has the network. So they do if the note of the boot before is lost, and the
// status tells of one.
func TestInitBeforeInitAfterBoot(t *testing.T) {
	succeeded := func(s *v1alpha1.OCIBundleStatus) {
		s.Phase = v1alpha1.ContainerSucceeded
		s.State.Terminated = &corev1.ContainerStateTerminated{}
	}
	running := func(s *v1alpha1.OCIBundleStatus) {
		s.Phase = v1alpha1.ContainerRunning
		s.State.Running = &corev1.ContainerStateRunning{}
	}
	for name, lose := range map[string]func(path string) error{
		"noted":   func(string) error { return nil },
		"lost":    os.Remove,
		"cut off": func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, state := t.TempDir(), t.TempDir()
			text := strings.Replace(podOf("OnFailure"), "  - {name: proxy",
				"  - {name: second, image: x}\n  - {name: proxy", 1)
			if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			open := func(boot string) *Folder {
				t.Helper()
				f, err := New(Options{
					Dir: dir, StateDir: state, NodeName: "node-1", Boot: boot, NewBoot: boot == "2",
				})
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			f := open("1")
			f.scan()
			statusesOf(t, f, map[string]func(*v1alpha1.OCIBundleStatus){
				"web-setup": succeeded, "web-second": succeeded, "web-proxy": running, "web-app": succeeded,
			})
			if err := lose(bootFile(state)); err != nil {
				t.Fatal(err)
			}
			f = open("2")
			for name, want := range map[string]string{
				"web-setup": "boot 2", "web-second": "boot 2", "web-proxy": "", "web-app": "",
			} {
				if got := f.Get(key(name)).Annotations[source.AnnotationRestart]; got != want {
					t.Errorf("%s: found the request %q; want %q", name, got, want)
				}
			}
		})
	}
}

// TestInitOfLostContainer: the first agent after a boot is killed after it has written that nobody
// has looked at a container that ran. The next one does not take that for one that has yet to run.
func TestInitOfLostContainer(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	text := strings.Replace(podOf("Never"), "  - {name: proxy, image: x, restartPolicy: Always}\n", "", 1)
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(boot string, newBoot bool) *Folder {
		t.Helper()
		f, err := New(Options{Dir: dir, StateDir: state, NodeName: "node-1", Boot: boot, NewBoot: newBoot})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open("1", false)
	f.scan()
	statusesOf(t, f, map[string]func(*v1alpha1.OCIBundleStatus){
		"web-setup": func(s *v1alpha1.OCIBundleStatus) { s.Phase = v1alpha1.ContainerSucceeded },
		"web-app": func(s *v1alpha1.OCIBundleStatus) {
			s.Phase, s.State.Running = v1alpha1.ContainerRunning, &corev1.ContainerStateRunning{}
		},
	})
	for _, newBoot := range []bool{true, false} {
		f = open("2", newBoot)
		if got := f.Get(key("web-setup")).Annotations[source.AnnotationRestart]; got != "" {
			t.Errorf("found the request %q; want none", got)
		}
		if err := os.WriteFile(bootFile(state), []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
