// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// flushes returns the system calls that wait for a disk, of all processes that come from the agent:
// the supervisor, the runtime and the containers.
func (h *host) flushes() []string {
	h.t.Helper()
	return regexp.MustCompile(
		`(?m)^.*\b(fsync|fdatasync|syncfs|sync|sync_file_range|msync)\(.*$`).FindAllString(h.trace(), -1)
}

// trace returns what strace has written.
func (h *host) trace() string {
	h.t.Helper()
	data, err := os.ReadFile(h.path("strace"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(data)
}

// untilFlushed waits until nothing has been flushed for three seconds, and returns all flushes. The
// agent may flush a file that is not urgent a second late.
func (h *host) untilFlushed() (found []string) {
	h.t.Helper()
	last := time.Now()
	h.until("all is flushed", func() bool {
		if now := h.flushes(); len(now) != len(found) {
			found, last = now, time.Now()
		}
		return time.Since(last) > 3*time.Second
	})
	return found
}

// runs counts the containers that run, or have ended with an exit code.
func (h *host) runs() (running, ended int) {
	all, _ := folder.Read(h.path("s"))
	for _, c := range all {
		switch {
		case c.Status.PID != 0 && meta.IsStatusConditionTrue(c.Status.Conditions,
			v1alpha1.ConditionReady):
			running++
		case c.Status.State.Terminated != nil:
			ended++
		}
	}
	return running, ended
}

// TestFlushes counts the flushes of real containers: at most one for a start, one for the end of a
// job, one tenth a container when 100 start together, and one for an image of several layers
// besides.
func TestFlushes(t *testing.T) {
	strace := needs.Program(t, "strace")
	h := newHost(t)
	h.tracer = []string{
		strace, "-D", "-f", "--seccomp-bpf", "-qq", "-o", h.path("strace"),
		"-e", "trace=fsync,fdatasync,syncfs,sync,sync_file_range,msync,execve", "-e", "signal=none",
	}
	h.start()
	h.until("the agent is ready", func() bool { return h.supervisorPID() > 0 })
	spec := "  archive: {path: " + programs +
		"/busybox.tar}\n  command: [/bin/sh, -c, '%s']\n  restartPolicy: Never\n"
	// flushed counts the flushes of what f does, those that come later included, and returns how long
	// f took.
	flushed := func(what string, f func()) (found []string, took time.Duration) {
		t.Helper()
		before, begun := len(h.untilFlushed()), time.Now()
		f()
		took = time.Since(begun)
		found = h.untilFlushed()[before:]
		t.Logf("%s: %d flushes, %.1f s", what, len(found), took.Seconds())
		return found, took
	}
	// On a busy machine, what takes seconds may have a flush in each.
	step := func(what string, most int, f func()) {
		t.Helper()
		found, took := flushed(what, f)
		if most += int(took.Seconds()); len(found) > most {
			t.Errorf("%s: found %d flushes; want at most %d:\n%s", what, len(found), most,
				strings.Join(found, "\n"))
		}
	}
	running := func(n int) func() bool {
		return func() bool { got, _ := h.runs(); return got == n }
	}
	step("a start with an image to unpack", 2, func() {
		h.write("first.yaml", fmt.Sprintf(spec, "sleep 1000"))
		h.until("it runs", running(1))
	})
	step("a start", 1, func() {
		before := len(h.trace())
		h.write("second.yaml", fmt.Sprintf(spec, "sleep 1000"))
		h.until("it runs", running(2))
		// A job must not run before it is on the disk that it may have run.
		trace := h.trace()[before:]
		flush := regexp.MustCompile(`fdatasync(\(\d+\)| resumed>\)) += 0`).FindStringIndex(trace)
		ran := strings.Index(trace, `execve("/bin/sh"`)
		if flush == nil || ran < flush[1] {
			t.Errorf("the program ran before the flush:\n%s", trace)
		}
	})
	step("a job that ends at once", 2, func() {
		h.write("job.yaml", fmt.Sprintf(spec, "exit 7"))
		h.until("it has ended", func() bool { _, ended := h.runs(); return ended == 1 })
	})
	files := []string{"first.yaml", "second.yaml", "job.yaml"}
	// On a machine that is busy with other things they do not start together: their starts are
	// spread over many seconds, of which each may have some flushes.
	for try := 1; ; try++ {
		found, took := flushed("100 that start together", func() {
			for i := range 100 {
				files = append(files, fmt.Sprintf("c%d-%d.yaml", try, i))
				h.write(files[len(files)-1], fmt.Sprintf(spec, "sleep 1000"))
			}
			h.within(10*time.Minute, "all run", running(2+100*try))
		})
		allowed := max(10, int(2*took.Seconds()))
		if len(found) <= allowed {
			break
		}
		if try == 3 {
			t.Errorf("found %d flushes for 100 starts; want at most %d", len(found), allowed)
			break
		}
	}
	h.removeAll(files...)
}
