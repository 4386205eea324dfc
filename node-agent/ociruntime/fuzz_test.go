// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzState: whatever state.json is, reading it ends with a record of that container or an error.
func FuzzState(f *testing.F) {
	for _, s := range []string{
		`{"id":"a","pid":1,"startTime":2,"cgroups":{"":"/sys/fs/cgroup/a"},"hooks":{"poststop":[{"path":"/x","timeout":1}]}}`,
		`{"id":"b"}`, `{"id":"a","pid":-1}`, `{"id":"a","pid":1e9}`, `[]`, `{"id":"a","late":[{"index":-1}]}`, "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data, "a")
		if err != nil {
			return
		}
		if rec.ID != "a" || rec.PID < 0 {
			t.Fatalf("accepted the record %+v", rec)
		}
		again, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		second, err := parseRecord(again, "a")
		if err != nil || !reflect.DeepEqual(first(second), first(rec)) {
			t.Fatalf("accepted, and refused or read otherwise when written out again: %v", err)
		}
	})
}

// first returns the fields of a record that identify its process.
func first(rec *record) any { return []any{rec.ID, rec.PID, rec.StartTime, rec.Boot, rec.Bundle} }
