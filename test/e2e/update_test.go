// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestEditOfResources: kubectl patch changes the limits of the process that runs, or leaves all of them if one cannot be.
func TestEditOfResources(t *testing.T) {
	cleanAfter(t, "hello")
	kube(t, "apply", "-f", "config/samples/hello.yaml")
	kube(t, "wait", "--for=condition=Ready", "container/hello", "--timeout=3m")
	pid := get(t, "hello").Status.PID
	patch := func(resources string) {
		kube(t, "patch", "container", "hello", "--type=merge", "-p", `{"spec":{"resources":`+resources+`}}`)
	}
	is := func(memory, pids string) error {
		if got := cgroupFile(t, pid, "memory", "memory.limit_in_bytes", "memory.max"); got != memory {
			return fmt.Errorf("the limit of memory is %s; want %s", got, memory)
		}
		if got := cgroupFile(t, pid, "pids", "pids.max", "pids.max"); got != pids {
			return fmt.Errorf("the limit of pids is %s; want %s", got, pids)
		}
		if now := get(t, "hello").Status; now.PID != pid || now.RestartCount != 0 {
			return fmt.Errorf("it has pid %d and %d restarts; want pid %d and none", now.PID, now.RestartCount, pid)
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
	kube(t, "patch", "container", "hello", "--type=merge", "-p", `{"spec":{"workingDir":"/tmp","terminationGracePeriodSeconds":0}}`)
	eventually(t, 2*time.Minute, func() error {
		if now := get(t, "hello").Status; now.PID == 0 || now.PID == pid {
			return fmt.Errorf("it has pid %d, as before", now.PID)
		}
		return nil
	})
}
