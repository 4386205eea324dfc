// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/berth-run/berth/node-agent/ociruntime"
)

// globals are the flags before the command.
type globals struct {
	*flag.FlagSet
	version, debug, systemd bool
	criu                    string
	// xdg reports whether the default of --root is in $XDG_RUNTIME_DIR.
	xdg bool
}

func (a *app) globals() *globals {
	g := &globals{FlagSet: flag.NewFlagSet("berth", flag.ContinueOnError)}
	g.SetOutput(io.Discard)
	a.root, g.xdg, a.rootError = ociruntime.UserRoot()
	a.level = levelInfo
	g.StringVar(&a.root, "root", a.root, "`directory` for the state of containers")
	g.StringVar(&a.log, "log", "",
		"`file` that the log is appended to, or journald:ID or syslog:ID; the last error is printed on standard error as well")
	g.StringVar(&a.logFormat, "log-format", "text", "`format` of the log: text or json")
	g.Var(&a.level, "log-level", "least `level` that is logged: error, warning, info or debug")
	g.BoolVar(&g.debug, "debug", false, "log what is done, as --log-level debug")
	g.BoolVar(&g.systemd, "systemd-cgroup", false,
		"have systemd make cgroups: linux.cgroupsPath is slice:prefix:name then")
	g.StringVar(&a.cgroupManager, "cgroup-manager", "",
		"`manager` that makes cgroups: cgroupfs, systemd or disabled (default: cgroupfs)")
	g.StringVar(&a.rootless, "rootless", "auto",
		"`true|false|auto`: whether a container without limits may go without cgroups where they cannot be made")
	g.BoolVar(&a.ignoreMissingLSM, "ignore-missing-lsm", false,
		"if the kernel has not enabled AppArmor or SELinux, warn about the container's labels instead of failing")
	g.StringVar(&a.runtimes, "runtimes", "/etc/berth/runtimes.json",
		"`file` that names other runtimes for --runtime-type, as {\"runc\": {\"path\": \"/usr/sbin/runc\"}}")
	g.StringVar(&g.criu, "criu", "", "ignored `path`: criu(8) is looked for in $PATH, as by runc")
	g.BoolVar(&g.version, "version", false, "print the version")
	g.Var(g.Lookup("version").Value, "v", "print the version")
	return g
}

// apply checks the global flags and applies them. It opens the log after the flags that configure
// it.
func (g *globals) apply(a *app) error {
	if a.logFormat != "text" && a.logFormat != "json" {
		err := fmt.Errorf("--log-format: found %q; allowed are text, json", a.logFormat)
		a.logFormat = "text"
		return err
	}
	if g.debug {
		a.level = levelDebug
	}
	if err := a.openLog(); err != nil {
		return err
	}
	if g.criu != "" {
		a.record(levelWarning, "--criu is ignored: criu(8) is looked for in $PATH")
	}
	switch {
	case !slices.Contains([]string{"", "cgroupfs", "systemd", "disabled"}, a.cgroupManager):
		return fmt.Errorf("--cgroup-manager: found %q; allowed are cgroupfs, systemd, disabled",
			a.cgroupManager)
	case g.systemd && a.cgroupManager != "" && a.cgroupManager != "systemd":
		return fmt.Errorf(
			"--cgroup-manager: found %q beside --systemd-cgroup; they contradict each other",
			a.cgroupManager)
	case g.systemd:
		a.cgroupManager = "systemd"
	}
	if a.rootless != "auto" && a.rootless != "true" && a.rootless != "false" {
		return fmt.Errorf("--rootless: found %q; allowed are true, false, auto", a.rootless)
	}
	g.Visit(func(f *flag.Flag) { a.rootGiven = a.rootGiven || f.Name == "root" })
	if a.rootGiven && a.root == "" {
		return errors.New("--root: found nothing; allowed is a directory")
	}
	a.sticky = g.xdg && !a.rootGiven
	a.debugf("berth %s, pid %d: %q, root %s", version, os.Getpid(), g.Args(), a.root)
	return nil
}
