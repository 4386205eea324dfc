// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// lock keeps a second agent away from a directory. The lock goes with the process, however it ends.
func lock(ctx context.Context, flag, dir string) (*os.File, error) {
	// An agent that is ending, or a status command that looks, lets go soon.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	f, err := durable.Lock(ctx, filepath.Join(dir, "agent.lock"))
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("%s: %s is in use by another agent%s", flag, dir, ofStateDir(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return f, nil
}

// ownerFile in a run directory names the state directory of the agent that it belongs to.
const ownerFile = "agent.owner"

func ofStateDir(runDir string) string {
	if owner, err := os.ReadFile(filepath.Join(runDir, ownerFile)); err == nil {
		return ", whose --state-dir is " + strings.TrimSpace(string(owner))
	}
	return ""
}

// claimRunDir makes the run directory that of this agent. An agent removes containers that it has no record of, so a run directory
// with the containers of an agent with another state directory is refused, whether that agent runs or not. The caller holds the
// lock of the directory.
func claimRunDir(ctx context.Context, runDir, stateDir string, client *protocol.Client) error {
	stateDir, err := filepath.Abs(stateDir)
	if err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	file := filepath.Join(runDir, ownerFile)
	owner, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--run-dir: %w", err)
	}
	if other := strings.TrimSpace(string(owner)); err == nil && other != stateDir {
		containers, err := client.List(ctx)
		if err != nil {
			return err
		}
		if len(containers) > 0 {
			return fmt.Errorf("--run-dir: found %s with %d containers of the agent whose --state-dir is %s; allowed: that --state-dir, or another --run-dir",
				runDir, len(containers), other)
		}
	}
	if err := durable.Replace(file, []byte(stateDir+"\n"), durable.Options{}); err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	return nil
}
