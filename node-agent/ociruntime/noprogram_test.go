// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"testing"
)

// TestWithoutProcess: a document without a process makes a container that cannot be started
// (config.md, Process).
func TestWithoutProcess(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("true")
	spec.Process = nil
	s := w.create(spec)
	if got := w.status(); got != "created" || s.PID == 0 {
		t.Errorf("after create: %s, pid %d", got, s.PID)
	}
	if err := w.rt.Start(background, w.id); !errors.Is(err, ErrNoProcess) {
		t.Errorf("start: %v; want %v", err, ErrNoProcess)
	}
	if got := w.status(); got != "stopped" {
		t.Errorf("after start: %s", got)
	}
	w.must(w.rt.Delete(background, w.id, false))
	reap(s.PID)

	w.save(spec)
	_, err := w.rt.Run(background, w.id, CreateOptions{Bundle: w.bundle()})
	if !errors.Is(err, ErrNoProcess) {
		t.Errorf("run: %v; want %v", err, ErrNoProcess)
	}
}
