// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-run/berth/internal/needs"
)

// TestRuntimeType: who is asked to run a container at its creation is asked for everything later,
// and leaves nothing.
func TestRuntimeType(t *testing.T) {
	root, id := host(t)
	const runc = "/usr/sbin/runc"
	if _, err := os.Stat(runc); err != nil {
		t.Fatalf("needs Debian's runc: %v", err)
	}
	config := filepath.Join(t.TempDir(), "runtimes.json")
	must(t, os.WriteFile(config, []byte(`{"old": {"path": "`+runc+`"}, "bad": {"path": "runc"}}`),
		0o600))
	dir := bundle(t, args("sh", "-c", "echo hello; exit 7"))
	call := func(args ...string) result {
		return berth(t, append([]string{"--root", root, "--runtimes", config}, args...)...)
	}

	call("run", "--runtime-type", "old", "--bundle", dir, id).is(t, 7, "hello\n", "")
	call("list", "-q").is(t, 0, "", "")

	call("create", "--runtime-type=old", "--bundle", dir, id).is(t, 0, "", "")
	if _, err := os.Stat(filepath.Join(root, id, "external", id, "state.json")); err != nil {
		t.Errorf("runc has no container: %v", err)
	}
	// From here on without the flags: the choice is recorded.
	berth(t, "--root", root, "state", id).is(t, 0, `"status": "created"`, "")
	berth(t, "--root", root, "list").is(t, 0, id, "")
	berth(t, "--root", root, "create", "--bundle", dir, id).is(t, 1, "",
		"container with given ID already exists")
	berth(t, "--root", root, "kill", id, "KILL").is(t, 0, "", "")
	berth(t, "--root", root, "delete", "--force", id).is(t, 0, "", "")
	berth(t, "--root", root, "state", id).is(t, 1, "", "container does not exist")

	call("create", "--runtime-type", "old", "--bundle", t.TempDir(), id).is(t, 1, "", "config.json")
	call("run", "--runtime-type", "nope", "--bundle", dir, id).is(t, 1, "",
		`--runtime-type: found "nope"; allowed are native, bad, old`)
	call("run", "--runtime-type", "bad", "--bundle", dir, id).is(t, 1, "",
		`bad.path: found "runc"; allowed is an absolute path`)
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestRuntimeTypeNamesItsOwnFiles: a container that a program has created stays known whatever the
// program calls its files.
func TestRuntimeTypeNamesItsOwnFiles(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	root, program := filepath.Join(dir, "root"), filepath.Join(dir, "program")
	// As runsc has it: ROOT/ID_sandbox:ID.state. The command follows --root DIR.
	must(t, os.WriteFile(program, []byte(`#!/bin/sh
for id; do :; done
mkdir -p "$2"
case $3 in
create) touch "$2/${id}_sandbox:$id.state" ;;
run) ;;
state) echo '{"id": "'$id'", "status": "created"}' ;;
delete) rm "$2/${id}_sandbox:$id.state" ;;
esac
`), 0o755))
	config := filepath.Join(dir, "runtimes.json")
	must(t, os.WriteFile(config, []byte(`{"other": {"path": "`+program+`"}}`), 0o600))
	berth(t, "--root", root, "--runtimes", config, "create", "--runtime-type", "other", "c").is(t, 0,
		"", "")
	berth(t, "--root", root, "state", "c").is(t, 0, `"status": "created"`, "")
	berth(t, "--root", root, "delete", "c").is(t, 0, "", "")
	run := func(code int, args ...string) {
		t.Helper()
		options := []string{"--root", root, "--runtimes", config, "run", "--runtime-type", "other"}
		berth(t, append(append(options, args...), "c")...).is(t, code, "", "")
	}
	run(0)
	// Files that do not have the id in their names.
	must(t, os.WriteFile(program, []byte(`#!/bin/sh
mkdir -p "$2"
case "$3 $4" in
"run --keep") touch "$2/1.state"; exit 7 ;;
run*c) ;;
run*) touch "$2/1.state" ;;
state*) cat "$2/1.state" ;;
delete*) rm "$2/1.state" ;;
esac
`), 0o755))
	for code, flag := range map[int]string{0: "--detach", 7: "--keep"} {
		run(code, flag)
		if _, err := os.Stat(filepath.Join(root, "c", externalFile)); err != nil {
			t.Errorf("run %s: found %v; want the container to be known", flag, err)
		}
		berth(t, "--root", root, "delete", "c").is(t, 0, "", "")
	}
	run(0, "--detach=false")
	// A program that does not say that it has no container may have kept it.
	for words, known := range map[string]bool{
		"the state cannot be read": true, "container does not exist": false,
	} {
		must(t, os.WriteFile(program, []byte(`#!/bin/sh
case "$3" in
run) exit 7 ;;
--log) echo "`+words+`" >&2; exit 1 ;;
esac
`), 0o755))
		run(7, "--keep")
		_, err := os.Stat(filepath.Join(root, "c", externalFile))
		if known != (err == nil) {
			t.Errorf("%s: found %v; want the container to be known: %v", words, err, known)
		}
		if err == nil {
			berth(t, "--root", root, "delete", "c").is(t, 0, "", "")
		}
	}
	must(t, os.Remove(program))
	berth(t, "--root", root, "--runtimes", config, "run", "--runtime-type", "other", "--keep", "c").is(t,
		1, "", "no such file")
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestRuntimeRecordOfAnotherUser: a program in another user's record, in a directory where everybody may
// create files, is not executed.
func TestRuntimeRecordOfAnotherUser(t *testing.T) {
	needs.Root(t)
	root := t.TempDir()
	must(t, os.Chmod(root, 0o777|os.ModeSticky))
	proof := filepath.Join(t.TempDir(), "proof")
	program := filepath.Join(root, "program")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\ntouch "+proof+"\n"), 0o755))
	must(t, os.Mkdir(filepath.Join(root, "c"), 0o755))
	file := filepath.Join(root, "c", externalFile)
	must(t, os.WriteFile(file, []byte(`{"path": "`+program+`"}`), 0o644))
	must(t, os.Chown(file, 4242, 4242))
	berth(t, "--root", root, "list").is(t, 0, "", "belongs to user 4242")
	for _, command := range []string{"state", "kill", "delete", "start"} {
		berth(t, "--root", root, command, "c").is(t, 1, "", "belongs to user 4242")
	}
	if _, err := os.Stat(proof); err == nil {
		t.Error("the other user's program was executed")
	}
}
