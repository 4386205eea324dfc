// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/source"
)

type events struct {
	changed chan source.Key
	synced  chan struct{}
}

func (e events) Changed(k source.Key) { e.changed <- k }

func (e events) Synced() { close(e.synced) }

func TestRunFollowsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	f := newFolder(t, dir, t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	e := events{changed: make(chan source.Key, 10), synced: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, e) }()
	<-e.synced
	// As editors write: a file beside, then renamed.
	if err := os.WriteFile(filepath.Join(dir, ".tmp"), []byte(container("a", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, ".tmp"), filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	select {
	case k := <-e.changed:
		if k != key("a") {
			t.Errorf("found %v", k)
		}
	case <-time.After(2 * time.Minute):
		t.Error("never told of the new file")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAFifoDoesNotHoldUp(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "a.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, t.TempDir())
	f.scan()
	got := refused(t, f)
	if !strings.Contains(got, "a.yaml: found something other than a regular file") ||
		!strings.Contains(got, "b.yaml: ") {
		t.Errorf("found %q", got)
	}
}
