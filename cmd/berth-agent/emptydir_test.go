// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestSizeLimitOnDisk: a container that writes more into an emptyDir on disk than its sizeLimit is
// ended, with the field and both sizes in its status, and finds the volume empty when it is started
// again. One that stays below runs on, and a job that may not be started again is Failed.
func TestSizeLimitOnDisk(t *testing.T) {
	h := newHost(t)
	h.start()
	write := func(name, script, more string) {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
			"  command: [/bin/sh, -c, '"+script+"; exec sleep 3600']\n"+
			"  volumes: [{name: cache, emptyDir: {sizeLimit: 2Mi}}]\n"+
			"  volumeMounts: [{name: cache, mountPath: /cache}]\n"+
			"  terminationGracePeriodSeconds: 1\n"+more)
	}
	const fill = "; dd if=/dev/zero of=/cache/file bs=64k count=COUNT 2>/dev/null"
	write("over", "echo found $(ls /cache)"+strings.Replace(fill, "COUNT", "48", 1), "")
	write("below", "true"+strings.Replace(fill, "COUNT", "8", 1), "")
	write("job", "true"+strings.Replace(fill, "COUNT", "48", 1), "  restartPolicy: Never\n")
	below := h.untilRunning("below")
	evicted := func(end *corev1.ContainerStateTerminated) bool {
		return end != nil && end.Reason == v1alpha1.ReasonEvicted &&
			strings.HasPrefix(end.Message, "spec.volumes[0].emptyDir.sizeLimit: found 3") &&
			strings.HasSuffix(end.Message, " in the volume cache; allowed: 2Mi")
	}
	h.until("over is started again", func() bool {
		st := h.get("over").Status
		return st.RestartCount > 0 && st.State.Running != nil && evicted(st.LastState.Terminated)
	})
	h.until("it finds nothing", func() bool { return h.logs("over") == "found\n" })
	h.until("the job has failed", func() bool {
		st := h.get("job").Status
		return st.Phase == v1alpha1.ContainerFailed && evicted(st.State.Terminated)
	})
	if out := h.does("status"); !strings.Contains(out, "Evicted") {
		t.Errorf("status shows:\n%s", out)
	}
	if again := h.untilRunning("below"); again.Status.PID != below.Status.PID {
		t.Errorf("below: found pid %d; want %d", again.Status.PID, below.Status.PID)
	}
	h.removeAll("over.yaml", "below.yaml", "job.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}
