// SPDX-License-Identifier: Apache-2.0

// Command berth is Berth's OCI runtime, with the command line of runc, and the supervisor that the
// node agent starts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/berth-run/berth/internal/containerid"
)

// version is set by the linker.
var version = "0.1.0-dev"

// The exit codes that clients of runc know.
const (
	exitFailure        = 1
	exitUnknownCommand = 3
)

// supervises reports whether the program is to be the supervisor. An argument that happens to be
// the word does no harm.
func supervises() bool { return slices.Contains(os.Args[1:], "supervise") }

// init keeps the main goroutine of the supervisor on the main thread, where it reaps orphans. In
// main it is too late: the Go runtime may have moved that goroutine to another thread by then.
func init() {
	if supervises() {
		goruntime.LockOSThread()
	}
}

func main() {
	// Sealing executes the program anew: before anything else has been set up for nothing. That a
	// word is an argument and no command does no harm, and dispatch, which knows, reports a
	// failure.
	if slices.ContainsFunc(os.Args[1:], func(arg string) bool {
		return arg == "run" || arg == "create" || arg == "exec" || arg == "supervise"
	}) {
		_ = seal()
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, stream(2)))
}

// command is one verb of the command line.
type command struct {
	name, args, summary string
	examples            []string
	// flags declares the command's flags and returns the function that runs it with the remaining
	// arguments.
	flags func(fs *flag.FlagSet) func(ctx context.Context, app *app, args []string) error
	// id is the index of the argument with the container's id.
	id int
	// min and max are how many arguments it takes; max < 0 is any number.
	min, max int
	// launches reports whether the command creates processes of containers, which a sealed program
	// must do.
	launches bool
	// signals reports whether the command handles the signals that berth gets; in other commands,
	// signals cancel the context.
	signals bool
}

// app holds the global flags and the outputs, which all commands share.
type app struct {
	// cgroupManager is the manager named by --cgroup-manager or --systemd-cgroup, or "" if neither
	// is given.
	cgroupManager string
	root          string
	log           string
	logFormat     string
	// level is the least important level that is logged. It goes to sink or, by send, to another's
	// log; where both are nil, to standard error.
	level level
	sink  *os.File
	send  func(level, string) error
	// runtimes is the file that names other runtimes for --runtime-type.
	runtimes string
	// rootGiven reports whether the caller has given --root.
	rootGiven bool
	// rootError is the reason why root has no default. sticky reports whether root gets the sticky
	// bit, so that it survives the pruning of $XDG_RUNTIME_DIR.
	rootError error
	sticky    bool
	rootless  string
	// ignoreMissingLSM is of --ignore-missing-lsm.
	ignoreMissingLSM bool
	stdout           io.Writer
	stderr           io.Writer
}

// failure is an error whose exit code is not exitFailure.
type failure struct {
	error
	code int
}

// exitError is an exit code without a message of its own.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a wrong use of a command, which prints its help.
type usageError struct{ error }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	global := a.globals()
	err := global.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		a.help(stdout, global.FlagSet)
		return 0
	case err != nil:
		fmt.Fprintf(stdout, "Incorrect Usage: %v\n\n", err)
		a.help(stdout, global.FlagSet)
		a.fail(err)
		return exitFailure
	case global.version:
		a.printVersion()
		return 0
	case global.NArg() == 0:
		a.help(stdout, global.FlagSet)
		return 0
	}
	if err := global.apply(a); err != nil {
		a.fail(err)
		return exitFailure
	}
	name, rest := global.Arg(0), global.Args()[1:]
	if name == "help" || name == "h" {
		if len(rest) == 0 {
			a.help(stdout, global.FlagSet)
			return 0
		}
		name, rest = rest[0], []string{"--help"}
	}
	for _, c := range commands() {
		if c.name == name {
			return a.dispatch(ctx, c, rest)
		}
	}
	a.fail(fmt.Errorf("No help topic for '%s'", name)) //nolint:staticcheck // runc's words
	return exitUnknownCommand
}

// parse reads flags before the arguments and, unless the words after the first argument are another
// program's, behind them too, as runc does. What stands behind "--" is no flag.
func parse(fs *flag.FlagSet, args []string, anywhere bool) error {
	if !anywhere {
		return fs.Parse(args)
	}
	words := []string{"--"}
	for {
		if err := fs.Parse(args); err != nil {
			return err
		}
		rest := fs.Args()
		if n := len(args) - len(rest); len(rest) == 0 || n > 0 && args[n-1] == "--" {
			return fs.Parse(append(words, rest...))
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}

func (a *app) dispatch(ctx context.Context, c command, args []string) int {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	do := c.flags(fs)
	err := parse(fs, args, c.max >= 0)
	if errors.Is(err, flag.ErrHelp) {
		c.help(a.stdout, fs)
		return 0
	}
	if err == nil {
		switch n := fs.NArg(); {
		case n < c.min && c.min == c.max, c.max >= 0 && n > c.max && c.min == c.max:
			err = fmt.Errorf("%q requires exactly %d argument(s)", c.name, c.min)
		case n < c.min:
			err = fmt.Errorf("%q requires a minimum of %d argument(s)", c.name, c.min)
		case c.max >= 0 && n > c.max:
			err = fmt.Errorf("%q requires a maximum of %d argument(s)", c.name, c.max)
		}
		if err == nil && c.min > 0 && fs.Arg(c.id) == "" {
			err = containerid.ErrInvalid
		} else if err != nil {
			err = usageError{err}
		}
	} else {
		err = usageError{err}
	}
	if err == nil {
		err = a.do(ctx, c, fs, args, do)
	}
	var usage usageError
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &usage):
		fmt.Fprintf(a.stdout, "Incorrect Usage: %v\n\n", usage)
		c.help(a.stdout, fs)
	}
	a.fail(err)
	var fail failure
	if errors.As(err, &fail) {
		return fail.code
	}
	return exitFailure
}

// do runs a command, or has the program run it that runs the container.
func (a *app) do(ctx context.Context, c command, fs *flag.FlagSet, args []string,
	do func(context.Context, *app, []string) error,
) error {
	if f := fs.Lookup(runtimeTypeFlag); f != nil && f.Value.String() != nativeType {
		e, err := a.findExternal(f.Value.String())
		if err != nil {
			return err
		}
		a.debugf("%s runs container %s", e.Path, fs.Arg(c.id))
		return e.create(ctx, a, c, fs, withoutFlag(args, runtimeTypeFlag))
	} else if f == nil && c.min > 0 && !isSet(fs, regexFlag) {
		e, err := a.externalOf(fs.Arg(c.id))
		if err != nil {
			return err
		}
		if e != nil {
			a.debugf("%s runs container %s", e.Path, fs.Arg(c.id))
			return e.call(ctx, a, c.name, fs.Arg(c.id), args)
		}
	}
	if c.launches {
		if err := seal(); err != nil {
			return err
		}
	}
	if !c.signals {
		var err error
		if ctx, err = untilSignal(ctx); err != nil {
			return err
		}
	}
	return do(ctx, a, fs.Args())
}

func (a *app) help(w io.Writer, global *flag.FlagSet) {
	name := programName()
	fmt.Fprintf(w, `NAME:
   %[1]s - Open Container Initiative runtime

USAGE:
   %[1]s [global options] command [command options] [arguments...]

COMMANDS:
`, name)
	for _, c := range commands() {
		fmt.Fprintf(w, "   %-10s %s\n", c.name, c.summary)
	}
	fmt.Fprintf(w, "   %-10s %s\n", "help, h", "print this, or the help of one command")
	fmt.Fprint(w, "\nGLOBAL OPTIONS:\n")
	printFlags(w, global)
	fmt.Fprintf(w, `
EXAMPLES:
   %[1]s spec && %[1]s run hello        # the bundle in this directory
   %[1]s plan --bundle /srv/hello       # the system calls that would be made
   %[1]s COMMAND --help
`, name)
}

func (c command) help(w io.Writer, fs *flag.FlagSet) {
	name := programName()
	options, values := 0, 0
	fs.VisitAll(func(f *flag.Flag) {
		options++
		if value, _ := flag.UnquoteUsage(f); value != "" {
			values++
		}
	})
	usage := name + " " + c.name + " " + c.args
	if options > 0 {
		usage = name + " " + c.name + " [command options] " + c.args
	}
	if name == "crun" {
		// crun names the options of a command where some have values.
		own := strings.Repeat(" [OPTION]...", min(values, 1))
		arguments := strings.ReplaceAll(c.args, "CONTAINER-ID", "CONTAINER")
		fmt.Fprintf(w, "Usage: crun [OPTION...] %s%s %s\n\n", c.name, own, arguments)
	}
	fmt.Fprintf(w, "NAME:\n   %s %s - %s\n\nUSAGE:\n   %s\n", name, c.name, c.summary,
		strings.TrimSpace(usage))
	if options > 0 {
		fmt.Fprint(w, "\nOPTIONS:\n")
		printFlags(w, fs)
	}
	if len(c.examples) > 0 {
		fmt.Fprint(w, "\nEXAMPLES:\n")
		for _, e := range c.examples {
			fmt.Fprintf(w, "   %s\n", strings.ReplaceAll(e, "berth ", name+" "))
		}
	}
}

// printFlags lists flags, a short name beside its long one where both set the same.
func printFlags(w io.Writer, fs *flag.FlagSet) {
	short := map[flag.Value]string{}
	fs.VisitAll(func(f *flag.Flag) {
		if len(f.Name) == 1 {
			short[f.Value] = f.Name
		}
	})
	fs.VisitAll(func(f *flag.Flag) {
		if len(f.Name) == 1 {
			return
		}
		name := "--" + f.Name
		for v, s := range short {
			if v == f.Value || fmt.Sprintf("%p", v) == fmt.Sprintf("%p", f.Value) {
				name += ", -" + s
			}
		}
		value, usage := flag.UnquoteUsage(f)
		if value != "" {
			name += " " + value
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			usage += " (default: " + f.DefValue + ")"
		}
		fmt.Fprintf(w, "   %-28s %s\n", name, usage)
	})
}

// stringFlag declares a flag with a long and a short name.
func stringFlag(fs *flag.FlagSet, long, short, value, usage string) *string {
	p := fs.String(long, value, usage)
	fs.Var(fs.Lookup(long).Value, short, usage)
	return p
}

func boolFlag(fs *flag.FlagSet, long, short, usage string) *bool {
	p := fs.Bool(long, false, usage)
	fs.Var(fs.Lookup(long).Value, short, usage)
	return p
}

// oneLine keeps a message from breaking a text log into several records.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }
