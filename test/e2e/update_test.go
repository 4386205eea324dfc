// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	berthv1 "github.com/berth-run/berth/api/v1alpha1"
)

// TestEditOfResources: kubectl patch changes the limits of the process that runs, or leaves all of
// them if one cannot be.
func TestEditOfResources(t *testing.T) {
	cleanAfter(t, "hello")
	kube(t, "apply", "-f", "config/samples/hello.yaml")
	kube(t, "wait", "--for=condition=Ready", "container/hello", "--timeout=3m")
	pid := get(t, "hello").Status.PID
	patch := func(resources string) {
		kube(t, "patch", "container", "hello", "--type=merge", "-p", `{"spec":{"resources":`+
			resources+`}}`)
	}
	is := func(memory, pids string) error {
		if got := cgroupFile(t, pid, "memory", "memory.limit_in_bytes", "memory.max"); got != memory {
			return fmt.Errorf("the limit of memory is %s; want %s", got, memory)
		}
		if got := cgroupFile(t, pid, "pids", "pids.max", "pids.max"); got != pids {
			return fmt.Errorf("the limit of pids is %s; want %s", got, pids)
		}
		if now := get(t, "hello").Status; now.PID != pid || now.RestartCount != 0 {
			return fmt.Errorf("it has pid %d and %d restarts; want pid %d and none", now.PID,
				now.RestartCount, pid)
		}
		return nil
	}
	patch(`{"limits":{"memory":"48Mi","pids":"40"}}`)
	// Once kubectl wait returns, the kernel has them.
	kube(t, "wait", "--for=condition=Ready", "container/hello", "--timeout=3m")
	if err := is("50331648", "40"); err != nil {
		t.Fatal(err)
	}
	patch(`{"requests":{"memory":"8Ki"},"limits":{"memory":"8Ki","pids":"50"}}`)
	condition(t, "hello", "Accepted", "UpdateRefused", "config.linux.resources.memory.limit: ")
	condition(t, "hello", "Ready", "UpdateRefused", "the container goes on as its earlier spec says")
	if err := is("50331648", "40"); err != nil {
		t.Error(err)
	}
	patch(`{"limits":{"memory":"64Mi","pids":"50"}}`)
	kube(t, "wait", "--for=condition=Ready", "container/hello", "--timeout=3m")
	if err := is("67108864", "50"); err != nil {
		t.Error(err)
	}
	// Another program is another process.
	kube(t, "patch", "container", "hello", "--type=merge", "-p",
		`{"spec":{"workingDir":"/tmp","terminationGracePeriodSeconds":0}}`)
	eventually(t, 2*time.Minute, func() error {
		if now := get(t, "hello").Status; now.PID == 0 || now.PID == pid {
			return fmt.Errorf("it has pid %d, as before", now.PID)
		}
		return nil
	})
}

// TestEditOfLogging: kubectl patch changes the log files of a process that floods them. What cannot
// be is refused with its field.
func TestEditOfLogging(t *testing.T) {
	cleanAfter(t, "flood")
	apply(t, `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: flood}
spec:
  archive: {path: /var/lib/berth/archives/hello.tar}
  command: [/bin/sh, -c, "while true; do seq 1 5000; sleep 0.05; done"]
  terminationGracePeriodSeconds: 0
`)
	kube(t, "wait", "--for=condition=Ready", "container/flood", "--timeout=3m")
	first := get(t, "flood").Status
	files := func() (sizes []int64) {
		for i := 0; ; i++ {
			name := first.LogPath
			if i > 0 {
				name += fmt.Sprint(".", i)
			}
			fi, err := os.Stat(name)
			if err != nil {
				return sizes
			}
			sizes = append(sizes, fi.Size())
		}
	}
	eventually(t, 3*time.Minute, func() error {
		if got := files(); len(got) != 1 || got[0] < 1<<20 {
			return fmt.Errorf("found log files of %v bytes", got)
		}
		return nil
	})
	for _, tc := range []struct {
		maxSize string
		bytes   int64
		files   int
	}{{"256Ki", 256 << 10, 4}, {"64Ki", 64 << 10, 2}} {
		kube(t, "patch", "container", "flood", "--type=merge", "-p",
			fmt.Sprintf(`{"spec":{"logging":{"maxSize":%q,"maxFiles":%d}}}`, tc.maxSize, tc.files))
		kube(t, "wait", "--for=condition=Ready", "container/flood", "--timeout=3m")
		eventually(t, 3*time.Minute, func() error {
			if got := files(); len(got) != tc.files || slices.Max(got) > tc.bytes {
				return fmt.Errorf("found log files of %v bytes; want %d of at most %d", got, tc.files, tc.bytes)
			}
			return nil
		})
		if now := get(t, "flood").Status; now.PID != first.PID || now.RestartCount != 0 {
			t.Errorf("it has pid %d and %d restarts; want pid %d and none", now.PID, now.RestartCount,
				first.PID)
		}
	}
	for patch, want := range map[string]string{
		`{"spec":{"logging":{"maxSize":"4Ki"}}}`: "spec.logging.maxSize",
		`{"spec":{"logging":{"maxFiles":1}}}`:    "spec.logging.maxFiles",
	} {
		if out, err := tryKube("patch", "container", "flood", "--type=merge", "-p", patch); err == nil ||
			!strings.Contains(out+err.Error(), want) {
			t.Errorf("%s: %s (%v)", patch, out, err)
		}
	}
}

// TestEditOfBackOff: kubectl patch ends the wait of a container in CrashLoopBackOff that would wait
// for an hour.
func TestEditOfBackOff(t *testing.T) {
	cleanAfter(t, "crash")
	apply(t, `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: crash}
spec:
  archive: {path: /var/lib/berth/archives/hello.tar}
  command: [/bin/sh, -c, exit 3]
  restartBackOff: {initialSeconds: 3600, maxSeconds: 3600}
`)
	waits := func(restarts int32, length string) func() error {
		return func() error {
			s := get(t, "crash").Status
			if w := s.State.Waiting; w == nil || w.Reason != berthv1.ReasonCrashLoopBackOff ||
				!strings.Contains(w.Message, "after a back-off of "+length) || s.RestartCount < restarts {
				return fmt.Errorf("found %d restarts and %+v", s.RestartCount, w)
			}
			return nil
		}
	}
	eventually(t, 2*time.Minute, waits(1, "1h0m0s"))
	kube(t, "patch", "container", "crash", "--type=merge", "-p",
		`{"spec":{"restartBackOff":{"initialSeconds":null,"maxSeconds":1}}}`)
	eventually(t, 2*time.Minute, waits(3, "1s"))
}
