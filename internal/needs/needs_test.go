// SPDX-License-Identifier: Apache-2.0

package needs

import (
	"strings"
	"testing"
)

// recorder records how Skip ends a test. Skip calls nothing else of a testing.TB.
type recorder struct {
	testing.TB
	calls []string
}

func (r *recorder) Helper()      {}
func (r *recorder) Fatal(...any) { r.calls = append(r.calls, "Fatal") }
func (r *recorder) Skip(...any)  { r.calls = append(r.calls, "Skip") }

func TestSkipFailsInCI(t *testing.T) {
	for ci, want := range map[string]string{"": "Skip", "true": "Fatal"} {
		t.Setenv("CI", ci)
		r := &recorder{}
		Skip(r, "a reason")
		// A real Fatal does not return.
		if got := strings.Join(r.calls, " "); !strings.HasPrefix(got, want) {
			t.Errorf("CI=%q: found %s; want %s", ci, got, want)
		}
	}
}
