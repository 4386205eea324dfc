// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func pvc(name, mode string) string {
	return "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: " + name +
		"}\nspec: {accessModes: [" + mode + "]}\n"
}

// TestPersistentVolumeClaims: who names a claim is told of its changes. A refused file keeps its
// claims, also for the next agent, and commands can read them.
func TestPersistentVolumeClaims(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	f := newFolder(t, dir, state)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	look := func(step, changed, modes string) {
		t.Helper()
		if got := fmt.Sprint(f.scan()); got != changed {
			t.Errorf("%s: found the changes %s; want %s", step, got, changed)
		}
		found, ok := f.AccessModes("default", "data")
		if got := fmt.Sprint(found); got != modes || ok != (modes != "[]") {
			t.Errorf("%s: found %s, %v; want %s", step, got, ok, modes)
		}
		claims, err := ReadClaims(state)
		if want := map[bool]string{true: "[]", false: "[default/data]"}[modes == "[]"]; err != nil ||
			fmt.Sprint(claims) != want {
			t.Errorf("%s: found %v, %v; want %s", step, claims, err, want)
		}
	}
	const user, none = "[default/user]", "[]"
	write("a.yaml", container("user", ", volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]"))
	write("b.yaml", container("other", ", volumes: [{name: v, persistentVolumeClaim: {claimName: x}}]"))
	f.scan()
	write("c.yaml", pvc("data", "ReadWriteOnce"))
	look("new", user, "[ReadWriteOnce]")
	look("unchanged", none, "[ReadWriteOnce]")
	write("c.yaml", pvc("data", "ReadOnlyMany"))
	look("changed", user, "[ReadOnlyMany]")
	write("c.yaml", "{")
	look("refused", none, "[ReadOnlyMany]")
	f = newFolder(t, dir, state)
	f.scan()
	look("refused, for the next agent", none, "[ReadOnlyMany]")
	if err := os.Remove(filepath.Join(dir, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	f.scan()
	f.gone = nil
	f.scan()
	look("removed", none, "[]")
	// A command that does not know a claim must know that it does not.
	claims := objectsDir(state, "PersistentVolumeClaim")
	if err := errors.Join(os.Remove(claims), os.WriteFile(claims, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	write("c.yaml", pvc("data", "ReadWriteOnce"))
	f.scan()
	if faults, err := ReadFaults(state); err != nil || len(faults) != 1 ||
		!strings.Contains(faults[0].Message, "cannot write down the accepted PersistentVolumeClaim") {
		t.Errorf("found %v, %v; want that the claim is not written", faults, err)
	}
	if err := errors.Join(os.Remove(claims), os.Mkdir(claims, 0o700)); err != nil {
		t.Fatal(err)
	}
	look("written at the next look", none, "[ReadWriteOnce]")
	if faults, err := ReadFaults(state); err != nil || len(faults) != 0 {
		t.Errorf("found %v, %v; want no faults", faults, err)
	}
	path := filepath.Join(objectsDir(state, "PersistentVolumeClaim"), "default_data.json")
	if err := os.WriteFile(path, []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if claims, err := ReadClaims(state); err == nil {
		t.Errorf("found %v; want an error, since a claim cannot be read", claims)
	}
}
