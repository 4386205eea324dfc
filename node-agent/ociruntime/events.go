// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/resctrl"
)

// Event is a line of `events`: Type is stats, with Data, or oom. The shapes are runc's, which
// clients read.
type Event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data *Stats `json:"data,omitempty"`
}

// Stats holds the use of a container. Times are in nanoseconds and sizes in bytes.
type Stats struct {
	CPU               CPUStats                `json:"cpu"`
	CPUSet            cgroups.CPUSetStats     `json:"cpuset"`
	Memory            MemoryStats             `json:"memory"`
	Pids              cgroups.PidsStats       `json:"pids"`
	Blkio             BlkioStats              `json:"blkio"`
	Hugetlb           map[string]HugetlbStats `json:"hugetlb"`
	IntelRdt          resctrl.Stats           `json:"intel_rdt"`
	NetworkInterfaces []NetworkInterface      `json:"network_interfaces"`
}

// CPUStats is time on processors, and of waiting for them.
type CPUStats struct {
	Usage      CPUUsage          `json:"usage,omitzero"`
	Throttling Throttling        `json:"throttling,omitzero"`
	PSI        *cgroups.PSIStats `json:"psi,omitempty"`
}

// CPUUsage is the time on all processors, and on each where the kernel counts that.
type CPUUsage struct {
	Total        uint64   `json:"total,omitempty"`
	Percpu       []uint64 `json:"percpu,omitempty"`
	PercpuKernel []uint64 `json:"percpu_kernel,omitempty"`
	PercpuUser   []uint64 `json:"percpu_user,omitempty"`
	Kernel       uint64   `json:"kernel"`
	User         uint64   `json:"user"`
}

// Throttling counts how often and how long the quota has stopped the container.
type Throttling struct {
	Periods          uint64 `json:"periods,omitempty"`
	ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
	ThrottledTime    uint64 `json:"throttledTime,omitempty"`
}

// MemoryStats has memory by kind; Raw is the kernel's memory.stat.
type MemoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryEntry       `json:"usage,omitzero"`
	Swap      MemoryEntry       `json:"swap,omitzero"`
	Kernel    MemoryEntry       `json:"kernel,omitzero"`
	KernelTCP MemoryEntry       `json:"kernelTCP,omitzero"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
	PSI       *cgroups.PSIStats `json:"psi,omitempty"`
}

// MemoryEntry is one kind of memory.
type MemoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// BlkioStats is the work of block devices.
type BlkioStats struct {
	IoServiceBytesRecursive []cgroups.BlkioStatEntry `json:"ioServiceBytesRecursive,omitempty"`
	IoServicedRecursive     []cgroups.BlkioStatEntry `json:"ioServicedRecursive,omitempty"`
	IoQueuedRecursive       []cgroups.BlkioStatEntry `json:"ioQueueRecursive,omitempty"`
	IoServiceTimeRecursive  []cgroups.BlkioStatEntry `json:"ioServiceTimeRecursive,omitempty"`
	IoWaitTimeRecursive     []cgroups.BlkioStatEntry `json:"ioWaitTimeRecursive,omitempty"`
	IoMergedRecursive       []cgroups.BlkioStatEntry `json:"ioMergedRecursive,omitempty"`
	IoTimeRecursive         []cgroups.BlkioStatEntry `json:"ioTimeRecursive,omitempty"`
	SectorsRecursive        []cgroups.BlkioStatEntry `json:"sectorsRecursive,omitempty"`
	PSI                     *cgroups.PSIStats        `json:"psi,omitempty"`
}

// HugetlbStats is the use of huge pages of one size.
type HugetlbStats struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// NetworkInterface is the traffic of one interface in the container's network namespace.
type NetworkInterface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Stats reads the resource usage of a container. It fails for a stopped one.
func (r *Runtime) Stats(_ context.Context, id string) (*Stats, error) {
	rec, err := r.running(id)
	if err != nil {
		return nil, err
	}
	return r.stats(rec)
}

func (r *Runtime) running(id string) (*record, error) {
	rec, err := r.load(id)
	if err != nil {
		return nil, err
	}
	if s := r.status(rec); s == specs.StateStopped || s == specs.StateCreating {
		return nil, fmt.Errorf("container with id %s is not running", id)
	}
	return rec, nil
}

func (r *Runtime) stats(rec *record) (*Stats, error) {
	g, err := rec.cgroup()
	if err != nil {
		return nil, err
	}
	from, err := g.Stats()
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", rec.ID, err)
	}
	c, m, b := from.CpuStats, from.MemoryStats, from.BlkioStats
	s := &Stats{
		CPU: CPUStats{
			Usage: CPUUsage{
				Total: c.CpuUsage.TotalUsage, Percpu: c.CpuUsage.PercpuUsage,
				PercpuKernel: c.CpuUsage.PercpuUsageInKernelmode,
				PercpuUser:   c.CpuUsage.PercpuUsageInUsermode, Kernel: c.CpuUsage.UsageInKernelmode,
				User: c.CpuUsage.UsageInUsermode,
			},
			Throttling: Throttling(c.ThrottlingData), PSI: c.PSI,
		},
		CPUSet: from.CPUSetStats, Pids: from.PidsStats,
		Memory: MemoryStats{
			Cache: m.Cache, Usage: memoryEntry(m.Usage), Swap: memoryEntry(m.SwapUsage),
			Kernel:    memoryEntry(m.KernelUsage),
			KernelTCP: memoryEntry(m.KernelTCPUsage), Raw: m.Stats, PSI: m.PSI,
		},
		Blkio: BlkioStats{
			b.IoServiceBytesRecursive, b.IoServicedRecursive, b.IoQueuedRecursive, b.IoServiceTimeRecursive,
			b.IoWaitTimeRecursive, b.IoMergedRecursive, b.IoTimeRecursive, b.SectorsRecursive, b.PSI,
		},
		Hugetlb: map[string]HugetlbStats{},
	}
	for size, h := range from.HugetlbStats {
		s.Hugetlb[size] = HugetlbStats{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt}
	}
	rdt, err := r.IntelRdtStats(rec.ID)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", rec.ID, err)
	}
	if rdt != nil {
		s.IntelRdt = *rdt
	}
	s.NetworkInterfaces = interfaces(rec.PID)
	return s, nil
}

func memoryEntry(d cgroups.MemoryData) MemoryEntry {
	return MemoryEntry{Limit: d.Limit, Usage: d.Usage, Max: d.MaxUsage, Failcnt: d.Failcnt}
}

// interfaces returns the interfaces of a process's network namespace without lo; nil if the caller
// is in it too.
func interfaces(pid int) (out []NetworkInterface) {
	own, err := os.Readlink("/proc/self/ns/net")
	its, e := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil || e != nil || own == its {
		return nil
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		// name: eight counters of what came in, eight of what went out (proc_pid_net(5)); two lines
		// of headings have no colon
		name, rest, ok := strings.Cut(lines.Text(), ":")
		f := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || name == "lo" || len(f) < 12 {
			continue
		}
		n := func(i int) uint64 { v, _ := strconv.ParseUint(f[i], 10, 64); return v }
		out = append(out, NetworkInterface{
			Name: name, RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3), TxBytes: n(8),
			TxPackets: n(9), TxErrors: n(10), TxDropped: n(11),
		})
	}
	return out
}

// Events reports the usage of a container in each interval, and each time that it runs out of
// memory, until it ends.
func (r *Runtime) Events(ctx context.Context, id string, interval time.Duration,
	tell func(Event) error,
) error {
	rec, err := r.running(id)
	if err != nil {
		return err
	}
	pidfd := rec.pidfd()
	if pidfd < 0 {
		return fmt.Errorf("container with id %s is not running", id)
	}
	defer unix.Close(pidfd)
	g, err := rec.cgroup()
	if err != nil {
		return err
	}
	watch, err := g.WatchOOM()
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	if watch != nil {
		defer watch.Close()
		fds = append(fds, unix.PollFd{Fd: int32(watch.FD), Events: unix.POLLIN})
	}
	for next := time.Now().Add(interval); ; {
		// In slices, since a signal to the caller cancels the context and does not end the call.
		wait := min(max(time.Until(next), 0), 100*time.Millisecond)
		if _, err := unix.Poll(fds, int(wait.Round(time.Millisecond)/time.Millisecond)); err != nil &&
			!errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if watch != nil && fds[1].Revents != 0 && watch.Happened() {
			if err := tell(Event{Type: "oom", ID: id}); err != nil {
				return err
			}
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if time.Now().Before(next) {
			continue
		}
		next = next.Add(interval)
		s, err := r.stats(rec)
		if err != nil {
			if !rec.alive() {
				return nil
			}
			r.warn(err.Error())
			continue
		}
		if err := tell(Event{Type: "stats", ID: id, Data: s}); err != nil {
			return err
		}
	}
}
