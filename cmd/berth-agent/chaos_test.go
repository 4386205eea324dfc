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
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/chaostest"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// The short form is a part of `make test`; `make chaos` gives larger numbers.
var (
	chaosContainers = flag.Int("chaos.containers", 24, "how many containers TestChaos runs")
	chaosKills      = flag.Int("chaos.kills", 14,
		"how often it kills the agent, the supervisor or both")
	chaosUpgrades = flag.Int("chaos.upgrades", 2, "how often it upgrades the supervisor in between")
)

// chaos is one run of TestChaos.
type chaos struct {
	*host
	random *rand.Rand
	// how many containers run, and how often processes are killed and upgraded
	amount, kills, upgrades int
	containers              []*chaosContainer
	// excused are the times, since the boot, in which both the agent and the supervisor were gone.
	excused []span
}

// span is a time between two readings of CLOCK_BOOTTIME. One that lasts has no end.
type span struct{ from, to time.Duration }

type chaosContainer struct {
	chaostest.Program
	name   string
	begins float64 // the part of the run after which it is applied
}

func uptime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

// TestChaos kills the agent, the supervisor and both at random moments, and upgrades the
// supervisor, below containers that write numbered lines. Nothing may be lost, except what
// docs/architecture.md says of both killed at once. Half of all that happens below a service
// manager that keeps descriptors, where nothing at all may be lost.
func TestChaos(t *testing.T) {
	seed := chaostest.Seed(t)
	t.Run("alone", func(t *testing.T) {
		runChaos(t, seed, nil)
	})
	t.Run("service manager", func(t *testing.T) {
		runChaos(t, seed, newFakeManager(t))
	})
}

func runChaos(t *testing.T, seed uint64, manager *fakeManager) {
	c := &chaos{
		host: newHost(t), random: rand.New(rand.NewPCG(seed, 0)),
		amount: (*chaosContainers + 1) / 2, kills: (*chaosKills + 1) / 2, upgrades: (*chaosUpgrades +
			1) / 2,
	}
	c.manager = manager
	if err := os.Mkdir(c.path("notes"), 0o777); err != nil {
		t.Fatal(err)
	}
	for i := range c.amount {
		one := &chaosContainer{
			Program: chaostest.NewProgram(c.random, i), name: fmt.Sprint("chaos", i),
			begins: 0.9 * float64(i) / float64(c.amount),
		}
		c.containers = append(c.containers, one)
	}
	c.start()
	c.ready()
	c.strike()
	c.ready()
	c.within(10*time.Minute, "all containers have ended", func() bool {
		for _, one := range c.containers {
			got := c.get(one.name)
			if got == nil || got.Status.State.Terminated == nil {
				return false
			}
		}
		return true
	})
	c.judge()
	if manager != nil {
		c.until("no descriptor is stored", func() bool { return manager.count() == 0 })
	}
	c.signal(unix.SIGTERM)
}

func (c *chaos) manifest(one *chaosContainer) string {
	return one.Spec(programs+"/busybox.tar", c.path("notes"), one.name)
}

// strike applies the containers one after the other. Between them it kills the agent and the
// supervisor, and upgrades the supervisor.
func (c *chaos) strike() {
	c.t.Helper()
	const agent, supervisor, both = "agent", "supervisor", "both"
	next, done := 0, map[string]int{}
	agentBack, supervisorBack := true, true
	var last *span // the time in which both are gone, while it lasts
	upgrade := max(1, c.kills/max(1, c.upgrades))
	for n := 0; n < c.kills; n++ {
		for ; next < len(c.containers) &&
			c.containers[next].begins <= float64(n)/float64(c.kills); next++ {
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
			possible := kind == both && agentBack && supervisorBack || kind == agent && supervisorBack ||
				kind == supervisor && agentBack
			if time.Now().After(end) && possible {
				break
			}
			if time.Now().After(end.Add(hangs)) {
				c.t.Fatalf("after %v the agent is back: %t, the supervisor: %t", hangs, agentBack,
					supervisorBack)
			}
		}
		if n%upgrade == upgrade-1 && done["upgrades"] < c.upgrades {
			done["upgrades"]++
			// A kill may hit the supervisor during its upgrade, so that the result says nothing.
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				_ = exec.CommandContext(ctx, programs+"/berth", "supervise", "--upgrade", "--run-dir",
					c.path("r"), "--socket", c.path("r/supervisor.sock")).Run()
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
	c.t.Logf("killed: %d times the agent, %d the supervisor, %d both; %d upgrades", done[agent],
		done[supervisor], done[both], done["upgrades"])
}

// holdsAll reports whether the agent holds the descriptors of all containers that run.
func (h *host) holdsAll() bool {
	log, err := os.ReadFile(h.path("agent.log"))
	if err != nil || !strings.Contains(string(log[h.logged:]), "agent started") {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return chaostest.HoldsAll(ctx, protocol.NewClient(h.path("r/supervisor.sock")),
		h.agent.Process.Pid) == nil
}

// judge counts losses, and the leftovers after everything is removed.
func (c *chaos) judge() {
	c.t.Helper()
	var found chaostest.Losses
	excused := 0
	for _, one := range c.containers {
		notes := chaostest.ReadNotes(filepath.Join(c.path("notes"), one.name))
		ended := c.get(one.name).Status.State.Terminated
		got := one.Compare(notes, c.logs(one.name), int(ended.ExitCode))
		if got == (chaostest.Losses{}) {
			continue
		}
		c.t.Logf("%s: %s; %+v with %+v, found %+v", one.name, got, one.Program, notes, ended)
		if got.Codes+got.Lines > 0 && c.manager == nil && c.excuses(notes.End) {
			got.Codes, got.Lines = 0, 0
			excused++
		}
		found.Add(got)
	}
	held := c.leftovers()
	files, _ := filepath.Glob(c.path("m/*.yaml"))
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	c.removeAll(files...)
	left := c.leftovers()
	c.t.Logf("%d containers: %s, leftovers %+v, held after the end %+v; ended while both were gone, and lost output or exit code: %d",
		len(c.containers), found, left, held, excused)
	if found != (chaostest.Losses{}) || left != (counts{}) || held != (counts{}) {
		c.t.Error("something was lost or left over")
	}
	if excused > len(c.containers)/4 {
		c.t.Errorf("found %d of %d containers that ended while both were gone: the run says too little",
			excused, len(c.containers))
	}
}

// excuses reports whether agent and supervisor were both gone when a program ended, or right after.
func (c *chaos) excuses(end time.Duration) bool {
	const slack = 2 * time.Second // for a program that waits for a processor
	for _, s := range c.excused {
		if end >= s.from-slack && end <= s.to+slack {
			return true
		}
	}
	return false
}
