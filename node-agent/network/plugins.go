// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// Bounds of the time of one plugin, and of one that only reports its status.
const (
	pluginPatience = time.Minute
	statusPatience = 10 * time.Second
)

// plugins executes CNI plugins for libcni.
type plugins struct {
	version.PluginDecoder
	// lock is inherited by each plugin and by all that it executes: it is free once none of them
	// runs, also if the agent was killed. nil is for commands that change nothing.
	lock *os.File
	// added is called with the result of each plugin that has succeeded with ADD, before the next
	// one is executed.
	added func(result []byte) error
	// patience bounds the time of one plugin; 0 means pluginPatience.
	patience time.Duration
}

var _ invoke.Exec = (*plugins)(nil)

// FindInPath returns the path of a plugin.
func (*plugins) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil {
		return "", fmt.Errorf(
			"found no plugin %q in %s; allowed: a plugin of --cni-bin-dir: install it there",
			plugin, strings.Join(dirs, ", "))
	}
	return path, nil
}

// ExecPlugin executes a plugin with a configuration, and returns what it prints.
func (p *plugins) ExecPlugin(ctx context.Context, path string, config []byte, env []string) ([]byte,
	error,
) {
	patience := cmp.Or(p.patience, pluginPatience)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, bytes.NewReader(config), &stdout, &stderr
	cmd.WaitDelay = time.Second // what the plugin has executed may hold its output open
	if p.lock != nil {
		cmd.ExtraFiles = []*os.File{p.lock}
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("did not end within %s: %w", patience, err)
		}
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), pluginError(err, stdout.Bytes(),
			stderr.String()))
	}
	if p.added != nil && slices.Contains(env, "CNI_COMMAND=ADD") {
		if err := p.added(stdout.Bytes()); err != nil {
			return nil, err
		}
	}
	return stdout.Bytes(), nil
}

// pluginError returns the error that a plugin has printed, or else err with its standard error.
func pluginError(err error, stdout []byte, stderr string) error {
	var said types.Error
	if json.Unmarshal(stdout, &said) == nil && said.Msg != "" {
		return &said
	}
	if text := strings.TrimSpace(stderr); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// installed returns an error that names the first plugin that is missing.
func installed(dirs []string, names ...string) error {
	for _, name := range names {
		if _, err := (&plugins{}).FindInPath(name, dirs); err != nil {
			return fmt.Errorf("not installed: %w", err)
		}
	}
	return nil
}
