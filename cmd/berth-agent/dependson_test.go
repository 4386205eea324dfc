// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// untilDependencyNotReady returns once a container waits for another one, with a message that has
// the text.
func (h *host) untilDependencyNotReady(name, text string) {
	h.t.Helper()
	h.until(name+" waits: "+text, func() bool {
		c := h.get(name)
		if c == nil || c.Status.PrintableStatus != v1alpha1.ReasonDependencyNotReady {
			return false
		}
		running := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionRunning)
		return running != nil && strings.Contains(running.Message, text)
	})
}

// A container starts when those that it depends on are in their states, also if the agent is killed
// while it waits. What it waits for is said. A circle starts nobody.
func TestStandaloneDependsOn(t *testing.T) {
	h := newHost(t)
	h.start()
	job := func(script string) string {
		return "  archive: {path: " + programs + "/busybox.tar}\n  restartPolicy: Never\n" +
			"  command: [/bin/sh, -c, '" + script + "']\n" +
			"  volumes: [{name: notes, hostPath: {path: " + h.path("") + "}}]\n  volumeMounts: [{name: notes, mountPath: /n}]\n"
	}
	h.write("app.yaml", pinging()+"  dependsOn: [{name: job, condition: Completed}, {name: db, condition: Started}]\n")
	h.untilDependencyNotReady("app", "dependsOn[0]: found job, and no Container of that name")
	h.write("job.yaml", job("exit 1"))
	h.untilDependencyNotReady("app", "dependsOn[0]: found job, which has failed")
	h.write("job.yaml", job("while [ ! -e /n/go ]; do sleep 0.02; done; echo done"))
	h.untilDependencyNotReady("app", "dependsOn[0]: found job, which is not Completed")
	h.signal(unix.SIGKILL)
	if err := os.WriteFile(h.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.untilDependencyNotReady("app", "dependsOn[1]: found db, and no Container of that name")
	h.write("db.yaml", pinging()+"  dependsOn: [{name: app, condition: Started}]\n")
	h.untilDependencyNotReady("app", "found db, which needs this Container itself (app needs db needs app)")
	h.untilDependencyNotReady("db", "found app, which needs this Container itself (db needs app needs db)")
	h.write("db.yaml", pinging())
	app := h.untilRunning("app")
	db := h.get("db")
	if db.Status.State.Running == nil ||
		app.Status.State.Running.StartedAt.Before(&db.Status.State.Running.StartedAt) {
		t.Errorf("found db %+v, app %+v; want app after db", db.Status.State, app.Status.State)
	}
	// An edit of dependencies restarts nothing.
	h.write("app.yaml", pinging()+"  dependsOn: [{name: nobody, condition: Started}]\n")
	h.assertSameRun("app", h.untilSeen("app", app.Generation+1))
	if c := h.get("app"); c.Status.PID != app.Status.PID {
		t.Errorf("found pid %d after an edit of dependsOn; want %d", c.Status.PID, app.Status.PID)
	}
	h.removeAll("app.yaml", "db.yaml", "job.yaml")
	h.signal(unix.SIGTERM)
}

// The client of the sample finds what the job has written, though it is first in the file.
func TestStandaloneSampleDependsOn(t *testing.T) {
	h := newHost(t)
	h.start()
	h.raw("dependson.yaml", sample(t, "standalone/dependson.yaml"))
	h.untilSucceeded("client")
	// It asks until the server listens.
	if out := h.logs("client"); !strings.HasSuffix(out, "built\n") {
		t.Errorf("found the log %q; want built", out)
	}
	if c := h.get("site"); c.Status.RestartCount != 0 {
		t.Errorf("found %d restarts of site; want none, as it starts after build", c.Status.RestartCount)
	}
	h.removeAll("dependson.yaml")
	h.signal(unix.SIGTERM)
}
