// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"reflect"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/ociruntime"
)

var mountsCommand = command{
	name: "mounts", args: "add|remove CONTAINER-ID FILE",
	summary: "mount more in a running container, or take mounts away", min: 3, max: 3, id: 1,
	examples: []string{
		`echo '[{"destination": "/data", "source": "/srv/data", "options": ["rbind", "ro"]}]' > mounts.json`,
		"berth mounts add hello mounts.json", "berth mounts remove hello mounts.json",
	},
	flags: func(*flag.FlagSet) func(context.Context, *app, []string) error {
		return func(ctx context.Context, a *app, args []string) error {
			verb, id, file := args[0], args[1], args[2]
			if verb != "add" && verb != "remove" {
				return usageError{fmt.Errorf("found %q; allowed are add, remove", verb)}
			}
			mounts, err := readMounts(file)
			if err != nil {
				return err
			}
			r, err := a.runtime()
			if err != nil {
				return err
			}
			if verb == "add" {
				return r.AddMounts(ctx, id, mounts)
			}
			return r.RemoveMounts(ctx, id, mounts)
		}
	},
}

// readMounts reads an array of mounts as in config.json, or an object that has them as "mounts".
func readMounts(file string) ([]specs.Mount, error) {
	data, err := ociruntime.ReadNamed(file)
	if err != nil {
		return nil, err
	}
	var document struct {
		Mounts []specs.Mount `json:"mounts"`
	}
	into := any(&document)
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		into = &document.Mounts
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) { // whose text names Go's types
			return nil, fmt.Errorf("%s: %s: found a JSON %s before offset %d; allowed: a %s", file,
				cmp.Or(wrong.Field, "mounts"), wrong.Value, wrong.Offset, jsonKind(wrong.Type.Kind()))
		}
		return nil, fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "json: "))
	}
	if len(document.Mounts) == 0 {
		return nil, fmt.Errorf("%s: found no mounts; allowed is a JSON array of mounts as in config.json",
			file)
	}
	if decoder.More() {
		return nil, errors.New(file + ": found more than one JSON value")
	}
	return document.Mounts, nil
}

// jsonKind returns JSON's name for the kind of a field of a mount.
func jsonKind(k reflect.Kind) string {
	switch k {
	case reflect.Slice:
		return "list"
	case reflect.Struct:
		return "map"
	case reflect.String:
		return "string"
	}
	return "number"
}
