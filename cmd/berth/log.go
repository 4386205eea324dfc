// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime"
	"github.com/berth-run/berth/node-agent/runtime/cgroup"
)

// record appends one record to --log, in the form that containerd and podman read: keys level, msg and time.
func (a *app) record(level, msg string) {
	now := time.Now().Format(time.RFC3339)
	var line string
	if a.logFormat == "json" {
		data, err := json.Marshal(map[string]string{"level": level, "msg": msg, "time": now})
		if err != nil {
			return
		}
		line = string(data)
	} else {
		line = fmt.Sprintf("time=%s level=%s msg=%s", strconv.Quote(now), level, strconv.Quote(oneLine(msg)))
	}
	if a.log == "" {
		fmt.Fprintln(a.stderr, line)
		return
	}
	f, err := os.OpenFile(a.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		fmt.Fprintf(a.stderr, "--log: %v\n", err)
		return
	}
	defer f.Close()
	fmt.Fprintln(f, line)
}

// fail tells the error that ends a command: to the log and, where that is a file, to standard error as well.
func (a *app) fail(err error) {
	a.record("error", err.Error())
	if a.log != "" {
		fmt.Fprintln(a.stderr, err)
	}
}

// runtime returns the runtime of --root, with its warnings in the log.
func (a *app) runtime() (*runtime.Runtime, error) {
	if a.rootError != nil && !a.rootGiven {
		return nil, a.rootError
	}
	options := []runtime.Option{runtime.WithWarnings(func(msg string) { a.record("warning", msg) })}
	if a.rootless != "auto" {
		options = append(options, runtime.WithRootless(a.rootless == "true"))
	}
	if a.cgroupManager != "" {
		options = append(options, runtime.WithCgroupManager(cgroup.Manager(a.cgroupManager)))
	}
	if a.sticky {
		options = append(options, runtime.WithStickyRoot())
	}
	return runtime.New(a.root, options...)
}

func (a *app) printVersion() {
	commit, goVersion := "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		goVersion = info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	fmt.Fprintf(a.stdout, "berth version %s\ncommit: %s\nspec: %s\ngo: %s\n", version, commit, specs.Version, goVersion)
}
