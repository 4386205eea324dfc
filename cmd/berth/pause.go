// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"

	"github.com/berth-run/berth/node-agent/ociruntime"
)

var pauseCommand = command{
	name: "pause", args: "CONTAINER-ID", summary: "stop all processes of a container for a while",
	min: 1, max: 1,
	examples: []string{"berth pause hello"},
	flags:    onContainer((*ociruntime.Runtime).Pause),
}

var resumeCommand = command{
	name: "resume", args: "CONTAINER-ID", summary: "continue a paused container", min: 1, max: 1,
	examples: []string{"berth resume hello"},
	flags:    onContainer((*ociruntime.Runtime).Resume),
}

// onContainer returns a command without flags that does one thing to one container.
func onContainer(do func(*ociruntime.Runtime, context.Context,
	string) error,
) func(*flag.FlagSet) func(context.Context, *app, []string) error {
	return func(*flag.FlagSet) func(context.Context, *app, []string) error {
		return func(ctx context.Context, a *app, args []string) error {
			r, err := a.runtime()
			if err != nil {
				return err
			}
			return do(r, ctx, args[0])
		}
	}
}
