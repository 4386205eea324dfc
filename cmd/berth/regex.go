// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"

	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/node-agent/ociruntime"
)

// regexFlag applies a command to every container whose id matches, as in crun.
const regexFlag = "regex"

func regexVar(fs *flag.FlagSet) *bool {
	return boolFlag(fs, regexFlag, "r",
		"CONTAINER-ID is an extended regular expression, for all containers with an id in which it is found")
}

// isSet reports whether a command has a flag and its value is true.
func isSet(fs *flag.FlagSet, name string) bool {
	f := fs.Lookup(name)
	return f != nil && f.Value.String() == "true"
}

// forEach calls a function for every container below --root whose id matches, also after a failure,
// and returns all failures. A container that is gone by then is no failure. For a container of
// another runtime, it calls that program with the command and the arguments after the flags.
func (a *app) forEach(ctx context.Context, pattern, command string, args func(id string) []string,
	do func(id string) error,
) error {
	re, err := regexp.CompilePOSIX(pattern)
	if err != nil {
		return fmt.Errorf("--regex: %w", err)
	}
	entries, err := os.ReadDir(a.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--root: %w", err)
	}
	var failures []error
	for _, entry := range entries {
		id := entry.Name()
		if containerid.Check(id) != nil || !re.MatchString(id) {
			continue
		}
		e, err := a.externalOf(id)
		switch {
		case err != nil:
		case e != nil:
			err = e.call(ctx, a, command, id, args(id))
		default:
			err = do(id)
		}
		if err != nil && !errors.Is(err, ociruntime.ErrNotExist) {
			failures = append(failures, fmt.Errorf("container %s: %w", id, err))
		}
	}
	return errors.Join(failures...)
}
