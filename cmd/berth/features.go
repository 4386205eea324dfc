// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"

	"github.com/berth-run/berth/node-agent/ociruntime"
)

var featuresCommand = command{
	name: "features", summary: "print what this runtime honours (runtime-spec, features.md), as JSON",
	min: 0, max: 0,
	examples: []string{"berth features"},
	flags: func(*flag.FlagSet) func(context.Context, *app, []string) error {
		return func(_ context.Context, a *app, _ []string) error {
			f := ociruntime.Features()
			f.Annotations["run.berth.version"] = version
			enc := json.NewEncoder(a.stdout)
			enc.SetIndent("", "    ")
			return enc.Encode(f)
		}
	},
}
