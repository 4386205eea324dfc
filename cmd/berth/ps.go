// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

var psCommand = command{
	name: "ps", args: "CONTAINER-ID [ps options]", summary: "list the processes of a container",
	min: 1, max: -1,
	examples: []string{
		"berth ps hello", "berth ps -f json hello",
		"berth ps hello -e -o pid,rss,args",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		format := stringFlag(fs, "format", "f", "table",
			"`format`: table, which is that of ps(1), or json, which is the pids alone")
		return func(ctx context.Context, a *app, args []string) error {
			if *format != "table" && *format != "json" {
				return fmt.Errorf("--format: found %q; allowed are table, json", *format)
			}
			r, err := a.runtime()
			if err != nil {
				return err
			}
			pids, err := r.Processes(ctx, args[0])
			if err != nil {
				return err
			}
			if *format == "json" {
				return json.NewEncoder(a.stdout).Encode(pids)
			}
			options := args[1:]
			if len(options) == 0 {
				options = []string{"-ef"}
			}
			table, err := exec.CommandContext(ctx, "ps", options...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ps %s: %w: %s", strings.Join(options, " "), err,
					strings.TrimSpace(string(table)))
			}
			return writeProcesses(a.stdout, string(table), pids)
		}
	},
}

// writeProcesses writes the heading of a table of ps(1) and the lines of some processes, selected
// by its column PID.
func writeProcesses(w io.Writer, table string, pids []int) error {
	heading, lines, _ := strings.Cut(table, "\n")
	column := slices.Index(strings.Fields(heading), "PID")
	if column < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	if _, err := fmt.Fprintln(w, heading); err != nil {
		return err
	}
	for line := range strings.Lines(lines) {
		fields := strings.Fields(line)
		if column >= len(fields) {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err != nil {
			return fmt.Errorf("the output of ps: column PID: found %q, which is no number", fields[column])
		}
		if slices.Contains(pids, pid) {
			if _, err := io.WriteString(w, line); err != nil {
				return err
			}
		}
	}
	return nil
}
