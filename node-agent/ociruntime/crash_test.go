// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperEnv makes the test binary a process that creates, runs or deletes a container: "create",
// "run" or "delete".
const helperEnv = "BERTH_RUNTIME_TEST_HELPER"

func helper() {
	rt, err := New(os.Args[1])
	if err == nil {
		switch o := (CreateOptions{Bundle: os.Args[3]}); os.Getenv(helperEnv) {
		case "create":
			_, err = rt.Create(background, os.Args[2], o)
		case "run":
			var p *Process
			if p, err = rt.Run(background, os.Args[2], o); err == nil {
				p.Wait()
				err = p.Delete(background)
			}
		case "delete":
			err = rt.Delete(background, os.Args[2], true)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestKilledRuntime: whenever the process that makes a container is killed, delete --force removes
// all that there is of it.
func TestKilledRuntime(t *testing.T) {
	w := newWorld(t)
	w.must(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	defer func() { w.must(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)) }()
	w.save(w.spec("/bin/sleep", "1000"))
	self, err := os.Executable()
	w.must(err)
	before := w.leftovers()
	// How long it takes here: kills are spread over twice that.
	began := time.Now()
	whole := exec.Command(self, filepath.Join(w.dir, "run"), w.id, w.bundle())
	whole.Env = append(os.Environ(), helperEnv+"=create")
	w.must(whole.Run())
	took := time.Since(began)
	w.must(w.rt.Delete(background, w.id, true))
	w.reapAll(-1, "create")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	seen := map[string]int{}
	for round := range 20 {
		mode := []string{"create", "run"}[round%2]
		cmd := exec.Command(self, filepath.Join(w.dir, "run"), w.id, w.bundle())
		cmd.Env = append(os.Environ(), helperEnv+"="+mode)
		w.must(cmd.Start())
		// From its first step on: the directory of the container is the sign.
		dir := filepath.Join(w.dir, "run", w.id)
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			if _, err := os.Stat(dir); err == nil {
				break
			}
		}
		time.Sleep(time.Duration(random.Int64N(int64(2 * took))))
		w.must(cmd.Process.Kill())
		_ = cmd.Wait()
		seen[w.status()]++
		if err := w.rt.Delete(background, w.id, true); err != nil {
			t.Errorf("round %d (%s): delete by force: %v", round, mode, err)
		}
		w.reapAll(round, mode)
		if after := w.leftovers(); after != before {
			t.Fatalf("round %d (%s) left over, before:\n%s\nand after:\n%s", round, mode, before, after)
		}
	}
	t.Logf("killed at: %v", seen)
}

// TestKilledDelete: whenever the process that deletes a container is killed, to delete it again
// removes all that there is of it, its id among it.
func TestKilledDelete(t *testing.T) {
	w := newWorld(t)
	self, err := os.Executable()
	w.must(err)
	spec := w.spec("/bin/sleep", "1000")
	before := w.leftovers()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var took time.Duration
	for round := range 15 {
		w.create(spec)
		cmd := exec.Command(self, filepath.Join(w.dir, "run"), w.id, w.bundle())
		cmd.Env = append(os.Environ(), helperEnv+"=delete")
		began := time.Now()
		w.must(cmd.Start())
		if round > 0 {
			time.Sleep(time.Duration(random.Int64N(int64(took))))
			_ = cmd.Process.Kill() // unless it has ended
		}
		_ = cmd.Wait()
		took = max(took, time.Since(began))
		if err := w.rt.Delete(background, w.id, true); err != nil {
			t.Errorf("round %d: delete by force: %v", round, err)
		}
		w.reapAll(round, "delete")
		if _, err := os.Lstat(filepath.Join(w.dir, "run", w.id)); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("round %d: the container's directory is left: %v", round, err)
		}
	}
	if after := w.leftovers(); after != before {
		t.Errorf("left over, before:\n%s\nand after:\n%s", before, after)
	}
}

// reapAll reaps what a killed process leaves behind as it ends, in place of an init.
func (w *world) reapAll(round int, mode string) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if errors.Is(err, unix.ECHILD) {
				return
			}
			if pid <= 0 {
				break
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("round %d (%s): a process is left: %v", round, mode, children(w.t))
		}
	}
}

// TestStartOfAKilledStart: the process that started a container was killed before it could say so
// in the record.
func TestStartOfAKilledStart(t *testing.T) {
	w := newWorld(t)
	s := w.create(w.spec("/bin/sleep", "1000"))
	fifo, err := os.OpenFile(filepath.Join(w.dir, "run", w.id, startFIFO), os.O_WRONLY, 0)
	w.must(err)
	_, err = fifo.Write([]byte{0})
	w.must(err)
	w.must(fifo.Close())
	w.await("the program", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.PID))
		return string(comm) == "sleep\n"
	})
	// The kernel lets go of what was close-on-exec a moment after the program has its name.
	w.await("running", func() bool { return w.status() == "running" })
	if err := w.rt.Start(background, w.id); err == nil ||
		err.Error() != "cannot start an already running container" {
		t.Errorf("start: %v", err)
	}
}
