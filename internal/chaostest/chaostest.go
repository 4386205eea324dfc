// SPDX-License-Identifier: Apache-2.0

// Package chaostest serves the tests that kill parts of Berth below containers. It has the programs
// that the containers run, counts the losses, and knows when the agent may be killed next.
package chaostest

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

var seed = flag.Uint64("chaos.seed", 0, "the seed of TestChaos's random choices; 0 chooses one")

// Seed returns the seed of a test's random choices, and logs how to make the same choices again.
func Seed(t testing.TB) uint64 {
	t.Helper()
	chosen := *seed
	if chosen == 0 {
		chosen = rand.Uint64()
	}
	t.Logf("seed %d: to choose the same again, -chaos.seed %d", chosen, chosen)
	return chosen
}

// Program writes numbered lines, from 0, and ends with a known code.
type Program struct {
	// Slow lines are written one by one, Burst lines at once before the end. One more line follows,
	// which has no newline if there is a burst.
	Slow, Burst int
	Code        int
}

// NewProgram returns the i-th program of a run. A third of them have a burst.
func NewProgram(random *rand.Rand, i int) Program {
	p := Program{Slow: 5 + random.IntN(80), Code: 1 + random.IntN(120)}
	if i%3 == 0 {
		p.Burst = 1000
	}
	return p
}

// Script returns the program for /bin/sh. It notes its starts and its end in the file $NOTES.
func (p Program) Script() string {
	last := "echo"
	if p.Burst > 0 {
		last = "printf %s"
	}
	return fmt.Sprintf(
		"echo start >>$NOTES; i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); sleep 0.1; done; "+
			"while [ $i -lt %d ]; do echo $i; i=$((i+1)); done; cut -d' ' -f1 /proc/uptime >>$NOTES; %s $i; exit %d",
		p.Slow, p.Slow+p.Burst, last, p.Code)
}

// Spec returns the fields of the spec of a Container that runs the program once, indented for a
// manifest. The program keeps its notes in the file name of the directory notes.
func (p Program) Spec(archive, notes, name string) string {
	return fmt.Sprintf(`  archive: {path: %s}
  restartPolicy: Never
  command: [/bin/sh, -c, %q]
  env: [{name: NOTES, value: /notes/%s}]
  volumes: [{name: notes, hostPath: {path: %s}}]
  volumeMounts: [{name: notes, mountPath: /notes}]
`, archive, p.Script(), name, notes)
}

// Lines returns the number of lines that the program writes.
func (p Program) Lines() int { return p.Slow + p.Burst + 1 }

// Notes are the lines that a program has written about itself.
type Notes struct {
	Starts int
	// End is the time since the boot right before the end, 0 if the program has not come so far.
	End time.Duration
}

// ReadNotes reads the file that the program knew as $NOTES. A missing one says that it has never
// started.
func ReadNotes(path string) Notes {
	var n Notes
	data, _ := os.ReadFile(path)
	for _, line := range strings.Fields(string(data)) {
		if line == "start" {
			n.Starts++
			continue
		}
		seconds, _ := strconv.ParseFloat(line, 64)
		n.End = time.Duration(seconds * float64(time.Second))
	}
	return n
}

// Losses counts the losses of one program or more.
type Losses struct{ Containers, StartedTwice, Codes, Lines, Doubled, Disorder int }

// Add adds the losses of another.
func (l *Losses) Add(o Losses) {
	l.Containers += o.Containers
	l.StartedTwice += o.StartedTwice
	l.Codes += o.Codes
	l.Lines += o.Lines
	l.Doubled += o.Doubled
	l.Disorder += o.Disorder
}

func (l Losses) String() string {
	return fmt.Sprintf(
		"containers lost %d, started twice %d, exit codes lost %d, lines lost %d, doubled %d, out of order %d",
		l.Containers, l.StartedTwice, l.Codes, l.Lines, l.Doubled, l.Disorder)
}

// Compare compares a program's notes, log and exit code with those that it should have.
func (p Program) Compare(notes Notes, log string, code int) Losses {
	if notes.Starts == 0 {
		return Losses{Containers: 1}
	}
	var out Losses
	if notes.Starts > 1 {
		out.StartedTwice = 1
	}
	if code != p.Code {
		out.Codes = 1
	}
	seen, last := make([]int, p.Lines()), -1
	for line := range strings.Lines(log) {
		i, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
		if err != nil || i < 0 || i >= len(seen) {
			out.Disorder++
			continue
		}
		if i < last {
			out.Disorder++
		}
		seen[i], last = seen[i]+1, i
	}
	for _, times := range seen {
		switch {
		case times == 0:
			out.Lines++
		case times > 1:
			out.Doubled += times - 1
		}
	}
	return out
}

// HoldsAll returns an error unless the process agent holds a pidfd of each container that the
// supervisor runs. The exit code and output of a container that it does not hold yet are lost if
// the supervisor is killed.
func HoldsAll(ctx context.Context, supervisor *protocol.Client, agent int) error {
	all, err := supervisor.List(ctx)
	if err != nil {
		return err
	}
	running := 0
	for _, st := range all {
		if st.State == protocol.Running || st.State == protocol.Created {
			running++
		}
	}
	if held := Held(agent); held < running {
		return fmt.Errorf("the agent holds %d of %d processes", held, running)
	}
	return nil
}

// Held returns the number of pidfds that a process has open.
func Held(agent int) (n int) {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", agent))
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); strings.Contains(target, "pidfd") {
			n++
		}
	}
	return n
}
