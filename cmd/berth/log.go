// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime"
	"github.com/berth-run/berth/node-agent/runtime/cgroup"
)

// level is how important a record of the log is, in the words of runc and crun.
type level int

const (
	levelError level = iota
	levelWarning
	levelInfo
	levelDebug
)

var levelNames = [...]string{"error", "warning", "info", "debug"}

// String and Set make it the value of a flag.
func (l *level) String() string { return levelNames[*l] }

func (l *level) Set(s string) error {
	i := slices.Index(levelNames[:], s)
	if i < 0 {
		return fmt.Errorf("allowed are %s", strings.Join(levelNames[:], ", "))
	}
	*l = level(i)
	return nil
}

// openLog opens --log. It is made even if nothing is written to it, and where it cannot be, nothing is done at all: who reads the log
// would never learn of an error.
func (a *app) openLog() error {
	kind, name, both := strings.Cut(a.log, ":")
	switch {
	case a.log == "":
		return nil
	case both && kind == "file": // as crun writes it
		a.log = name
	case both && (kind == "journald" || kind == "syslog"):
		err := fmt.Errorf("--log: found %q; allowed is a file", a.log)
		a.log = ""
		return err
	}
	f, err := os.OpenFile(a.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		a.log = ""
		return fmt.Errorf("--log: %w", err)
	}
	a.sink = f // ends with the process
	return nil
}

// record appends one record to the log, in the form that containerd and podman read: keys level, msg and time.
func (a *app) record(l level, msg string) {
	if l > a.level {
		return
	}
	now := time.Now().Format(time.RFC3339)
	var line string
	if a.logFormat == "json" {
		data, err := json.Marshal(map[string]string{"level": l.String(), "msg": msg, "time": now})
		if err != nil {
			return
		}
		line = string(data)
	} else {
		line = fmt.Sprintf("time=%s level=%s msg=%s", strconv.Quote(now), l.String(), strconv.Quote(oneLine(msg)))
	}
	w := a.sink
	if w == nil {
		w = a.stderr
	}
	fmt.Fprintln(w, line)
}

// debugf records what is done.
func (a *app) debugf(format string, args ...any) {
	if a.level >= levelDebug {
		a.record(levelDebug, fmt.Sprintf(format, args...))
	}
}

// fail tells the error that ends a command: to the log and, where that is a file, to standard error as well.
func (a *app) fail(err error) {
	a.record(levelError, err.Error())
	if a.sink != nil {
		fmt.Fprintln(a.stderr, err)
	}
}

// runtime returns the runtime of --root, with its warnings in the log.
func (a *app) runtime() (*runtime.Runtime, error) {
	if a.rootError != nil && !a.rootGiven {
		return nil, a.rootError
	}
	options := []runtime.Option{runtime.WithWarnings(func(msg string) { a.record(levelWarning, msg) })}
	if a.level >= levelDebug {
		options = append(options, runtime.WithDebug(func(msg string) { a.record(levelDebug, msg) }))
	}
	if a.rootless != "auto" {
		options = append(options, runtime.WithRootless(a.rootless == "true"))
	}
	if a.ignoreMissingLSM {
		options = append(options, runtime.WithoutMissingLSM())
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
