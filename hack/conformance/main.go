// SPDX-License-Identifier: Apache-2.0

// Command conformance is behind `make conformance`: it runs the validation
// programs of opencontainers/runtime-tools with one or more OCI runtimes and
// compares what fails with the list in docs/conformance.md.
//
// Each program runs below `tini -s` in a pid and a mount namespace of its own,
// with an empty /run and TMPDIR: what a runtime or a program leaves behind ends
// with them, but for cgroups, which the runtime's own `delete --force` removes.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const usage = `usage: conformance -suite DIR -doc FILE -runtime NAME=PATH [-compare NAME=PATH]... [-jobs N] [-timeout D] [-v] [PROGRAM...]

Runs all validation programs in DIR, or those named, with the runtimes. The
exit status is 1 if a program fails with -runtime and FILE's list does not name
it for this machine's cgroup version.

`

// silent are the programs that write no TAP when they pass: they want `create`
// to fail, and say all by their exit status.
var silent = []string{"process_capabilities_fail", "process_rlimits_fail"}

// lane names the cgroup that a program shares with others, which cannot run at the same time:
// /cgrouptest, testdir/cgrouptest, "" for none.
func lane(program string) string {
	switch {
	case strings.HasPrefix(program, "linux_cgroups_relative_"):
		return "testdir"
	case strings.HasPrefix(program, "linux_cgroups_"), strings.HasPrefix(program, "delete_"):
		return "cgrouptest"
	}
	return ""
}

// racy lists the programs whose outcome depends on timing. killsig sends a signal as soon as the
// container runs, perhaps before its shell has set the trap. pidfile kills a process that ends by
// itself. hooks_stdin gives each hook a second. poststart starts a hook beside the program, and
// expects the program to write first. These programs run after the others, one by one, and get ten
// attempts, except where docs/conformance.md says that they fail.
var racy = []string{"hooks_stdin", "killsig", "pidfile", "poststart"}

const attempts = 10

// options has the options of berth that a program needs. These two programs expect that a label
// which the kernel does not support is left out; berth refuses it otherwise.
var options = map[string]string{
	"linux_mount_label":              "--ignore-missing-lsm",
	"linux_process_apparmor_profile": "--ignore-missing-lsm",
}

// command returns the program's runtime: the runtime itself, or a script in dir that adds options.
func (rt runtime) command(dir, program string) (string, error) {
	option := options[program]
	if rt.name != "berth" || option == "" {
		return rt.path, nil
	}
	script := filepath.Join(dir, "berth-for-"+program)
	text := fmt.Sprintf("#!/bin/sh\nexec '%s' %s \"$@\"\n", rt.path, option)
	return script, os.WriteFile(script, []byte(text), 0o755) //nolint:gosec // a program
}

// within runs in the namespaces of one program: $0 is the runtime, $1 the program, $2 its time in
// seconds, $3 a directory for TMPDIR, $4 a command to run first.
const within = `
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs "$3" || exit 125
eval "$4" || exit 125
TMPDIR=$3 RUNTIME=$0 timeout -k 5 "$2" "./$1"
status=$?
for id in $("$0" list -q 2>/dev/null); do "$0" delete --force "$id" >/dev/null 2>&1; done
# The directories above a container's cgroup stay, with every runtime.
case $1 in linux_cgroups_relative_*)
	for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
		rmdir "$hierarchy/testdir/cgrouptest" "$hierarchy/testdir" 2>/dev/null
	done ;;
esac
exit $status
`

type runtime struct {
	name, path string
	before     string // shell commands, in the program's mount namespace
}

// outcome is one program's verdict on one runtime.
type outcome struct {
	failures []string // empty: it passes
	out      string   // standard output and error, for -v
	took     time.Duration
}

func (o outcome) mark() string {
	if len(o.failures) == 0 {
		return "ok"
	}
	return "FAIL"
}

func main() {
	status, err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
	}
	os.Exit(status)
}

func run(args []string, w io.Writer) (int, error) {
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	suite := flags.String("suite", "", "directory of the programs, runtimetest and rootfs-ARCH.tar.gz")
	doc := flags.String("doc", "", "Markdown file with the list of what fails, and why")
	timeout := flags.Duration("timeout", 2*time.Minute, "time of one program")
	jobs := flags.Int("jobs", 4, "programs at once; those that share a cgroup wait for each other")
	verbose := flags.Bool("v", false, "show the output of what fails with -runtime")
	var runtimes []runtime
	add := func(value string) error {
		name, path, ok := strings.Cut(value, "=")
		if !ok {
			return fmt.Errorf("found %q, expected NAME=PATH", value)
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		r := runtime{name: name, path: path}
		if strings.HasPrefix(name, "crun") {
			// crun refuses a hybrid layout; without its v2 part it is one of v1.
			r.before = "! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified"
		}
		runtimes = append(runtimes, r)
		return nil
	}
	flags.Func("runtime", "`NAME=PATH` of the runtime that is judged", add)
	flags.Func("compare", "`NAME=PATH` of one to compare with; after -runtime (repeatable)", add)
	if err := flags.Parse(args); err != nil {
		return 2, nil
	}
	if *suite == "" || *doc == "" || len(runtimes) == 0 {
		flags.Usage()
		return 2, nil
	}
	if os.Geteuid() != 0 {
		return 2, errors.New("the programs make containers: run as root")
	}
	version, err := cgroupVersion()
	if err != nil {
		return 2, err
	}
	known, err := readList(*doc, version)
	if err != nil {
		return 2, err
	}
	programs, err := find(*suite, flags.Args())
	if err != nil {
		return 2, err
	}
	work, err := os.MkdirTemp("", "berth-conformance.")
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(work)
	// The first process of a user namespace must be able to go through it.
	if err := os.Chmod(work, 0o755); err != nil {
		return 2, err
	}

	r := runner{suite: *suite, work: work, timeout: *timeout}
	results := r.all(programs, runtimes, *jobs, known)
	return report(w, programs, runtimes, results, known, version, *verbose), nil
}

// cgroupVersion returns "v1" if /sys/fs/cgroup holds v1 controllers, hybrid or not, and "v2" if it
// is the one hierarchy.
func cgroupVersion() (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return "", fmt.Errorf("/sys/fs/cgroup: %w", err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return "v2", nil
	}
	return "v1", nil
}

// find returns the programs in dir, sorted, or checks those that are named.
func find(dir string, named []string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() && info.Mode()&0o111 != 0 && e.Name() != "runtimetest" {
			all = append(all, e.Name())
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no programs", dir)
	}
	for _, n := range named {
		if !slices.Contains(all, n) {
			return nil, fmt.Errorf("no program %q; there are %s", n, strings.Join(all, ", "))
		}
	}
	if len(named) > 0 {
		return named, nil
	}
	return all, nil
}

type runner struct {
	suite, work string
	timeout     time.Duration
}

// all runs every program with every runtime: first, jobs at once, those that do not depend on who
// is faster, then the rest one by one. The results are by program, then by runtime.
func (r runner) all(programs []string, runtimes []runtime, jobs int,
	known map[string]string,
) [][]outcome {
	results := make([][]outcome, len(programs))
	slots := make(chan struct{}, jobs)
	lanes := map[string]*sync.Mutex{"cgrouptest": {}, "testdir": {}}
	var wg sync.WaitGroup
	for i, p := range programs {
		results[i] = make([]outcome, len(runtimes))
		if slices.Contains(racy, p) {
			continue
		}
		for j, rt := range runtimes {
			wg.Go(func() {
				if l := lanes[lane(p)]; l != nil {
					l.Lock()
					defer l.Unlock()
				}
				slots <- struct{}{}
				defer func() { <-slots }()
				results[i][j] = r.one(rt, p)
			})
		}
	}
	wg.Wait()
	for i, p := range programs {
		if !slices.Contains(racy, p) {
			continue
		}
		tries := attempts
		if _, listed := known[p]; listed {
			tries = 1
		}
		for j, rt := range runtimes {
			for range tries {
				results[i][j] = r.one(rt, p)
				if len(results[i][j].failures) == 0 {
					break
				}
			}
		}
	}
	return results
}

// one runs one program with one runtime.
func (r runner) one(rt runtime, program string) outcome {
	tmp := filepath.Join(r.work, rt.name+"-"+program)
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return outcome{failures: []string{err.Error()}}
	}
	command, err := rt.command(r.work, program)
	if err != nil {
		return outcome{failures: []string{err.Error()}}
	}
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		"tini", "-s", "--", "sh", "-c", within,
		command, program, fmt.Sprint(int(r.timeout.Seconds())), tmp, rt.before)
	cmd.Dir = r.suite
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A container that outlives its program may hold the pipes.
	cmd.WaitDelay = 5 * time.Second
	start := time.Now()
	guard := time.AfterFunc(r.timeout+30*time.Second, func() { _ = cmd.Process.Kill() })
	if err := cmd.Start(); err != nil {
		guard.Stop()
		return outcome{failures: []string{err.Error()}}
	}
	err = cmd.Wait()
	guard.Stop()
	o := judge(program, stdout.String(), stderr.String(), err, time.Since(start))
	// In a virtual machine without KVM the whole takes long: show that it goes on.
	fmt.Fprintf(os.Stderr, "conformance: %s, %s: %s after %.1f s\n", program, rt.name, o.mark(),
		o.took.Seconds())
	return o
}

// judge decides whether a program passes, by its output and its exit.
func judge(program, stdout, stderr string, err error, took time.Duration) outcome {
	tap := parseTAP(stdout)
	o := outcome{failures: tap.failures, took: took, out: stdout}
	if stderr != "" {
		o.out += "--- stderr\n" + stderr
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 124:
		o.failures = append(o.failures, "timed out")
	case err != nil && stderr != "":
		// The error comes first: a panic's last line is an address.
		line, _, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
		o.failures = append(o.failures, fmt.Sprintf("%v: %s", err, line))
	case err != nil:
		o.failures = append(o.failures, err.Error())
	case tap.documents == 0 && !slices.Contains(silent, program):
		o.failures = append(o.failures, "no TAP output")
	}
	return o
}

// report prints the table and returns the exit status.
func report(w io.Writer, programs []string, runtimes []runtime, results [][]outcome,
	known map[string]string, version string, verbose bool,
) int {
	fmt.Fprintf(w, "%-32s", "program")
	for _, rt := range runtimes {
		fmt.Fprintf(w, " %-7s", rt.name)
	}
	fmt.Fprintln(w, " why not")
	passed := make([]int, len(runtimes))
	var bad, better []string
	for i, p := range programs {
		fmt.Fprintf(w, "%-32s", p)
		for j := range runtimes {
			fmt.Fprintf(w, " %-7s", results[i][j].mark())
			if len(results[i][j].failures) == 0 {
				passed[j]++
			}
		}
		reason, listed := known[p]
		switch failures := results[i][0].failures; {
		case len(failures) == 0 && listed:
			better = append(better, p)
			fmt.Fprintln(w)
		case len(failures) == 0 && options[p] != "":
			fmt.Fprintf(w, " with berth %s\n", options[p])
		case len(failures) == 0:
			fmt.Fprintln(w)
		case listed:
			fmt.Fprintf(w, " listed: %s\n", short(reason))
		default:
			bad = append(bad, p)
			fmt.Fprintf(w, " %s\n", short(strings.Join(failures, "; ")))
		}
	}
	fmt.Fprintf(w, "\n%d programs, cgroup %s:", len(programs), version)
	for j, rt := range runtimes {
		fmt.Fprintf(w, " %s passes %d.", rt.name, passed[j])
	}
	fmt.Fprintln(w)
	if len(better) > 0 {
		fmt.Fprintf(w, "listed as failing, but passing: %s\n", strings.Join(better, ", "))
	}
	if verbose {
		for i, p := range programs {
			for j, rt := range runtimes {
				o := results[i][j]
				if len(o.failures) > 0 {
					fmt.Fprintf(w, "\n=== %s with %s, %.1f s: %s\n%s", p, rt.name, o.took.Seconds(),
						strings.Join(o.failures, "; "), o.out)
				}
			}
		}
	}
	if len(bad) > 0 {
		fmt.Fprintf(w, "FAIL: %s\n", strings.Join(bad, ", "))
		return 1
	}
	return 0
}

// short returns s on one line of at most 110 characters.
func short(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 110 {
		return string(r[:109]) + "…"
	}
	return s
}
