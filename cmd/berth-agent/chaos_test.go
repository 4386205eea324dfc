// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// The short form is a part of `make test`; `make chaos` gives larger numbers.
var (
	chaosContainers = flag.Int("chaos.containers", 24, "how many containers TestChaos runs")
	chaosKills      = flag.Int("chaos.kills", 14, "how often it kills the agent, the supervisor or both")
	chaosUpgrades   = flag.Int("chaos.upgrades", 2, "how often it upgrades the supervisor in between")
	chaosSeed       = flag.Uint64("chaos.seed", 0, "the seed of its random choices; 0 chooses one")
)

// chaos is one run of TestChaos.
type chaos struct {
	*host
	random     *rand.Rand
	containers []*chaosContainer
	// excused are the times, since the boot, in which both the agent and the supervisor were gone.
	excused []span
}

// span is a time between two readings of CLOCK_BOOTTIME. One that lasts has no end.
type span struct{ from, to time.Duration }

// chaosContainer writes numbered lines and ends with a known code.
type chaosContainer struct {
	name        string
	slow, burst int // lines that it writes one by one, and at once before its end
	code        int
	begins      float64 // the part of the run after which it is applied
}

func uptime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

// TestChaos kills the agent, the supervisor and both at random moments, and upgrades the supervisor, below containers that write
// numbered lines. Nothing may be lost, except what docs/architecture.md says of both killed at once.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: to choose the same again, -chaos.seed %d", seed, seed)
	c := &chaos{host: newHost(t), random: rand.New(rand.NewPCG(seed, 0))}
	if err := os.Mkdir(c.path("notes"), 0o777); err != nil {
		t.Fatal(err)
	}
	for i := range *chaosContainers {
		one := &chaosContainer{
			name: fmt.Sprint("chaos", i), slow: 5 + c.random.IntN(80), code: 1 + c.random.IntN(120),
			begins: 0.9 * float64(i) / float64(*chaosContainers),
		}
		if i%3 == 0 {
			one.burst = 1000
		}
		c.containers = append(c.containers, one)
	}
	c.start()
	c.ready()
	c.strike()
	c.ready()
	c.until("all containers have ended", func() bool {
		for _, one := range c.containers {
			got := c.get(one.name)
			if got == nil || got.Status.State.Terminated == nil {
				return false
			}
		}
		return true
	})
	c.judge()
	c.signal(unix.SIGTERM)
}

// manifest returns the container's. A third of them end without a newline.
func (c *chaos) manifest(one *chaosContainer) string {
	last := "echo"
	if one.burst > 0 {
		last = "printf %s"
	}
	script := fmt.Sprintf("echo start >>$NOTES; i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); sleep 0.1; done; "+
		"while [ $i -lt %d ]; do echo $i; i=$((i+1)); done; cut -d' ' -f1 /proc/uptime >>$NOTES; %s $i; exit %d",
		one.slow, one.slow+one.burst, last, one.code)
	return fmt.Sprintf(`  archive: {path: %s/busybox.tar}
  restartPolicy: Never
  command: [/bin/sh, -c, %q]
  env: [{name: NOTES, value: /notes/%s}]
  volumes: [{name: notes, hostPath: {path: %s}}]
  volumeMounts: [{name: notes, mountPath: /notes}]
`, programs, script, one.name, c.path("notes"))
}

// strike applies the containers one after the other, and kills and upgrades meanwhile.
func (c *chaos) strike() {
	c.t.Helper()
	const agent, supervisor, both = "agent", "supervisor", "both"
	next, done := 0, map[string]int{}
	agentBack, supervisorBack := true, true
	var last *span // the time in which both are gone, while it lasts
	upgrade := max(1, *chaosKills/max(1, *chaosUpgrades))
	for n := 0; n < *chaosKills; n++ {
		for ; next < len(c.containers) && c.containers[next].begins <= float64(n)/float64(*chaosKills); next++ {
			c.write(c.containers[next].name+".yaml", c.manifest(c.containers[next]))
		}
		kind := both
		switch p := c.random.Float64(); {
		case p < 0.45:
			kind = agent
		case p < 0.9:
			kind = supervisor
		}
		pause := time.Duration(c.random.Int64N(int64(1500 * time.Millisecond)))
		for end := time.Now().Add(pause); ; time.Sleep(5 * time.Millisecond) {
			if len(c.ended) > 0 {
				c.t.Fatalf("the agent ended by itself: %v", <-c.ended)
			}
			if !agentBack {
				agentBack = c.holdsAll()
			}
			if !supervisorBack {
				supervisorBack = c.supervisorPID() != 0
			}
			if last != nil && agentBack && supervisorBack {
				last.to = uptime()
				c.excused, last = append(c.excused, *last), nil
			}
			// One that is gone while the other is, too, would be both at once.
			possible := kind == both && agentBack && supervisorBack || kind == agent && supervisorBack || kind == supervisor && agentBack
			if time.Now().After(end) && possible {
				break
			}
		}
		if n%upgrade == upgrade-1 && done["upgrades"] < *chaosUpgrades {
			done["upgrades"]++
			// It may be killed by us meanwhile.
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				_ = exec.CommandContext(ctx, programs+"/berth", "supervise", "--upgrade", "--run-dir", c.path("r"), "--socket", c.path("r/supervisor.sock")).Run()
			}()
		}
		pid := 0
		if kind != agent {
			if pid = c.supervisorPID(); pid == 0 {
				n--
				continue
			}
		}
		done[kind]++
		if kind == both {
			last = &span{from: uptime()}
		}
		if kind != agent {
			supervisorBack = false
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if kind != supervisor {
			agentBack = false
			c.signal(unix.SIGKILL)
			c.start()
		}
	}
	for ; next < len(c.containers); next++ {
		c.write(c.containers[next].name+".yaml", c.manifest(c.containers[next]))
	}
	if last != nil {
		c.until("both are back", func() bool { return c.holdsAll() && c.supervisorPID() != 0 })
		c.excused = append(c.excused, span{last.from, uptime()})
	}
	c.t.Logf("killed: %d times the agent, %d the supervisor, %d both; %d upgrades", done[agent], done[supervisor], done[both], done["upgrades"])
}

// holdsAll reports whether the agent holds the descriptors of all containers that run.
func (h *host) holdsAll() bool {
	log, err := os.ReadFile(h.path("agent.log"))
	if err != nil || !strings.Contains(string(log[h.logged:]), "agent started") {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	all, err := protocol.NewClient(h.path("r/supervisor.sock")).List(ctx)
	if err != nil {
		return false
	}
	running := 0
	for _, st := range all {
		if st.State == protocol.Running || st.State == protocol.Created {
			running++
		}
	}
	return h.held() >= running
}

// held counts the processes that the agent holds.
func (h *host) held() (n int) {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.agent.Process.Pid))
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); strings.Contains(target, "pidfd") {
			n++
		}
	}
	return n
}

// judge counts what is lost, and what is left over once all is removed.
func (c *chaos) judge() {
	c.t.Helper()
	var found struct{ containers, startedTwice, codes, lines, doubled, disorder, excused int }
	for _, one := range c.containers {
		data, _ := os.ReadFile(filepath.Join(c.path("notes"), one.name))
		notes := strings.Fields(string(data))
		switch starts := strings.Count(string(data), "start"); {
		case starts == 0:
			found.containers++
			c.t.Logf("%s: never started: %+v", one.name, c.get(one.name).Status.State)
			continue
		case starts > 1:
			found.startedTwice++
		}
		lost, doubled, disorder := compareLines(c.logs(one.name), one.slow+one.burst+1)
		ended := c.get(one.name).Status.State.Terminated
		code := int(ended.ExitCode) != one.code
		if code || lost+doubled+disorder > 0 {
			c.t.Logf("%s: notes %q, %d lines wanted: %d lost, %d doubled, %d out of order; wanted exit code %d, found %+v",
				one.name, notes, one.slow+one.burst+1, lost, doubled, disorder, one.code, ended)
		}
		found.doubled += doubled
		found.disorder += disorder
		if lost == 0 && !code {
			continue
		}
		seconds, _ := strconv.ParseFloat(notes[len(notes)-1], 64)
		if c.excuses(time.Duration(seconds * float64(time.Second))) {
			found.excused++
			continue
		}
		found.lines += lost
		if code {
			found.codes++
		}
	}
	held := c.leftovers()
	files, _ := filepath.Glob(c.path("m/*.yaml"))
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	c.removeAll(files...)
	left := c.leftovers()
	c.t.Logf("of %d containers: lost %d, started twice %d, exit codes lost %d, lines lost %d, doubled %d, out of order %d, leftovers %+v, held after the end %+v; "+
		"ended while both were gone, and lost output or exit code: %d",
		len(c.containers), found.containers, found.startedTwice, found.codes, found.lines, found.doubled, found.disorder, left, held, found.excused)
	excused := found.excused
	found.excused = 0
	if found != (struct{ containers, startedTwice, codes, lines, doubled, disorder, excused int }{}) || left != (counts{}) || held != (counts{}) {
		c.t.Error("something was lost or left over")
	}
	if excused > len(c.containers)/4 {
		c.t.Errorf("found %d of %d containers that ended while both were gone: the run says too little", excused, len(c.containers))
	}
}

// excuses reports whether agent and supervisor were both gone when a program ended, or right after.
func (c *chaos) excuses(end time.Duration) bool {
	const slack = 500 * time.Millisecond
	for _, s := range c.excused {
		if end >= s.from-slack && end <= s.to+slack {
			return true
		}
	}
	return false
}

// compareLines compares a log with the numbers 0 to n-1.
func compareLines(log string, n int) (lost, doubled, disorder int) {
	seen, last := make([]int, n), -1
	for line := range strings.Lines(log) {
		i, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
		if err != nil || i < 0 || i >= n {
			disorder++
			continue
		}
		if i < last {
			disorder++
		}
		seen[i], last = seen[i]+1, i
	}
	for _, times := range seen {
		switch {
		case times == 0:
			lost++
		case times > 1:
			doubled += times - 1
		}
	}
	return lost, doubled, disorder
}
