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
	fmt.Printf("  %-36s %15s %12s %16s %12s\n", "", "KiB a container", "agent, MiB", "supervisor, MiB", "peak, MiB")
	print := func(what string) error {
		time.Sleep(settled)
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		pid, err := a.client().Ping(ctx)
		if err != nil {
			return err
		}
		ours, peak, err := memoryOf(a.cmd.Process.Pid)
		if err != nil {
			return err
		}
		theirs, _, err := memoryOf(pid)
		if err != nil {
			return err
		}
		fmt.Printf("  %-36s %15.1f %12.1f %16.1f %12.1f\n", what, float64(ours+theirs)/float64(a.count), float64(ours)/1024, float64(theirs)/1024, float64(peak)/1024)
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

// memoryOf returns the PSS of a process, and the most that it had in memory, in KiB.
func memoryOf(pid int) (pss, peak int, err error) {
	for _, from := range []struct {
		file, name string
		to         *int
	}{{"smaps_rollup", "Pss:", &pss}, {"status", "VmHWM:", &peak}} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, from.file))
		if err != nil {
			return 0, 0, err
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if value, ok := strings.CutPrefix(s.Text(), from.name); ok {
				if _, err := fmt.Sscan(value, from.to); err != nil {
					return 0, 0, fmt.Errorf("%s: %w", f.Name(), err)
				}
			}
		}
	}
	return pss, peak, nil
}
