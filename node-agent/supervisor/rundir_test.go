// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// TestRunDirRemoved removes the supervisor's files in its run directory while containers run. The
// supervisor creates them again, no other can start, and nothing of the containers is lost, also if
// the supervisor is killed afterwards.
func TestRunDirRemoved(t *testing.T) {
	for name, files := range map[string][]string{
		"socket":     {"supervisor.sock"},
		"records":    {"supervisor"},
		"everything": {"supervisor.sock", "supervisor", "native", "handlers"},
	} {
		t.Run(name, func(t *testing.T) {
			eachHandler(t, func(t *testing.T, h string) {
				subreaper(t)
				n := newNode(t)
				n.holds()
				pid := n.cmd.Process.Pid
				script := `i=0; while [ ! -e /tmp/%s ]; do echo line $i; i=$((i+1)); sleep 0.005; done; echo -n end; exit 7`
				for _, id := range []string{"early", "late"} {
					n.run(h, id, fmt.Sprintf(script, id))
				}
				n.run(h, "told", "trap 'exit 5' TERM; echo -n ready; while :; do sleep 0.02; done")
				n.run(h, "rest", "sleep 1000")
				n.held(4)
				n.eventually("both write", func() error {
					if len(n.lines("early", "stdout")) < 3 || len(n.lines("late", "stdout")) < 3 {
						return errors.New("not yet")
					}
					return nil
				})
				for _, f := range files {
					if err := os.RemoveAll(filepath.Join(n.dir, f)); err != nil {
						t.Fatal(err)
					}
				}
				// Nobody else can take the place of the supervisor, before it has noticed and
				// afterwards.
				second := exec.Command("/proc/self/exe", n.dir)
				second.Env = append(os.Environ(), roleVariable+"=supervise")
				out, err := second.CombinedOutput()
				if err == nil || !strings.Contains(string(out), "another supervisor") {
					t.Fatalf("a second supervisor: %v: %s", err, out)
				}
				n.eventually("the supervisor answers again", func() error {
					got, err := n.client.Ping(n.ctx())
					if err == nil && got != pid {
						err = fmt.Errorf("process %d", got)
					}
					return err
				})
				n.eventually("its records are there", func() error {
					recs, _, err := records{filepath.Join(n.dir, "supervisor")}.load()
					if err == nil && len(recs) != 4 {
						err = fmt.Errorf("found %d", len(recs))
					}
					return err
				})
				n.eventually("the descriptors are held", func() error {
					if n.holder.Len() != 4 {
						return errors.New("not yet")
					}
					return nil
				})

				end := func(id string) {
					t.Helper()
					if err := os.WriteFile(filepath.Join(n.rootfs, "tmp", id), nil, 0o600); err != nil {
						t.Fatal(err)
					}
					st := n.stopped(id)
					if st.ExitCode == nil || *st.ExitCode != 7 {
						t.Errorf("%s: found %+v; want exit code 7", id, st)
					}
					if err := n.client.Delete(n.ctx(), id, false); err != nil {
						t.Error(err)
					}
					lines := n.lines(id, "stdout")
					for i, l := range lines {
						if l != fmt.Sprintf("line %d", i) && (i < len(lines)-1 || l != "end") {
							t.Fatalf("%s: line %d is %q", id, i, l)
						}
					}
				}
				end("early")
				if err := n.client.Kill(n.ctx(), "told", "TERM", false); err != nil {
					t.Error(err)
				}
				if st := n.stopped("told"); st.ExitCode == nil || *st.ExitCode != 5 {
					t.Errorf("told to end: found %+v; want exit code 5", st)
				}
				if err := n.client.Delete(n.ctx(), "told", false); err != nil {
					t.Error(err)
				}
				if got := n.lines("told", "stdout"); len(got) != 1 || got[0] != "ready" {
					t.Errorf("told to end: the log has %q", got)
				}

				n.run(h, "new", "exit 3")
				if st := n.stopped("new"); st.ExitCode == nil || *st.ExitCode != 3 {
					t.Errorf("a new container: found %+v; want exit code 3", st)
				}
				n.end(unix.SIGKILL)
				n.start()
				if kernelTellsExits(t) {
					end("late")
				}
				if err := n.client.Delete(n.ctx(), "rest", true); err != nil {
					t.Error(err)
				}
				if _, err := n.client.Get(n.ctx(), "rest"); !errors.Is(err, protocol.ErrNotExist) {
					t.Errorf("deleted: found %v", err)
				}
			})
		})
	}
}

// TestEndWithoutRunDir ends a supervisor, or has it become another program, right after its files
// were removed: the next one knows its containers.
func TestEndWithoutRunDir(t *testing.T) {
	n := newNode(t)
	st := n.run("berth", "web", "sleep 1000")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, next := range map[string]func(){
		"SIGTERM": func() {
			n.end(unix.SIGTERM)
			n.start()
		},
		// It is refused while there are no records.
		"upgrade": func() {
			n.eventually("the upgrade is done", func() error { return n.upgrade(self) })
		},
	} {
		if err := os.RemoveAll(filepath.Join(n.dir, "supervisor")); err != nil {
			t.Fatal(err)
		}
		next()
		got, err := n.client.Get(n.ctx(), "web")
		if err != nil || got.State != protocol.Running || got.PID != st.PID {
			t.Errorf("%s: found %+v, %v; want process %d to run", name, got, err, st.PID)
		}
	}
}
