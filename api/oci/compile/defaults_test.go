// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var updateRevisions = flag.Bool("update-revisions", false, "write testdata/revisions.txt")

// TestRevisionRises: testdata/revisions.txt has, for each sample, the digest of all that it
// compiles to and the Revision that it has had since. Another digest takes another Revision, or
// nobody would learn of the newer defaults.
func TestRevisionRises(t *testing.T) {
	const list = "testdata/revisions.txt"
	text, err := os.ReadFile(list)
	if err != nil && !*updateRevisions {
		t.Fatal(err)
	}
	recorded := map[string]string{}
	for line := range strings.Lines(string(text)) {
		var name, digest string
		var revision int
		if _, err := fmt.Sscan(line, &name, &revision, &digest); err != nil {
			t.Fatalf("%s: %q: %v", list, line, err)
		}
		if revision > Revision {
			t.Errorf("%s has revision %d; Revision is %d", name, revision, Revision)
		}
		recorded[name] = fmt.Sprintf("%d %s", revision, digest)
	}
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata:", err)
	}
	var out strings.Builder
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		b, faults := Bundle(readContainer(t, file), Architecture("amd64"))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		digest := fmt.Sprintf("%x", sha256.Sum256(data))
		was := recorded[name]
		switch revision, before, _ := strings.Cut(was, " "); {
		case before == digest:
			fmt.Fprintf(&out, "%s %s\n", name, was)
			continue
		case before != "" && revision == fmt.Sprint(Revision):
			t.Errorf("%s compiles to something else than before: raise Revision, and run go test -run TestRevisionRises -update-revisions", name)
		case !*updateRevisions:
			t.Errorf("%s is not in %s as it compiles now: run go test -run TestRevisionRises -update-revisions", name, list)
		}
		fmt.Fprintf(&out, "%s %d %s\n", name, Revision, digest)
	}
	if *updateRevisions && !t.Failed() {
		if err := os.WriteFile(list, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
