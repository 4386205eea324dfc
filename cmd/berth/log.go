// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"log/syslog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
)

// level is the severity of a log record, in the words of runc and crun.
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

// openLog opens --log: [file:]PATH, journald:ID or syslog:ID, as crun has them. A file is made even
// if nothing is written to it. Where the log cannot be opened, nothing is done at all: who reads it
// would never learn of an error.
func (a *app) openLog() (err error) {
	kind, name, named := strings.Cut(a.log, ":")
	switch {
	case a.log == "":
		return nil
	case named && kind == "journald":
		a.send, err = openJournal(name)
	case named && kind == "syslog":
		a.send, err = openSyslog(name)
	default:
		a.log = strings.TrimPrefix(a.log, "file:")
		// Closed by the end of the process.
		a.sink, err = os.OpenFile(a.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		err = fmt.Errorf("--log: %w", err)
		a.sink, a.send = nil, nil
	}
	return err
}

// severities are the levels as syslog(3) and the journal number them.
var severities = map[level]syslog.Priority{
	levelError: syslog.LOG_ERR, levelWarning: syslog.LOG_WARNING, levelInfo: syslog.LOG_INFO,
	levelDebug: syslog.LOG_DEBUG,
}

// openJournal returns a writer that sends records to the journal, as one datagram of its native
// protocol (systemd.io, Native Journal Protocol).
func openJournal(id string) (func(level, string) error, error) {
	journal, err := net.Dial("unixgram", "/run/systemd/journal/socket")
	if err != nil {
		return nil, err
	}
	return func(l level, msg string) error {
		_, err := fmt.Fprintf(journal, "PRIORITY=%d\nSYSLOG_IDENTIFIER=berth\nID=%s\nMESSAGE=%s\n",
			severities[l], oneLine(id), oneLine(msg))
		return err
	}, nil
}

// openSyslog returns a writer that sends records to the system's log, under a name.
func openSyslog(name string) (func(level, string) error, error) {
	log, err := syslog.New(syslog.LOG_USER, name)
	if err != nil {
		return nil, err
	}
	send := map[level]func(string) error{
		levelError: log.Err, levelWarning: log.Warning,
		levelInfo: log.Info, levelDebug: log.Debug,
	}
	return func(l level, msg string) error { return send[l](oneLine(msg)) }, nil
}

// record appends one record to the log, in the form that containerd and podman read: keys level,
// msg and time.
func (a *app) record(l level, msg string) {
	if l > a.level {
		return
	}
	if a.send != nil {
		if err := a.send(l, msg); err != nil {
			fmt.Fprintf(a.stderr, "--log: %v: %s\n", err, msg)
		}
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
		line = fmt.Sprintf("time=%s level=%s msg=%s", strconv.Quote(now), l.String(),
			strconv.Quote(oneLine(msg)))
	}
	w := a.stderr
	if a.sink != nil {
		w = a.sink
	}
	fmt.Fprintln(w, line)
}

// debugf logs a message at the level debug.
func (a *app) debugf(format string, args ...any) {
	if a.level >= levelDebug {
		a.record(levelDebug, fmt.Sprintf(format, args...))
	}
}

// fail reports the error that ends a command: to the log and, where that is not standard error,
// there as well.
func (a *app) fail(err error) {
	a.record(levelError, err.Error())
	if a.sink != nil || a.send != nil {
		fmt.Fprintln(a.stderr, err)
	}
}

// runtime returns the runtime of --root, with its warnings in the log.
func (a *app) runtime() (*ociruntime.Runtime, error) {
	if a.rootError != nil && !a.rootGiven {
		return nil, a.rootError
	}
	options := []ociruntime.Option{
		ociruntime.WithWarnings(func(msg string) { a.record(levelWarning, msg) }),
	}
	if a.level >= levelDebug {
		options = append(options, ociruntime.WithDebug(func(msg string) { a.record(levelDebug, msg) }))
	}
	if a.rootless != "auto" {
		options = append(options, ociruntime.WithRootless(a.rootless == "true"))
	}
	if a.ignoreMissingLSM {
		options = append(options, ociruntime.WithoutMissingLSM())
	}
	if a.cgroupManager != "" {
		options = append(options, ociruntime.WithCgroupManager(cgroup.Manager(a.cgroupManager)))
	}
	if a.sticky {
		options = append(options, ociruntime.WithStickyRoot())
	}
	return ociruntime.New(a.root, options...)
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
	name := programName()
	fmt.Fprintf(a.stdout, "%s version %s\ncommit: %s\nspec: %s\ngo: %s\n",
		name, version, commit, specs.Version, goVersion)
	if name != "berth" {
		fmt.Fprintf(a.stdout, "program: berth\n")
	}
}
