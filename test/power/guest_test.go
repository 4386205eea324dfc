// SPDX-License-Identifier: Apache-2.0

package power

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// told is a container's last status, written where a loss of power does not reach it.
type told struct {
	Name     string
	UID      string
	Restarts int32
	Exit     *int32
}

const (
	state = "/mnt/state"
	// jobsAtOnce is the number of jobs that run concurrently.
	jobsAtOnce = 4
)

// guest is the half of the test in the virtual machine. /host is the directory of the other half.
type guest struct {
	*testing.T
	round int
	said  map[string]told
	seen  *os.File
}

func (g *guest) fault(format string, args ...any) {
	g.Helper()
	g.Errorf(format, args...)
	f, err := os.OpenFile("/host/faults", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		g.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintf(f, format+"\n", args...)
}

// TestGuest is not a test of its own: TestPowerLoss runs it in the machine whose power it cuts.
func TestGuest(t *testing.T) {
	if os.Getenv("BERTH_POWER_GUEST") == "" {
		t.Skip("TestPowerLoss runs it in a virtual machine")
	}
	round, err := strconv.Atoi(os.Getenv("ROUND"))
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{T: t, round: round, said: map[string]told{}}
	// ext4 commits every 5 s by default, and would keep much that nobody has flushed.
	if err := errors.Join(os.MkdirAll("/mnt", 0o700), unix.Mount("/dev/vda", "/mnt", "ext4", 0,
		"commit=300")); err != nil {
		t.Fatal(err)
	}
	if g.seen, err = os.OpenFile("/host/seen", os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(g.seen); lines.Scan(); {
		var s told
		if json.Unmarshal(lines.Bytes(), &s) == nil { // the last one may have been cut off
			g.said[s.Name] = s
		}
	}
	began := time.Now()
	g.start()
	// The files of status are those of another boot until the agent has seen them.
	g.until("the agent is ready", func() bool {
		at, err := folder.Refreshed(state)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("unix", "/run/berth/supervisor.sock")
		if err == nil {
			conn.Close()
		}
		return err == nil && !at.Before(began)
	})
	g.verifyImages()
	if round == 0 {
		for i := range 3 {
			g.write(fmt.Sprintf("loop-%d", i), 0, "Always", "echo x; exit 0")
		}
	}
	if err := os.WriteFile(fmt.Sprintf("/host/ready-%d", round), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("LAST") == "true" {
		g.finish()
		return
	}
	for job := 0; ; {
		// From the manifests: a slow agent has not read them all.
		manifests, err := filepath.Glob("/host/m/job-*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		open := len(manifests)
		for _, c := range g.look() {
			if strings.HasPrefix(c.Name, "job-") && c.Status.State.Terminated != nil {
				open--
			}
		}
		if open < jobsAtOnce {
			// The first jobs of a round come with an image that is not on the node.
			archive := round*imagesARound + min(job, imagesARound-1)
			g.write(fmt.Sprintf("job-%d-%d", round, job), archive, "Never",
				fmt.Sprintf("echo round %d >> /marks/job-%d-%d; exit %d", round, round, job, code(job)))
			job++
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func code(job int) int { return 1 + job%100 }

func (g *guest) start() {
	g.Helper()
	log, err := os.OpenFile("/host/agent.log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		g.Fatal(err)
	}
	defer log.Close()
	agent := exec.Command("/host/berth-agent", "--manifests", "/host/m", "--state-dir", state,
		"--run-dir", "/run/berth", "--log-dir", "/mnt/log",
		"--node-name", "guest", "--log-format", "text", "--cni-bin-dir=")
	agent.Stderr = log
	if err := agent.Start(); err != nil {
		g.Fatal(err)
	}
	go func() {
		// started again, as systemd would: on a slow machine the supervisor may not have answered in time
		if agent.Wait() != nil {
			g.start()
		}
	}()
}

func (g *guest) write(name string, archive int, policy corev1.RestartPolicy, script string) {
	g.Helper()
	text := fmt.Sprintf(`apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: %s}
spec:
  archive: {path: /host/archives/%d.tar}
  command: [/bin/sh, -c, %q]
  restartPolicy: %s
  volumes: [{name: marks, hostPath: {path: /host/marks}}]
  volumeMounts: [{name: marks, mountPath: /marks}]
`, name, archive, script, policy)
	temporary := "/host/m/." + name
	err := errors.Join(os.WriteFile(temporary, []byte(text), 0o600), os.Rename(temporary, "/host/m/"+
		name+".yaml"))
	if err != nil {
		g.Fatal(err)
	}
}

// until waits for a state. The other half of the test ends the guest if that never comes: on a busy
// machine without KVM the clock of a guest runs fast.
func (g *guest) until(what string, ok func() bool) {
	g.Helper()
	g.Logf("round %d: waiting until %s", g.round, what)
	for !ok() {
		time.Sleep(20 * time.Millisecond)
	}
}

// look reads what the agent says of all containers, and asserts that it takes nothing back.
func (g *guest) look() []v1alpha1.Container {
	g.Helper()
	all, err := folder.Read(state)
	if err != nil {
		g.fault("round %d: %v", g.round, err)
	}
	for _, c := range all {
		if c.Status.ObservedGeneration != c.Generation {
			continue // the agent has not looked at it yet
		}
		now := told{Name: c.Name, UID: string(c.UID), Restarts: c.Status.RestartCount}
		if end := c.Status.State.Terminated; end != nil && strings.HasPrefix(c.Name, "job-") {
			now.Exit = &end.ExitCode
		}
		before, known := g.said[c.Name]
		switch {
		case known && before.UID != now.UID:
			g.fault("round %d: %s has another UID than was told", g.round, c.Name)
		case known && now.Restarts < before.Restarts:
			g.fault("round %d: %s has been restarted %d times; %d were told", g.round, c.Name, now.Restarts,
				before.Restarts)
		case known && before.Exit != nil && now.Exit != nil && *before.Exit != *now.Exit:
			g.fault("round %d: %s has ended with %d; %d was told", g.round, c.Name, *now.Exit, *before.Exit)
		}
		if known && before.Restarts == now.Restarts && (before.Exit != nil || now.Exit == nil) {
			continue
		}
		g.said[c.Name] = now
		line, err := json.Marshal(now)
		if err != nil {
			g.Fatal(err)
		}
		if _, err := g.seen.Write(append(line, '\n')); err != nil {
			g.Fatal(err)
		}
	}
	return all
}

// verifyImages asserts that each layer of an image that the store calls ready is whole.
func (g *guest) verifyImages() {
	g.Helper()
	var want contents
	b, err := os.ReadFile("/host/contents.json")
	if err == nil {
		err = json.Unmarshal(b, &want)
	}
	if err != nil {
		g.Fatal(err)
	}
	records, err := filepath.Glob(state + "/images/images/*/*.json")
	if err != nil {
		g.Fatal(err)
	}
	for _, path := range records {
		var rec struct{ Layers []string }
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &rec)
		}
		if err != nil {
			g.fault("round %d: the record of an image: %v", g.round, err)
			continue
		}
		for _, l := range rec.Layers {
			for name, sum := range want[filepath.Base(filepath.Dir(l))] {
				data, err := os.ReadFile(filepath.Join(state, "images", l, name))
				if got := sha256.Sum256(data); err != nil || hex.EncodeToString(got[:]) != sum {
					g.fault("round %d: the layer %s is broken: %s (%v)", g.round, l, name, err)
				}
			}
		}
	}
	g.Logf("round %d: %d images on the disk", g.round, len(records))
}

// finish waits until every job has ended, and asserts how.
func (g *guest) finish() {
	manifests, err := filepath.Glob("/host/m/job-*.yaml")
	if err != nil {
		g.Fatal(err)
	}
	var jobs map[string]int32
	g.until("every job has ended", func() bool {
		jobs = map[string]int32{}
		for _, c := range g.look() {
			if end := c.Status.State.Terminated; end != nil && strings.HasPrefix(c.Name, "job-") {
				jobs[c.Name] = end.ExitCode
			}
		}
		return len(jobs) == len(manifests)
	})
	lost := 0
	for name, exit := range jobs {
		job, _ := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
		_, err := os.Stat("/host/marks/" + name)
		switch {
		case exit == 137:
			lost++
		case int(exit) != code(job):
			g.fault("%s has ended with %d; want %d", name, exit, code(job))
		case errors.Is(err, fs.ErrNotExist):
			g.fault("%s has ended with %d and never ran", name, exit)
		}
	}
	g.verifyImages()
	if err := os.WriteFile("/host/summary", fmt.Appendf(nil, "of %d jobs, the end of %d is not known",
		len(jobs), lost), 0o600); err != nil {
		g.Fatal(err)
	}
}
