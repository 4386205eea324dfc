// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// archive writes an image of busybox and so many mebibytes that do not compress, and returns the
// lines of a spec of a container that has it.
func (h *host) archive(name string, mebibytes int) string {
	h.t.Helper()
	data := make([]byte, mebibytes<<20)
	_, _ = rand.Read(data)
	if err := os.WriteFile(h.path(name), data, 0o600); err != nil {
		h.t.Fatal(err)
	}
	out, err := exec.Command(programs+"/image", "--busybox", "--add", h.path(name)+":/data",
		"-o", h.path(name+".tar")).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v\n%s", err, out)
	}
	return "  archive: {path: " + h.path(name+".tar") + "}\n  command: [/bin/sleep, '3600']\n"
}

// imagesLeft returns the names of the archives whose images are on the node, as they were given.
func (h *host) imagesLeft() string {
	h.t.Helper()
	var names []string
	for _, name := range []string{"a", "b", "c"} {
		found, _ := filepath.Glob(h.path("s/images/refs/*.json"))
		for _, path := range found {
			if data, _ := os.ReadFile(path); strings.Contains(string(data), "/"+name+".tar") {
				names = append(names, name)
			}
		}
	}
	return strings.Join(names, " ")
}

// TestStandaloneImageGC fills the disk of images. The image of a container that was removed goes
// when another one finds no room, and what runs, or is pinned, keeps its image; so does one that is
// stopped.
func TestStandaloneImageGC(t *testing.T) {
	h := newHost(t)
	h.mount("s", "size=40m")
	h.flags = []string{"--image-gc-minimum-age", "0s"}
	h.start()
	h.write("a.yaml", h.archive("a", 10))
	h.write("b.yaml", h.archive("b", 10))
	a := h.untilRunning("a")
	h.untilRunning("b")
	h.does("stop", "b")
	c := h.archive("c", 18) + "  restartBackOff: {initialSeconds: 1, maxSeconds: 1}\n"
	h.write("c.yaml", c)
	h.untilPullFailed("c", "no space left on device")
	h.until("a warning", func() bool {
		log, _ := os.ReadFile(h.path("agent.log"))
		return strings.Contains(string(log), "msg=\"garbage collection of images found nothing to remove\"")
	})
	if got := h.imagesLeft(); got != "a b" {
		t.Errorf("found the images %q; want the images of the containers", got)
	}
	h.signal(unix.SIGKILL)
	h.start()
	h.remove("b.yaml")
	h.until("b is gone", func() bool {
		h.run("", "prune", "--no-wait") // a manifest that has just vanished may be a mistake
		return h.get("b") == nil
	})
	// Without waiting for the back-off.
	h.until("b's image is gone", func() bool {
		h.run("", "start", "--no-wait", "c")
		return !strings.Contains(h.imagesLeft(), "b")
	})
	h.run("", "start", "--no-wait", "c")
	h.untilRunning("c")
	if got := h.imagesLeft(); got != "a c" {
		t.Errorf("found the images %q; want a and c", got)
	}
	log, _ := os.ReadFile(h.path("agent.log"))
	if !strings.Contains(string(log), "msg=\"image removed\" image=archive:"+h.path("b.tar")) {
		t.Error("found no line about the removal in the log")
	}
	if now := h.untilRunning("a"); now.Status.PID != a.Status.PID {
		t.Errorf("a: found pid %d; want %d", now.Status.PID, a.Status.PID)
	}

	// By age: what is pinned stays.
	h.signal(unix.SIGTERM)
	h.flags = append(h.flags, "--image-gc-maximum-age", "1ms", "--image-gc-period", "100ms",
		"--pinned-image", "archive:"+h.path("c.tar"))
	h.start()
	h.removeAll("a.yaml", "c.yaml")
	h.until("a's image goes", func() bool { return h.imagesLeft() == "c" })
	h.unmount("s")
}
