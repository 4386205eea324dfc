// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/registrytest"
	"github.com/berth-run/berth/node-agent/claim"
)

// images returns what "image ls" shows, a line for each image.
func (h *host) images() string {
	h.t.Helper()
	var list struct {
		Items []struct {
			Status struct {
				Names, UsedBy []string
				Pinned        bool
				Size          int64
				Digest        string
			}
		}
	}
	if err := json.Unmarshal([]byte(h.does("image", "ls", "-o", "json")), &list); err != nil {
		h.t.Fatal(err)
	}
	var lines []string
	for _, i := range list.Items {
		if i.Status.Size == 0 || !strings.HasPrefix(i.Status.Digest, "sha256:") {
			h.t.Errorf("found %+v", i)
		}
		lines = append(lines, fmt.Sprintf("%v %v %t", i.Status.Names, i.Status.UsedBy, i.Status.Pinned))
	}
	return strings.Join(lines, "|")
}

// TestImageCommands pulls from a private registry beside the agent and without it. What a container
// has, also one that is stopped, cannot be removed.
func TestImageCommands(t *testing.T) {
	t.Parallel()
	reg := registrytest.Start(t, registrytest.Options{Private: true})
	h := newHost(t)
	busybox := registrytest.ReadArchive(t, programs+"/busybox.tar")
	first, second := reg.Push(t, "team/app:1", busybox), reg.Push(t, "team/app:2", busybox)
	config := h.path("config.json")
	if err := os.WriteFile(config, registrytest.Config(registrytest.Password, reg.Host), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.ready()
	if out := h.does("image", "ls"); out != "no images\n" {
		t.Errorf("found %q; want no images", out)
	}
	h.fails("the registry refuses an anonymous pull", "image", "pull", first)
	pull := []string{"image", "pull", "--registry-config", config}
	out, errs, code := h.run("", append(pull, first)...)
	if code != 0 || !strings.HasPrefix(out, first+"@sha256:") || !strings.HasPrefix(errs, "layer 1 of 1: ") {
		t.Fatalf("pull: found %q, %q, exit code %d", out, errs, code)
	}
	h.write("app.yaml", "  image: "+first+"\n  imagePullPolicy: Never\n  command: [/bin/sleep, '3600']\n")
	h.untilRunning("app")
	if got, want := h.images(), "["+first+"] [app] false"; got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	if out := h.does("image", "ls"); !strings.HasPrefix(out, "NAME  ") || !strings.Contains(out, " MB   ") ||
		!strings.HasSuffix(out, "   app\n") {
		t.Errorf("found the table %q", out)
	}
	if out := h.does("image", "ls", "-o", "name"); out != first+"\n" {
		t.Errorf("found the names %q", out)
	}
	refusal := "found the image " + first + " in use by app; allowed: an image that no container has"
	h.fails(refusal, "image", "rm", first)
	if out := h.does("image", "prune", "--all", "--force"); out != "" {
		t.Errorf("prune of what is used: found %q", out)
	}
	h.does("stop", "app")
	h.fails(refusal, "image", "rm", first)
	h.signal(unix.SIGKILL)
	h.fails(refusal, "image", "rm", first)
	if out := h.does(append(pull, second)...); !strings.HasPrefix(out, second+"@sha256:") {
		t.Errorf("pull without an agent: found %q", out)
	}
	h.start()
	h.removeAll("app.yaml")

	// One of two names, then the image.
	if out := h.does("image", "rm", second); out != second+"\n" {
		t.Errorf("rm of a name: found %q", out)
	}
	h.does("image", "pin", first)
	if got, want := h.images(), "["+first+"] [] true"; got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	if out := h.does("image", "prune", "--all", "--force"); out != "" {
		t.Errorf("prune of what is pinned: found %q", out)
	}
	h.does("image", "unpin", first)
	h.fails("found no pin of", "image", "unpin", first)
	if out := h.does("image", "prune"); out != "" {
		t.Errorf("prune of images without names: found %q", out)
	}
	h.fails("found no confirmation", "image", "prune", "--all")
	out, errs, code = h.run("y\n", "image", "prune", "--all")
	if out != first+"\n" || code != 0 || !strings.Contains(errs, "These images are removed:\n  "+first) {
		t.Errorf("prune: found %q, %q, exit code %d", out, errs, code)
	}
	if layers, _ := filepath.Glob(h.path("s/images/layers/*/*")); len(layers) > 0 {
		t.Errorf("found the layers %v", layers)
	}
	h.fails("found no image "+first, "image", "rm", first)
}

// TestEveryImageRemovalStepKilled kills "image rm" at each of its steps. The image is on the node
// whole or not at all, and the next agent removes what is left.
func TestEveryImageRemovalStepKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start()
	h.ready()
	reference := "archive:" + programs + "/busybox.tar"
	steps, gone := 0, 0
	// Once the image is gone, all further steps remove files of its layer.
	for through := false; !through && gone < 5; steps++ {
		h.does("image", "pull", reference)
		through = h.killedAt(steps+1, "image", "rm", reference, "--state-dir", h.path("s")) == ""
		listed := h.images()
		if listed == "" {
			gone++
		}
		if through && listed != "" {
			t.Errorf("found %q after rm", listed)
		}
		if found, _ := filepath.Glob(h.path("s/images/layers/*/*/diff/bin/busybox")); listed != "" && len(found) != 1 {
			t.Fatalf("found %q listed, and the files %v, at step %d", listed, found, steps+1)
		}
	}
	if steps <= gone {
		t.Errorf("found %d steps before it was gone; want more", steps-gone)
	}
	t.Logf("killed at each of %d steps", steps-1)
	h.signal(unix.SIGKILL)
	h.start()
	h.until("nothing is left", func() bool {
		left, _ := filepath.Glob(h.path("s/images/layers/*/*"))
		return len(left) == 0
	})
	h.ready()
}

// TestImagePullReadsSettings: pull needs no agent, but if the settings of one cannot be read, it does
// not go on without that agent's credentials and mirrors.
func TestImagePullReadsSettings(t *testing.T) {
	state := t.TempDir()
	settings := filepath.Join(state, "agent.json")
	pull := func() error {
		c := command()
		c.SetOut(io.Discard)
		c.SetErr(io.Discard)
		// Port 1 refuses connections.
		c.SetArgs([]string{"image", "pull", "--state-dir", state, "127.0.0.1:1/none:1"})
		return c.ExecuteContext(t.Context())
	}
	const unreadable = "read what the agent runs with"
	if err := pull(); err == nil || strings.Contains(err.Error(), unreadable) ||
		errors.Is(err, claim.ErrNoSettings) {
		t.Errorf("without agent.json: found %v; want an error of the registry", err)
	}
	if err := os.Symlink(settings, settings); err != nil { // ELOOP
		t.Fatal(err)
	}
	if err := pull(); err == nil || !strings.Contains(err.Error(), unreadable) {
		t.Errorf("agent.json that cannot be read: found %v; want %q", err, unreadable)
	}
}
