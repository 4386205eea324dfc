// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// floor is hack/bench/floor.c: the system calls that a container needs and nothing else, in C. It
// has no image, record, log or status, and its containers end at once and are removed.
type floor struct {
	dir      string // with the program and the root filesystem
	parallel int
	used     cpuTime
}

func (h host) floor(parallel int) func(cgroup) (engine, error) {
	return func(cgroup) (engine, error) { return &floor{dir: h.dir, parallel: parallel}, nil }
}

func (f *floor) run(n int) (time.Duration, error) {
	began := time.Now()
	programs := make([]*exec.Cmd, f.parallel)
	var err error
	for i := range programs {
		share := strconv.Itoa((n + i) / f.parallel)
		programs[i] = exec.Command(filepath.Join(f.dir, "floor"), filepath.Join(f.dir, "rootfs"), share)
		err = errors.Join(err, programs[i].Start())
	}
	for _, p := range programs {
		if p.Process == nil {
			continue
		}
		err = errors.Join(err, p.Wait())
		f.used.user += p.ProcessState.UserTime()
		f.used.system += p.ProcessState.SystemTime()
	}
	return time.Since(began), err
}

// cpu counts the containers too, which the program waits for. They are not in the cgroup of the
// contest.
func (f *floor) cpu() (cpuTime, error) { return f.used, nil }

func (f *floor) close() error { return nil }
