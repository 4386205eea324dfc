// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestPause: a paused container does nothing, and goes on where it was.
func TestPause(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.start(w.sh("while :; do echo x >> /count; done"))
	size := func() int64 {
		st, err := os.Stat(w.file("/count"))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	w.await("the container to work", func() bool { return size() > 0 })
	if err := w.rt.Resume(ctx, w.id); !errors.Is(err, ErrNotPaused) {
		t.Errorf("to resume what runs gives %v", err)
	}
	w.must(w.rt.Pause(ctx, w.id))
	if s := w.status(); s != string(StatusPaused) {
		t.Errorf("its status is %s", s)
	}
	if err := w.rt.Pause(ctx, w.id); !errors.Is(err, ErrNotRunning) {
		t.Errorf("to pause it twice gives %v", err)
	}
	err := w.rt.Delete(ctx, w.id, false)
	if err == nil || !strings.Contains(err.Error(), "that is not stopped: paused") {
		t.Errorf("to delete it gives %v", err)
	}
	// A signal to all of a paused container waits, and does not resume it.
	w.must(w.rt.Kill(ctx, w.id, unix.SIGCONT, true))
	before := size()
	time.Sleep(30 * time.Millisecond)
	if after := size(); after != before || w.status() != string(StatusPaused) {
		t.Errorf("it worked on while it was paused: %d, %d, %s", before, after, w.status())
	}
	w.must(w.rt.Resume(ctx, w.id))
	w.await("the container to work again", func() bool { return size() > before })
	if s := w.status(); s != string(specs.StateRunning) {
		t.Errorf("its status is %s", s)
	}
}

// TestPauseCreated: as in runc, one that has not been started can be paused, and cannot be started
// until it is resumed.
func TestPauseCreated(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.create(w.sh("sleep 1000"))
	w.must(w.rt.Pause(ctx, w.id))
	err := w.rt.Start(ctx, w.id)
	if err == nil || !strings.Contains(err.Error(), "cannot start a container in the paused state") {
		t.Errorf("to start it gives %v", err)
	}
	w.must(w.rt.Resume(ctx, w.id))
	if s := w.status(); s != string(specs.StateCreated) {
		t.Errorf("its status is %s", s)
	}
	w.must(w.rt.Start(ctx, w.id))
}

// TestKillPaused: SIGKILL ends a paused container, with its own pid namespace and without, by kill
// and by kill of all.
func TestKillPaused(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct{ ownPIDs, all bool }{
		"first process": {true, false}, "all": {true, true}, "all in the pids of the host": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.sh("sleep 1000 & wait")
			if !c.ownPIDs {
				spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces,
					func(n specs.LinuxNamespace) bool {
						return n.Type == specs.PIDNamespace
					})
			}
			w.start(spec)
			w.await("its processes", func() bool {
				pids, _ := w.rt.Processes(ctx, w.id)
				return len(pids) == 2
			})
			w.must(w.rt.Pause(ctx, w.id))
			w.must(w.rt.Kill(ctx, w.id, unix.SIGKILL, c.all))
			w.await("its end", func() bool { return w.status() == string(specs.StateStopped) })
			w.await("the end of all its processes", func() bool {
				pids, err := w.rt.Processes(ctx, w.id)
				return err == nil && len(pids) == 0
			})
			for what, err := range map[string]error{
				"pause": w.rt.Pause(ctx, w.id),
				"kill":  w.rt.Kill(ctx, w.id, unix.SIGKILL, false),
			} {
				if !errors.Is(err, ErrNotRunning) {
					t.Errorf("%s then gives %v", what, err)
				}
			}
		})
	}
}

// TestDeletePaused: delete --force ends a paused container; newWorld looks for what is left.
func TestDeletePaused(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	s := w.start(w.sh("sleep 1000 & wait"))
	w.must(w.rt.Pause(ctx, w.id))
	w.must(w.rt.Delete(ctx, w.id, true))
	if status := reap(s.PID); status.Signal() != unix.SIGKILL {
		t.Errorf("it ended with %v", status)
	}
}
