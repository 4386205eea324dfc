// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// A container is stopped and removed while the run directory is full, in bytes or in inodes, and an
// exit that could not be written then is on disk once there is room.
func TestFullRunDir(t *testing.T) {
	needs.Root(t)
	for name, options := range map[string]string{"bytes": "size=16m", "inodes": "nr_inodes=150"} {
		t.Run(name, func(t *testing.T) {
			eachHandler(t, func(t *testing.T, h string) {
				dir, err := os.MkdirTemp("", "bf")
				if err != nil {
					t.Fatal(err)
				}
				if err := unix.Mount("berth-test", dir, "tmpfs", 0, options); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					_ = unix.Unmount(dir, unix.MNT_DETACH)
					os.RemoveAll(dir)
				})
				t.Setenv("TMPDIR", dir)
				n := newNode(t)
				for id, script := range map[string]string{
					"polite": "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done",
					"deaf":   "trap '' TERM; echo up; while :; do sleep 0.1; done",
				} {
					n.run(h, id, script)
					n.eventually(id+" is up", func() error {
						if len(n.lines(id, "stdout")) == 0 {
							return errors.New("no output")
						}
						return nil
					})
				}
				empty := fill(t, n.dir)
				defer empty()
				if err := n.client.Kill(n.ctx(), "deaf", "KILL", true); err != nil {
					t.Error(err)
				}
				if st := n.stopped("deaf"); st.ExitCode == nil || *st.ExitCode != 137 {
					t.Errorf("deaf: %+v", st)
				}
				if err := n.client.Kill(n.ctx(), "polite", "TERM", false); err != nil {
					t.Error(err)
				}
				if st := n.stopped("polite"); st.ExitCode == nil || *st.ExitCode != 7 {
					t.Errorf("polite: %+v", st)
				}
				if err := n.client.Delete(n.ctx(), "deaf", false); err != nil {
					t.Error(err)
				}
				empty()
				n.eventually("the exit is on disk", func() error {
					b, err := os.ReadFile(filepath.Join(n.dir, "supervisor/polite.json"))
					if err == nil && !strings.Contains(string(b), `"exitCode":7`) {
						err = fmt.Errorf("found %s", b)
					}
					return err
				})
				n.end(unix.SIGKILL)
				n.start()
				if st := n.stopped("polite"); st.ExitCode == nil || *st.ExitCode != 7 {
					t.Errorf("polite, of the next supervisor: %+v", st)
				}
			})
		})
	}
}

// fill fills the filesystem of the directory until the returned function is called.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	full := filepath.Join(dir, "full")
	if err := os.Mkdir(full, 0o700); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, size := range []int{64 << 10, 4 << 10, 1} {
		var err error
		for ; err == nil; n++ {
			err = os.WriteFile(filepath.Join(full, fmt.Sprint(n)), make([]byte, size), 0o600)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() { os.RemoveAll(full) }
}
