// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// settled is how long agent and supervisor are left alone before their memory is measured. Go collects garbage every two minutes
// at the latest.
const settled = 150 * time.Second

// measureMemory prints the memory of agent and supervisor with each number of running containers, and after a restart of the agent.
func (h host) measureMemory(sizes []int, parent string) (err error) {
	g, err := newCgroup(parent + "/memory")
	if err != nil {
		return err
	}
	e, err := h.berth(g)
	if err != nil {
		return err
	}
	a := e.(*agent)
	defer func() { err = errors.Join(err, a.close()) }()
	fmt.Printf("\nmemory, PSS, %v after the last start (goal: 64 KiB a container at 1,000)\n", settled)
	const row = "  %-36s %15s %12s %12s %17s %17s %16s\n"
	fmt.Printf(row, "", "", "agent, MiB", "", "supervisor, MiB", "", "")
	fmt.Printf(row, "", "KiB a container", "its own", "program", "its own", "program", "agent's peak, MiB")
	mib := func(kib int) string { return fmt.Sprintf("%.1f", float64(kib)/1024) }
	print := func(what string) error {
		time.Sleep(settled)
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		pid, err := a.client().Ping(ctx)
		if err != nil {
			return err
		}
		ours, err := memoryOf(a.cmd.Process.Pid)
		if err != nil {
			return err
		}
		theirs, err := memoryOf(pid)
		if err != nil {
			return err
		}
		each := float64(ours.pss+theirs.pss) / float64(a.count)
		fmt.Printf(row, what, fmt.Sprintf("%.1f", each), mib(ours.own), mib(ours.program), mib(theirs.own), mib(theirs.program), mib(ours.peak))
		return nil
	}
	for _, n := range sizes {
		if _, err := a.run(n - a.count); err != nil {
			return err
		}
		if err := print(fmt.Sprintf("%d containers", n)); err != nil {
			return err
		}
		if err := a.restart(); err != nil {
			return err
		}
		if err := print(fmt.Sprintf("%d, after a restart of the agent", n)); err != nil {
			return err
		}
	}
	return nil
}

// memory is the memory of a process, in KiB.
type memory struct {
	pss     int
	own     int // of it, what the process has written: its heap, stacks and variables
	program int // of it, pages of its program and other files
	peak    int // the most that it had in memory
}

// memoryOf returns the memory of a process.
func memoryOf(pid int) (m memory, err error) {
	for _, from := range []struct {
		file, name string
		to         *int
	}{
		{"smaps_rollup", "Pss:", &m.pss}, {"smaps_rollup", "Pss_Anon:", &m.own}, {"smaps_rollup", "Pss_File:", &m.program},
		{"status", "VmHWM:", &m.peak},
	} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, from.file))
		if err != nil {
			return m, err
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if value, ok := strings.CutPrefix(s.Text(), from.name); ok {
				if _, err := fmt.Sscan(value, from.to); err != nil {
					return m, fmt.Errorf("%s: %w", f.Name(), err)
				}
			}
		}
	}
	return m, nil
}
