// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"io"
	"os"
	"testing"
	"time"
)

// TestTerminalAlone: containerd's shim reads what create prints to its end before it takes the
// terminal that it has been sent. So the process that waits for its start must not hold our
// standard output.
func TestTerminalAlone(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("true")
	spec.Process.Terminal = true
	w.save(spec)
	_, theirs := socketPair(t)
	r, out, err := os.Pipe()
	w.must(err)
	defer r.Close()
	s, err := w.rt.Create(background, w.id, CreateOptions{
		Bundle: w.bundle(), Console: theirs,
		Stdout: out, Stderr: out,
	})
	out.Close()
	w.must(err)
	defer func() {
		w.must(w.rt.Delete(background, w.id, true))
		reap(s.PID)
	}()
	w.must(r.SetReadDeadline(time.Now().Add(patience)))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("found %v; want the end", err)
	}
}
