// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-run/berth/node-agent/source"
)

// TestRequests: a request holds over edits and restarts of the agent, but not for a new life of the
// Container.
func TestRequests(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(container("a", ""))
	f := newFolder(t, dir, state)
	f.scan()
	ask := func(verb Verb) string {
		t.Helper()
		id, err := Ask(state, verb, f.entries[key("a")].container)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	holds := func(when, restart string, stopped bool) {
		t.Helper()
		b := f.Get(key("a"))
		if b.Annotations[source.AnnotationRestart] != restart ||
			(b.Annotations[source.AnnotationStopped] != "") != stopped ||
			b.Annotations[source.AnnotationRun] == "" {
			t.Errorf("%s: found %v; want restart %q, stopped %v", when, b.Annotations, restart, stopped)
		}
		if left, err := os.ReadDir(requestsDir(state)); err != nil || len(left) != 0 {
			t.Errorf("%s: found requests %v, %v", when, left, err)
		}
	}
	ask(Stop)
	f.obey()
	holds("stop", "", true)
	f = newFolder(t, dir, state)
	holds("stop, before the manifests are read again", "", true)
	f.scan()
	write(container("a", ", args: [b]"))
	f.scan()
	holds("stop and an edit", "", true)
	first := ask(Start)
	f = newFolder(t, dir, state) // no agent ran when it was asked
	f.obey()
	holds("start", first, false)
	second := ask(Restart)
	ask(Remove) // is refused, since the manifest is there
	f.obey()
	holds("restart", second, false)
	ask("Dance")
	f.obey()
	holds("an unknown verb", second, false)
	err := os.WriteFile(filepath.Join(requestsDir(state), "0.json"), []byte("{"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.obey()
	holds("a broken request", second, false)

	// A request for a life that is over is for nobody.
	old := f.entries[key("a")].container
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	f.scan()
	if err := f.Release(t.Context(), key("a"), old.UID); err != nil {
		t.Fatal(err)
	}
	write(container("a", ""))
	f.scan()
	if _, err := Ask(state, Stop, old); err != nil {
		t.Fatal(err)
	}
	f.obey()
	holds("a request for the life before", "", false)
}

// TestRequestThatCannotBeRead: an unreadable request is kept until the next look.
func TestRequestThatCannotBeRead(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(container("a", "")),
		0o600); err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, state)
	f.scan()
	if _, err := Ask(state, Stop, f.entries[key("a")].container); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(requestsDir(state))
	if err != nil || len(entries) != 1 {
		t.Fatalf("found requests %v, %v", entries, err)
	}
	request, aside := filepath.Join(requestsDir(state), entries[0].Name()),
		filepath.Join(state, "aside")
	if err := os.Rename(request, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(request, request); err != nil { // ELOOP
		t.Fatal(err)
	}
	f.obey()
	if _, err := os.Lstat(request); err != nil {
		t.Errorf("the request was removed unread: %v", err)
	}
	if err := os.Rename(aside, request); err != nil {
		t.Fatal(err)
	}
	if f.obey(); f.Get(key("a")).Annotations[source.AnnotationStopped] == "" {
		t.Error("the request was not taken later")
	}
}
