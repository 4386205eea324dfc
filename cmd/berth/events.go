// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"time"

	"github.com/berth-run/berth/node-agent/ociruntime"
)

var eventsCommand = command{
	name: "events", args: "CONTAINER-ID",
	summary: "print what a container uses, and when it runs out of memory, as JSON until it ends",
	min:     1, max: 1,
	examples: []string{
		"berth events --stats hello",
		"berth events --interval 1s hello | jq .data.memory.usage",
	},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		interval := fs.Duration("interval", 5*time.Second, "`time` between two lines of statistics")
		once := fs.Bool("stats", false, "print one line of statistics and end")
		return func(ctx context.Context, a *app, args []string) error {
			if *interval <= 0 {
				return errors.New("duration interval must be greater than 0")
			}
			r, err := a.runtime()
			if err != nil {
				return err
			}
			out := json.NewEncoder(a.stdout)
			if !*once {
				return r.Events(ctx, args[0], *interval, func(e ociruntime.Event) error {
					return out.Encode(e)
				})
			}
			s, err := r.Stats(ctx, args[0])
			if err != nil {
				return err
			}
			return out.Encode(ociruntime.Event{Type: "stats", ID: args[0], Data: s})
		}
	},
}
