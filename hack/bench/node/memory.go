// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-run/berth/internal/procfs"
)

// settled is the time for which agent and supervisor are left alone before their memory is
// measured. Go collects garbage every two minutes at the latest.
const settled = 150 * time.Second

// measureMemory prints the memory of agent and supervisor with each number of running containers,
// and after a restart of the agent.
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
	fmt.Printf(row, "", "KiB a container", "its own", "program", "its own", "program",
		"agent's peak, MiB")
	mib := func(kib int) string { return fmt.Sprintf("%.1f", float64(kib)/1024) }
	print := func(what string) error {
		time.Sleep(settled)
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		pid, err := a.client().Ping(ctx)
		if err != nil {
			return err
		}
		ours, err := procfs.ReadMemory(a.cmd.Process.Pid)
		if err != nil {
			return err
		}
		theirs, err := procfs.ReadMemory(pid)
		if err != nil {
			return err
		}
		each := float64(ours.PSS+theirs.PSS) / float64(a.count)
		fmt.Printf(row, what, fmt.Sprintf("%.1f", each), mib(ours.Own), mib(ours.Program),
			mib(theirs.Own), mib(theirs.Program), mib(ours.Peak))
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
