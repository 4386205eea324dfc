// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/ociruntime"
)

// nativeType is the runtime type of berth's own runtime.
const nativeType = "native"

// external is another program with runc's command line that runs a container in berth's place. The
// file of --runtimes has those that there are by name; <root>/ID/external.json has the one that
// runs a container, whose own --root is <root>/ID/external.
type external struct {
	// Path of the program, absolute.
	Path string `json:"path"`
	// Args are options that stand before the command, such as --systemd-cgroup.
	Args []string `json:"args,omitempty"`
}

const (
	externalFile = "external.json"
	externalRoot = "external"
	// maxExternal bounds the file, in bytes.
	maxExternal = 1 << 20
	// stateTimeout is the time that a program may take to say whether it has kept a container: more
	// than a busy machine needs.
	stateTimeout = time.Minute
)

// findExternal looks a runtime type up in the file of --runtimes.
func (a *app) findExternal(name string) (*external, error) {
	data, err := os.ReadFile(a.runtimes)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("--runtimes: %w", err)
	}
	known := map[string]external{}
	if err == nil {
		if err := json.Unmarshal(data, &known); err != nil {
			return nil, fmt.Errorf(
				`--runtimes: %s: allowed is an object such as {"runc": {"path": "/usr/sbin/runc"}}: %w`,
				a.runtimes, err)
		}
	}
	e, ok := known[name]
	if !ok {
		names := append([]string{nativeType}, slices.Sorted(maps.Keys(known))...)
		return nil, fmt.Errorf("--runtime-type: found %q; allowed are %s (others are named in %s)", name,
			strings.Join(names, ", "), a.runtimes)
	}
	if !filepath.IsAbs(e.Path) {
		return nil, fmt.Errorf("--runtimes: %s: %s.path: found %q; allowed is an absolute path",
			a.runtimes, name, e.Path)
	}
	return &e, nil
}

// externalOf returns the program that runs a container, nil for berth itself.
func (a *app) externalOf(id string) (*external, error) {
	if containerid.Check(id) != nil {
		return nil, nil //nolint:nilerr // it is no container's, as the command that is called for it says
	}
	data, err := ociruntime.ReadOwn(filepath.Join(a.root, id, externalFile), maxExternal)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	e := &external{}
	if err == nil {
		err = json.Unmarshal(data, e)
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: which runtime runs it: %w", id, err)
	}
	return e, nil
}

// create creates a container by `create` or `run` of another program. It records the program
// before, so that the container can be deleted if this process is killed.
func (e *external) create(
	ctx context.Context, a *app, c command, fs *flag.FlagSet, args []string,
) error {
	id := fs.Arg(c.id)
	if err := containerid.Check(id); err != nil {
		return err
	}
	if a.ignoreMissingLSM {
		return fmt.Errorf("--ignore-missing-lsm: %s has no such option; it is of the native runtime",
			e.Path)
	}
	dir := filepath.Join(a.root, id)
	if err := os.MkdirAll(a.root, 0o700); err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	if err := ociruntime.CheckRoot(a.root); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("container %s: %w", id, ociruntime.ErrExist)
	}
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	data, err := json.Marshal(e)
	if err == nil {
		err = durable.Replace(filepath.Join(dir, externalFile), data, durable.Options{})
	}
	if err != nil {
		return errors.Join(fmt.Errorf("container %s: record which runtime runs it: %w", id, err),
			os.RemoveAll(dir))
	}
	err = e.call(ctx, a, c.name, id, args)
	stays := err == nil && (c.name == "create" || isTrue(fs, "detach")) ||
		hasFiles(filepath.Join(dir, externalRoot), id)
	var code exitError
	if !stays && isTrue(fs, "keep") && (err == nil || errors.As(err, &code)) {
		stays = e.mayKnow(ctx, a, id) // the exit code may be that of the container's program
	}
	if !stays { // it failed, or `run` has removed the container already
		return errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// mayKnow reports whether the program has a container of that id, or cannot say that it has none.
func (e *external) mayKnow(ctx context.Context, a *app, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	_, err := e.cli(a, id).Output(ctx, id, "state", id)
	return !errors.Is(err, handler.ErrNotExist)
}

// isTrue reports whether a command has a boolean flag that is set.
func isTrue(fs *flag.FlagSet, name string) bool {
	f := fs.Lookup(name)
	return f != nil && f.Value.String() == "true"
}

// hasFiles reports whether a program has files of a container in its --root, also where that cannot
// be found out. runc, crun and youki name a directory by the id; runsc has ID_sandbox:ID.state.
func hasFiles(root, id string) bool {
	entries, err := os.ReadDir(root)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		name := e.Name()
		// The files of a program itself are hidden, such as crun's .cache.
		return name == id || !strings.HasPrefix(name, ".") && strings.Contains(name, id)
	})
}

// call runs the program with the command line that berth was given. Its exit code becomes berth's.
func (e *external) call(ctx context.Context, a *app, command, id string, args []string) error {
	code, err := e.cli(a, id).Forward(ctx, append([]string{command}, args...)...)
	if err == nil && code != 0 {
		err = exitError(code)
	}
	if err == nil && command == "delete" {
		err = os.RemoveAll(filepath.Join(a.root, id))
	}
	return err
}

// cli returns how the program is called for a container, with the global options that berth was
// given.
func (e *external) cli(a *app, id string) *handler.CLI {
	line := slices.Clone(e.Args)
	if a.sink != nil {
		line = append(line, "--log", a.log, "--log-format", a.logFormat)
	}
	switch a.cgroupManager {
	case "systemd":
		line = append(line, "--systemd-cgroup")
	case "disabled":
		line = append(line, "--cgroup-manager", a.cgroupManager) // crun's
	}
	if a.rootless != "auto" {
		line = append(line, "--rootless="+a.rootless)
	}
	if a.level >= levelDebug {
		line = append(line, "--debug")
	}
	return &handler.CLI{Path: e.Path, Args: line, Root: filepath.Join(a.root, id, externalRoot)}
}

// listExternal returns the containers that other programs run, each as its program describes it.
func (a *app) listExternal(ctx context.Context) []*ociruntime.State {
	var out []*ociruntime.State
	entries, _ := os.ReadDir(a.root) // Runtime.List has reported any fault of it
	for _, entry := range entries {
		e, err := a.externalOf(entry.Name())
		if e == nil && err == nil {
			continue
		}
		var s ociruntime.State
		if err == nil {
			var state []byte
			state, err = e.cli(a, entry.Name()).Output(ctx, entry.Name(), "state", entry.Name())
			if err == nil {
				err = json.Unmarshal(state, &s)
			}
		}
		if err != nil {
			a.record(levelWarning, fmt.Sprintf("container %s: %v", entry.Name(), err))
			continue
		}
		out = append(out, &s)
	}
	return out
}

// withoutFlag returns a command line without a flag of ours that takes a value, up to the
// container's id.
func withoutFlag(args []string, name string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		flag := strings.TrimPrefix(strings.TrimPrefix(args[i], "-"), "-")
		switch {
		case !strings.HasPrefix(args[i], "-"), args[i] == "--", args[i] == "-":
			// A flag's value or the id: neither looks like the flag.
			out = append(out, args[i])
		case flag == name:
			i++
		case strings.HasPrefix(flag, name+"="):
		default:
			out = append(out, args[i])
		}
	}
	return out
}
