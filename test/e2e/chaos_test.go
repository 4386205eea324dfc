// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	berthv1 "github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/chaostest"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// The short form is a part of `make test`; `make chaos` gives larger numbers.
var (
	chaosContainers = flag.Int("chaos.containers", 6, "how many containers TestChaos runs")
	chaosKills      = flag.Int("chaos.kills", 4, "how often it kills the agent or the supervisor")
	chaosRestarts   = flag.Int("chaos.restarts", 2, "how often it restarts the API server in between")
)

// TestChaos kills the agent and the supervisor at random moments, and restarts the API server,
// below containers that write numbered lines. Nothing may be lost.
func TestChaos(t *testing.T) {
	random := rand.New(rand.NewPCG(chaostest.Seed(t), 0))
	notes := t.TempDir()
	if err := os.Chmod(notes, 0o777); err != nil { //nolint:gosec // the containers write there
		t.Fatal(err)
	}
	programs := map[string]chaostest.Program{}
	var names []string
	for i := range *chaosContainers {
		name := fmt.Sprint("chaos", i)
		programs[name], names = chaostest.NewProgram(random, i), append(names, name)
	}
	cleanAfter(t, names...)
	kills := map[string]int{}
	applied := 0
	for n := range *chaosKills {
		var manifests strings.Builder
		for ; applied < len(names) && applied**chaosKills <= n*len(names); applied++ {
			manifests.WriteString(chaosManifest(names[applied], notes, programs[names[applied]]))
		}
		if manifests.Len() > 0 {
			apply(t, manifests.String())
		}
		agentHoldsAll(t)
		time.Sleep(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
		victims := []string{"berth-agent"}
		if random.IntN(2) == 0 {
			victims[0] = "supervisor"
		}
		// The other is killed while the API server is gone.
		if (n+1)**chaosRestarts / *chaosKills > n**chaosRestarts / *chaosKills {
			victims = append([]string{"kube-apiserver"}, victims...)
		}
		for i, victim := range victims {
			if i > 0 {
				time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
			}
			var pid int
			if victim == "supervisor" {
				pid = supervisorPID(t)
			} else {
				pid = pidOf(t, victim)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatalf("kill %s: %v", victim, err)
			}
			kills[victim]++
		}
		up(t)
	}
	var last strings.Builder
	for ; applied < len(names); applied++ {
		last.WriteString(chaosManifest(names[applied], notes, programs[names[applied]]))
	}
	if last.Len() > 0 {
		apply(t, last.String())
	}
	t.Logf("killed: %v", kills)

	var all berthv1.ContainerList
	eventually(t, 5*time.Minute, func() error {
		out, err := tryKube("get", "containers", "-o", "json")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		all = berthv1.ContainerList{}
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			return err
		}
		ended := 0
		for i := range all.Items {
			if all.Items[i].Status.State.Terminated != nil {
				ended++
			}
		}
		if ended < len(names) {
			return fmt.Errorf("%d of %d containers have ended", ended, len(names))
		}
		return nil
	})
	var found chaostest.Losses
	for i := range all.Items {
		c := &all.Items[i]
		program := programs[c.Name]
		got := program.Compare(chaostest.ReadNotes(filepath.Join(notes, c.Name)),
			logText(t, c.Status.LogPath),
			int(c.Status.State.Terminated.ExitCode))
		if got != (chaostest.Losses{}) {
			t.Logf("%s: %s; %+v, found %+v", c.Name, got, program, c.Status)
		}
		found.Add(got)
	}
	t.Logf("%d containers: %s", len(names), found)
	if found != (chaostest.Losses{}) {
		t.Error("something was lost")
	}
}

// chaosManifest returns the manifest of a container that runs a program.
func chaosManifest(name, notes string, program chaostest.Program) string {
	return fmt.Sprintf(`---
apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
%s`, name, program.Spec("/var/lib/berth/archives/hello.tar", notes, name))
}

// up starts the programs that do not run. hack/cluster/up.sh would build the command again first.
func up(t *testing.T) {
	t.Helper()
	cmd := exec.Command(filepath.Join(root, "bin/berth-cluster"), "up", "--dir", state, "--assets",
		filepath.Dir(kubectl))
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cluster up: %v\n%s", err, out)
	}
}

// supervisor returns a client of the supervisor of the cluster's agent.
func supervisor(t *testing.T) *protocol.Client {
	t.Helper()
	args := bytes.Split([]byte(read(t, fmt.Sprintf("/proc/%d/cmdline", pidOf(t, "berth-agent")))),
		[]byte{0})
	for i, arg := range args[:len(args)-1] {
		if string(arg) == "--run-dir" {
			return protocol.NewClient(filepath.Join(string(args[i+1]), "supervisor.sock"))
		}
	}
	t.Fatalf("berth-agent: no --run-dir in %q", args)
	return nil
}

func supervisorPID(t *testing.T) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pid, err := supervisor(t).Ping(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// agentHoldsAll waits until the agent holds the processes of all containers that run: one that is
// killed before would be gone at the same time as the supervisor that was killed last.
func agentHoldsAll(t *testing.T) {
	t.Helper()
	client := supervisor(t)
	eventually(t, 2*time.Minute, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return chaostest.HoldsAll(ctx, client, pidOf(t, "berth-agent"))
	})
}

// logText returns what a program has written, from a log in the format of CRI.
func logText(t *testing.T, path string) string {
	t.Helper()
	var text strings.Builder
	for line := range strings.Lines(read(t, path)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 {
			t.Errorf("%s: found the line %q", path, line)
			continue
		}
		text.WriteString(fields[3])
		if fields[2] == "F" {
			text.WriteString("\n")
		}
	}
	return text.String()
}
