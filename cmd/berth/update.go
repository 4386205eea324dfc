// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/node-agent/ociruntime"
)

var updateCommand = command{
	name: "update", args: "CONTAINER-ID", summary: "change the limits of a container", min: 1, max: 1,
	examples: []string{
		"berth update --memory 64M --pids-limit 100 hello",
		`echo '{"cpu":{"shares":200}}' | berth update --resources - hello`,
	},
	flags: updateFlags,
}

// updateFlags holds the flags of update, which are runc's. A flag that is not given changes
// nothing.
func updateFlags(fs *flag.FlagSet) func(context.Context, *app, []string) error {
	file := stringFlag(fs, "resources", "r", "",
		"`file` with limits as in linux.resources, or - for the standard input; all other flags are ignored then")
	l := &limitFlags{fs: fs, resources: &specs.LinuxResources{}}
	l.declareBlockIO()
	l.declareCPU()
	l.declareMemory()
	l.declarePids()
	u := ociruntime.Update{}
	fs.StringVar(&u.L3CacheSchema, "l3-cache-schema", "",
		"`line` of the schemata of Intel RDT's L3 cache allocation")
	fs.StringVar(&u.MemBwSchema, "mem-bw-schema", "",
		"`line` of the schemata of Intel RDT's memory bandwidth allocation")
	return func(ctx context.Context, a *app, args []string) error {
		rt, err := a.runtime()
		if err != nil {
			return err
		}
		u.Resources = l.resources
		if *file != "" {
			if u.Resources, err = readResources(*file); err != nil {
				return err
			}
		}
		if m := u.Resources.Memory; l.obsolete || m != nil && (m.Kernel != nil || m.KernelTCP != nil) { //nolint:staticcheck // deprecated, not gone
			a.record(levelWarning, "Kernel memory settings are ignored and will be removed")
		}
		return rt.Update(ctx, args[0], u)
	}
}

// limitFlags declares the flags of limits, which set fields of resources where they are given.
type limitFlags struct {
	fs        *flag.FlagSet
	resources *specs.LinuxResources
	// obsolete reports that a limit of kernel memory is given.
	obsolete bool
}

func (l *limitFlags) declare(name, usage string, set func(string) error) {
	l.fs.Func(name, usage, func(value string) error {
		if value == "" {
			return nil // as runc reads it: not given
		}
		return set(value)
	})
}

func (l *limitFlags) declareBlockIO() {
	blockIO := &specs.LinuxBlockIO{}
	l.declare("blkio-weight", "`weight` of block devices, 10 to 1000", func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		weight := uint16(n)
		l.resources.BlockIO, blockIO.Weight = blockIO, &weight
		return err
	})
}

func (l *limitFlags) declareCPU() {
	cpu := &specs.LinuxCPU{}
	for name, f := range map[string]struct {
		to    **uint64
		usage string
	}{
		"cpu-period":    {&cpu.Period, "`microseconds` of a period of --cpu-quota"},
		"cpu-burst":     {&cpu.Burst, "`microseconds` above the quota that may be saved up"},
		"cpu-share":     {&cpu.Shares, "`weight` against other containers; 1024 is the default"},
		"cpu-rt-period": {&cpu.RealtimePeriod, "`microseconds` of a period of --cpu-rt-runtime"},
	} {
		l.declare(name, f.usage, func(s string) error {
			n, err := strconv.ParseUint(s, 10, 64)
			l.resources.CPU, *f.to = cpu, &n
			return err
		})
	}
	for name, f := range map[string]struct {
		to    **int64
		usage string
	}{
		"cpu-quota":      {&cpu.Quota, "`microseconds` of CPU time a period, or -1 for no limit"},
		"cpu-rt-runtime": {&cpu.RealtimeRuntime, "`microseconds` of realtime CPU time a period"},
		"cpu-idle":       {&cpu.Idle, "`0|1`: 1 has it run only when nothing else does, 0 as others"},
	} {
		l.declare(name, f.usage, func(s string) error {
			n, err := strconv.ParseInt(s, 10, 64)
			l.resources.CPU, *f.to = cpu, &n
			return err
		})
	}
	l.declare("cpuset-cpus", "`list` of CPUs to use, such as 0-3,7", func(s string) error {
		l.resources.CPU, cpu.Cpus = cpu, s
		return nil
	})
	l.declare("cpuset-mems", "`list` of memory nodes to use", func(s string) error {
		l.resources.CPU, cpu.Mems = cpu, s
		return nil
	})
}

func (l *limitFlags) declareMemory() {
	memory := &specs.LinuxMemory{}
	for name, f := range map[string]struct {
		to    **int64
		usage string
	}{
		"memory":             {&memory.Limit, "`bytes`, also 512k, 64M or 1g; -1 for no limit"},
		"memory-reservation": {&memory.Reservation, "`bytes` that are kept when memory is scarce"},
		"memory-swap": {
			&memory.Swap,
			"`bytes` of memory and swap together; -1 for no limit of swap",
		},
	} {
		l.declare(name, f.usage, func(s string) error {
			n, err := parseBytes(s)
			l.resources.Memory, *f.to = memory, &n
			return err
		})
	}
	for _, name := range []string{"kernel-memory", "kernel-memory-tcp"} {
		l.declare(name, "obsolete: it is ignored", func(s string) error {
			_, err := parseBytes(s)
			l.obsolete = true
			return err
		})
	}
}

func (l *limitFlags) declarePids() {
	pids := &specs.LinuxPids{}
	l.declare("pids-limit", "greatest `number` of processes, or -1 for no limit",
		func(s string) error {
			n, err := strconv.ParseInt(s, 10, 64)
			l.resources.Pids, pids.Limit = pids, &n
			return err
		})
}

// readResources reads the limits of --resources.
func readResources(file string) (*specs.LinuxResources, error) {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("--resources: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, document.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("--resources: %w", err)
	}
	d := document.DecodeResources(data)
	if err := d.Faults().Err(); err != nil {
		return nil, fmt.Errorf("--resources: %w", err)
	}
	return d.Value, nil
}

var errBytes = errors.New("allowed are a number with k, m, g, t or p behind it or nothing, or -1")

// parseBytes reads a size as runc does: 64M, 1.5g, 512KiB; the letters are powers of 1024.
func parseBytes(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	end := strings.LastIndexAny(s, "0123456789.") + 1
	suffix := strings.ToLower(strings.TrimPrefix(s[end:], " "))
	scale := 1.0
	if suffix != "" && suffix != "b" {
		i := strings.IndexByte("kmgtp", suffix[0])
		if i < 0 || suffix[1:] != "" && suffix[1:] != "b" && suffix[1:] != "ib" {
			return 0, errBytes
		}
		scale = math.Pow(1024, float64(i+1))
	}
	if n, err := strconv.ParseInt(s[:end], 10, 64); err == nil && scale == 1 && n >= 0 {
		return n, nil
	}
	n, err := strconv.ParseFloat(s[:end], 64)
	if err != nil || n < 0 || n*scale >= math.MaxInt64 || strings.ContainsAny(s[:end], "eExXpPiInN_") {
		return 0, errBytes
	}
	return int64(n * scale), nil
}
