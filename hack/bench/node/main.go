// SPDX-License-Identifier: Apache-2.0

// Command node measures how fast a node starts containers, and what they cost in memory.
// hack/bench/node.sh runs it in a sandbox.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// engine starts containers of one image. Each of its processes is in the cgroup that its new
// function was given, or below.
type engine interface {
	// run starts n containers, and returns how long it took until all of their programs ran.
	run(n int) (time.Duration, error)
	// close removes all containers and ends the engine.
	close() error
}

// contestant is an engine as it takes part in the comparison.
type contestant struct {
	name  string
	begin func(cgroup) (engine, error)
	rates []float64 // containers a second, by round
	cpu   []cpuTime // of one container, by round
}

func main() {
	if err := bench(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench() error {
	dir := flag.String("dir", "",
		"`directory` with berth, berth-agent and image.tar, for everything that is made")
	group := flag.String("cgroup", "/berth-bench", "`cgroup` for everything that is run")
	counts := flag.String("n", "100,200", "`numbers` of containers that are started")
	memory := flag.String("memory", "200,1000",
		"`numbers` of running containers to measure the memory at; empty for none")
	rounds := flag.Int("rounds", 3, "`times` that each is measured; the median counts")
	bridge := flag.Bool("network", false,
		"connect each container to a bridge, by CNI, and print how long each stage of a start takes")
	only := flag.String("only", "",
		"measure only engines whose name matches this `expression`, such as berth or berth|ctr")
	flag.Parse()
	names, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	b := host{dir: *dir, bridge: *bridge}
	all := []*contestant{
		{name: "berth-agent", begin: b.berth},
		{name: "ctr run -d, runc, one at a time", begin: b.containerd(1)},
		{name: "ctr run -d, runc, 4 at a time", begin: b.containerd(4)},
		{name: "podman run -d, crun, one at a time", begin: b.podman(1)},
		{name: "podman run -d, crun, 4 at a time", begin: b.podman(4)},
	}
	if !b.bridge {
		all = append(all, &contestant{name: "the calls alone in C, 2 at a time", begin: b.floor(2)})
	}
	all = slices.DeleteFunc(all, func(c *contestant) bool { return !names.MatchString(c.name) })

	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	fmt.Printf("%s, Linux %s, %d cores, median of %d\n", time.Now().UTC().Format(time.DateOnly),
		unix.ByteSliceToString(uts.Release[:]), runtime.NumCPU(), *rounds)
	for _, word := range split(*counts) {
		n, err := strconv.Atoi(word)
		if err != nil {
			return fmt.Errorf("-n: %w", err)
		}
		if err := b.compare(all, n, *rounds, *group); err != nil {
			return err
		}
		if b.bridge {
			if err := b.measureStages(n, *group); err != nil {
				return err
			}
		}
	}
	var sizes []int
	for _, word := range split(*memory) {
		n, err := strconv.Atoi(word)
		if err != nil {
			return fmt.Errorf("-memory: %w", err)
		}
		sizes = append(sizes, n)
	}
	if len(sizes) == 0 {
		return nil
	}
	return b.measureMemory(sizes, *group)
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// compare starts n containers by each engine in turn.
func (h host) compare(all []*contestant, n, rounds int, parent string) error {
	for _, c := range all {
		c.rates, c.cpu = nil, nil
	}
	for round := range rounds {
		for i, c := range all {
			g, err := newCgroup(fmt.Sprintf("%s/%d-%d-%d", parent, n, round, i))
			if err != nil {
				return err
			}
			err = c.measure(n, g)
			if h.bridge {
				err = errors.Join(err, flushRules())
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	best := func(prefix string) *contestant {
		var out *contestant
		for _, c := range all {
			if strings.HasPrefix(c.name, prefix) && (out == nil || median(c.rates) > median(out.rates)) {
				out = c
			}
		}
		return out
	}
	ours := all[0]
	network := "no network"
	if h.bridge {
		network = "each on a bridge"
	}
	fmt.Printf("\n%d containers from a ready image, %s\n", n, network)
	fmt.Printf("  %-36s %10s %8s %14s %8s %8s\n", "", "berth does", "a second", "ms of CPU each",
		"user", "system")
	for _, c := range all {
		var total, user, system []float64
		for _, t := range c.cpu {
			total, user, system = append(total, ms(t.user+t.system)), append(user, ms(t.user)),
				append(system, ms(t.system))
		}
		fmt.Printf("  %-36s %9.1fx %8.1f %14.1f %8.1f %8.1f   rounds:", c.name,
			median(ours.rates)/median(c.rates), median(c.rates),
			median(total), median(user), median(system))
		for _, r := range c.rates {
			fmt.Printf(" %.0f", r)
		}
		fmt.Println()
	}
	if ctr := best("ctr"); ctr != nil && ctr != ours {
		var rounds []float64
		for i := range ours.rates {
			rounds = append(rounds, ours.rates[i]/ctr.rates[i])
		}
		fmt.Printf("  goal: 10 times the better of ctr; by rounds: %.1f\n", rounds)
	}
	return nil
}

func (c *contestant) measure(n int, g cgroup) (err error) {
	e, err := c.begin(g)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close(), leave()) }()
	// The kernel goes on for a while with what was removed before.
	time.Sleep(2 * time.Second)
	cpu := g.cpu
	if counts, ok := e.(interface{ cpu() (cpuTime, error) }); ok {
		cpu = counts.cpu
	}
	before, err := cpu()
	if err != nil {
		return err
	}
	took, err := e.run(n)
	if err != nil {
		return err
	}
	after, err := cpu()
	if err != nil {
		return err
	}
	c.rates = append(c.rates, float64(n)/took.Seconds())
	c.cpu = append(c.cpu, cpuTime{
		(after.user - before.user) / time.Duration(n),
		(after.system - before.system) / time.Duration(n),
	})
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}
