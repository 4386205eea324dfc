// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/node-agent/ociruntime"
)

// exitExec is the exit code of every failure to execute a process, which looks the same as the
// process's own.
const exitExec = 255

var execCommand = command{
	name: "exec", args: "CONTAINER-ID COMMAND [ARGUMENT...]",
	summary: "execute a process in a container; its exit code becomes berth's", min: 1, max: -1,
	launches: true, signals: true,
	examples: []string{
		"berth exec hello ps", "berth exec -t --user 1000:1000 --cwd /srv hello sh",
		"berth exec --detach --pid-file /run/hello-2.pid hello sleep 60",
		"berth exec --process process.json hello",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		e := newExecFlags(fs)
		return func(ctx context.Context, a *app, args []string) error {
			// seal has named the failures that are no exec's.
			err := e.run(ctx, a, args)
			var exit exitError
			if err == nil || errors.As(err, &exit) {
				return err
			}
			return failure{fmt.Errorf("exec failed: %w", err), exitExec}
		}
	},
}

// listFlag is a flag that may be given several times.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, ",") }

func (l *listFlag) Set(s string) error { *l = append(*l, s); return nil }

func listFlagVar(fs *flag.FlagSet, long, short, usage string) *listFlag {
	l := &listFlag{}
	fs.Var(l, long, usage)
	if short != "" {
		fs.Var(l, short, usage)
	}
	return l
}

// idsFlag is a flag with an id that may be given several times.
type idsFlag []uint32

func (l *idsFlag) String() string { return strings.Trim(fmt.Sprint(*l), "[]") }

func (l *idsFlag) Set(s string) error {
	id, err := parseID(s)
	*l = append(*l, id)
	return err
}

// execFlags are the flags of exec.
type execFlags struct {
	fs             *flag.FlagSet
	options        ociruntime.ExecOptions
	process        *string
	user           *string
	cwd            *string
	apparmor       *string
	label          *string
	env            *listFlag
	gids           idsFlag
	caps, cgroups  *listFlag
	tty, detach    *bool
	noNewPrivilege *bool
}

func newExecFlags(fs *flag.FlagSet) *execFlags {
	e := &execFlags{fs: fs}
	o := &e.options
	e.process = stringFlag(fs, "process", "p", "",
		"`file` with the process as JSON, in place of a command and what is said of it here")
	e.tty = boolFlag(fs, "tty", "t", "give the process a terminal")
	e.detach = boolFlag(fs, "detach", "d", "return once the process runs")
	e.user = stringFlag(fs, "user", "u", "", "`UID[:GID]`, in numbers")
	for _, name := range []string{"additional-gids", "g"} {
		fs.Var(&e.gids, name, "`GID` of another group; may be repeated")
	}
	e.cwd = fs.String("cwd", "", "working `directory`")
	e.env = listFlagVar(fs, "env", "e", "`NAME=VALUE` for the environment; may be repeated")
	e.caps = listFlagVar(fs, "cap", "c",
		"`capability` besides the container's, such as CAP_SYS_PTRACE; may be repeated")
	e.apparmor = fs.String("apparmor", "", "AppArmor `profile`")
	e.label = fs.String("process-label", "", "SELinux `label`")
	e.noNewPrivilege = fs.Bool("no-new-privs", false,
		"keep the process from gaining privileges by execve")
	e.cgroups = listFlagVar(fs, "cgroup", "",
		"`[CONTROLLER:]PATH` of a cgroup below the container's; with a controller it may be repeated")
	fs.StringVar(&o.ConsoleSocket, "console-socket", "",
		"unix `socket` that gets the terminal's master")
	fs.StringVar(&o.PidfdSocket, "pidfd-socket", "", "unix `socket` that gets a pidfd of the process")
	fs.StringVar(&o.PidFile, "pid-file", "", "`file` that gets the pid of the process")
	fs.IntVar(&o.PreserveFDs, "preserve-fds", 0,
		"`number` of descriptors from 3 on that the process inherits")
	fs.BoolVar(&o.IgnorePaused, "ignore-paused", false,
		"execute in a paused container as well; the process waits until it is resumed")
	return e
}

// instead are the flags that mean nothing beside --process.
var instead = []string{
	"cwd", "env", "e", "user", "u", "additional-gids", "g", "cap", "c",
	"apparmor", "process-label", "no-new-privs",
}

func (e *execFlags) run(ctx context.Context, a *app, args []string) error {
	set := map[string]bool{}
	e.fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if *e.process == "" && len(args) < 2 {
		return errors.New("process args cannot be empty")
	}
	if *e.process != "" {
		for _, name := range instead {
			if set[name] {
				return fmt.Errorf("--%s: found it beside --process; say it in %s", name, *e.process)
			}
		}
		if len(args) > 1 {
			return fmt.Errorf("--process: found the command %q beside it; say it in %s", args[1], *e.process)
		}
		if err := e.readProcess(a); err != nil {
			return err
		}
	} else {
		e.options.Change = func(p *specs.Process) error { return e.change(p, args[1:], set) }
	}
	if err := checkPreserved("--preserve-fds", 3, e.options.PreserveFDs); err != nil {
		return err
	}
	e.options.Cgroups = *e.cgroups
	r, err := a.runtime()
	if err != nil {
		return err
	}
	return execProcess(ctx, r, args[0], e.options, *e.detach)
}

// readProcess reads and checks --process.
func (e *execFlags) readProcess(a *app) error {
	data, err := ociruntime.ReadNamed(*e.process)
	if err != nil {
		return fmt.Errorf("--process: %w", err)
	}
	p, faults := validate.ProcessJSON(data, validate.Options{})
	for _, w := range faults.Warnings() {
		a.record(levelWarning, *e.process+": "+w.Error())
	}
	if err := faults.Err(); err != nil {
		return fmt.Errorf("--process: %s: %w", *e.process, ociruntime.ExplainProcessFault(p, err))
	}
	p.Terminal = p.Terminal || *e.tty
	e.options.Process = p
	return nil
}

// change applies the flags to a copy of the container's own process.
func (e *execFlags) change(p *specs.Process, args []string, set map[string]bool) error {
	p.Args, p.Terminal, p.ConsoleSize = args, *e.tty, nil
	if *e.cwd != "" {
		p.Cwd = *e.cwd
	}
	p.Env = append(p.Env, *e.env...)
	if set["user"] || set["u"] {
		if err := parseUser(*e.user, &p.User); err != nil {
			return err
		}
	}
	p.User.AdditionalGids = append(p.User.AdditionalGids, e.gids...)
	if len(*e.caps) > 0 {
		p.Capabilities = withCapabilities(p.Capabilities, *e.caps)
	}
	if *e.apparmor != "" {
		p.ApparmorProfile = *e.apparmor
	}
	if *e.label != "" {
		p.SelinuxLabel = *e.label
	}
	if set["no-new-privs"] {
		p.NoNewPrivileges = *e.noNewPrivilege
	}
	return nil
}

// withCapabilities adds to the sets of a process. Inheritable ones are not added, since a program
// with file capabilities would gain what nobody meant it to have (CVE-2022-29162); and ambient ones
// have to be inheritable (capabilities(7)).
func withCapabilities(own *specs.LinuxCapabilities, names []string) *specs.LinuxCapabilities {
	var c specs.LinuxCapabilities
	if own != nil {
		c = *own
	}
	for _, name := range names {
		for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
			if !slices.Contains(*set, name) {
				*set = append(slices.Clip(*set), name)
			}
		}
		if slices.Contains(c.Inheritable, name) && !slices.Contains(c.Ambient, name) {
			c.Ambient = append(slices.Clip(c.Ambient), name)
		}
	}
	return &c
}

// parseUser reads UID[:GID]. Only numbers are taken, and only such as are ids: another reading of a
// name or of a number too large might be root (CVE-2024-40635, CVE-2026-30892).
func parseUser(s string, u *specs.User) error {
	uid, gid, both := strings.Cut(s, ":")
	id, err := parseID(uid)
	if err != nil {
		return fmt.Errorf("--user %s: %w", strconv.Quote(s), err)
	}
	if both {
		group, err := parseID(gid)
		if err != nil {
			return fmt.Errorf("--user %s: %w", strconv.Quote(s), err)
		}
		u.GID = group
	}
	u.UID = id
	return nil
}

// parseID reads a uid or gid: only digits, and not (uid_t)-1, which means no id (setuid(2),
// chown(2)).
func parseID(s string) (uint32, error) {
	const none = 1<<32 - 1
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == none {
		return 0, fmt.Errorf("found the id %q; allowed are 0 to %d", s, none-1)
	}
	return uint32(n), nil
}

// execProcess executes a process in the foreground, or leaves it running.
func execProcess(ctx context.Context, r *ociruntime.Runtime, id string, o ociruntime.ExecOptions,
	detach bool,
) error {
	o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
	if detach {
		ctx, err := untilSignal(ctx)
		if err != nil {
			return err
		}
		p, err := r.Exec(ctx, id, o)
		if err != nil {
			return err
		}
		p.Leave()
		return nil
	}
	f, err := newForeground(o.ConsoleSocket == "")
	if err != nil {
		return err
	}
	defer f.tty.close()
	o.Console, o.PlainNewlines = f.tty.console(), true
	// A process that is to get signals must not have its start cut short by one; but in a paused
	// container it may wait for ever.
	stop := func() []unix.Signal { return nil }
	if o.IgnorePaused {
		ctx, stop = f.signals.cancel(ctx)
	}
	p, err := r.Exec(ctx, id, o)
	if err != nil {
		return err
	}
	for _, sig := range stop() {
		f.forward(p, sig)
	}
	status, err := f.wait(p)
	if err != nil {
		p.Kill()
		return err
	}
	return exitCode(status)
}
