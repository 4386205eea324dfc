// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// TestUpgradeIsNoEdit: the generation of a Container is that of the words in its manifest, whatever
// a version of Berth makes of them.
func TestUpgradeIsNoEdit(t *testing.T) {
	for name, accepted := range map[string]func(state string){
		"by this version": func(string) {},
		"by one that did not record the digest": func(state string) {
			file := statusFile(state, key("a"))
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			old := bytes.ReplaceAll(data, []byte(`"`+annotationDigest+`"`), []byte(`"other"`))
			if bytes.Equal(old, data) {
				t.Fatalf("there is no digest in %s", data)
			}
			if err := os.WriteFile(file, old, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, state := t.TempDir(), t.TempDir()
			write := func(content string) {
				if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(container("a", ""))
			f := newFolder(t, dir, state)
			f.scan()
			if b := f.Get(key("a")); b.Generation != 1 || b.Spec.CompiledGeneration != 1 {
				t.Fatalf("found generation %d, compiled for %d", b.Generation, b.Spec.CompiledGeneration)
			}
			accepted(state)

			// The next version compiles to other bytes; twice, since the first time may adopt what
			// it finds.
			for range 2 {
				var err error
				if f, err = New(Options{
					Dir: dir, StateDir: state, NodeName: "node-1",
					Compile: compileNext,
				}); err != nil {
					t.Fatal(err)
				}
				if changed := f.scan(); len(changed) > 0 {
					t.Errorf("%v changed", changed)
				}
				if b := f.Get(key("a")); b.Generation != 1 || b.Spec.CompiledGeneration != 1 {
					t.Errorf("found generation %d, compiled for %d", b.Generation, b.Spec.CompiledGeneration)
				}
			}
			// Nor is another default an edit.
			f = newFolder(t, dir, state)
			e := f.entries[key("a")]
			if e.container.Annotations[annotationDigest] == "" {
				t.Error("the digest was not recorded")
			}
			e.container.Spec.Hostname = "a-default-of-the-last-version"
			if f.scan(); f.Get(key("a")).Generation != 1 {
				t.Error("another default is an edit")
			}

			write(container("a", ", args: [z]"))
			if f.scan(); f.Get(key("a")).Generation != 2 || f.Get(key("a")).Spec.CompiledGeneration != 2 {
				t.Error("an edit is no new generation")
			}
		})
	}
}

// TestRecompile: a new value of the annotation is a new generation of the bundle, compiled by the
// version that reads it, and no edit.
func TestRecompile(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write := func(annotations, spec string) {
		text := strings.Replace(container("a", spec), "name: a", "name: a, annotations: {"+
			annotations+"}", 1)
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := newFolder(t, dir, state)
	var run string
	look := func(generation, compiled int64, newRun bool) {
		t.Helper()
		f.scan()
		b := f.Get(key("a"))
		if b.Generation != generation || b.Spec.CompiledGeneration != compiled {
			t.Errorf("found generation %d, compiled for %d; want %d and %d", b.Generation,
				b.Spec.CompiledGeneration, generation, compiled)
		}
		if now := b.Annotations[source.AnnotationRun] +
			b.Annotations[source.AnnotationFixed]; (now != run) != newRun {
			t.Errorf("the digests are %q after %q", now, run)
		} else {
			run = now
		}
	}
	write(`berth.run/recompile: "1"`, "")
	look(1, 1, true)
	look(1, 1, false)
	f = newFolder(t, dir, state)
	look(1, 1, false)
	write(`berth.run/recompile: "2"`, "")
	look(2, 1, true)
	write(``, "")
	look(2, 1, false)
	write(`berth.run/recompile: "2"`, "") // as it was
	look(2, 1, false)
	f = newFolder(t, dir, state)
	look(2, 1, false)
	write(`berth.run/recompile: "3"`, "")
	look(3, 1, true)
	write(`berth.run/recompile: "3"`, ", args: [z]")
	look(4, 4, true)
	write(`berth.run/recompile: "4"`, ", args: [other]")
	look(5, 5, true)
}

func compileNext(c *v1alpha1.Container, o ...compile.Option) (*v1alpha1.OCIBundleSpec,
	field.ErrorList,
) {
	spec, faults := compile.Bundle(c, o...)
	if spec != nil {
		spec.Config.Raw = bytes.Replace(spec.Config.Raw, []byte("{"),
			[]byte(`{"annotations":{"by":"the next version"},`), 1)
	}
	return spec, faults
}

// TestDigestStays: status files hold the digest, so it must not change for a spec that uses nothing
// new: a field that is added has omitempty.
func TestDigestStays(t *testing.T) {
	found := parse([]byte(container("a",
		", resources: {limits: {cpu: 1}}, securityContext: {runAsUser: 1}")),
		node{bundle: compile.Bundle})
	const want = "sha256:06a9ff063ffc1f70f101789f0820f8ffea90a16bbc7da4f065194edc8fa969e4"
	if len(found.containers) != 1 || found.containers[0].digest != want {
		t.Errorf("found %+v; want the digest %s", found, want)
	}
}
