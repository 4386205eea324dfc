// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// ownerFile in a run directory names the state directory of the agent that it belongs to.
const ownerFile = "agent.owner"

// ofStateDir returns the owner of a run directory as the end of a message, or "" if it has no
// record of one.
func ofStateDir(runDir string) string {
	if owner, err := os.ReadFile(filepath.Join(runDir, ownerFile)); err == nil {
		return ", whose --state-dir is " + strings.TrimSpace(string(owner))
	}
	return ""
}

// RunDir marks a run directory as this agent's: by a lock, and by the path of its state directory.
type RunDir struct {
	runDir, stateDir string
	client           *protocol.Client
	lock             *os.File
}

// NewRunDir creates the run directory if it is missing, and locks it. client speaks to the
// supervisor of the run directory.
func NewRunDir(ctx context.Context, runDir, stateDir string, client *protocol.Client) (*RunDir,
	error,
) {
	c := &RunDir{runDir: runDir, client: client}
	var err error
	if c.stateDir, err = filepath.Abs(stateDir); err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	return c, c.takeLock(ctx)
}

func (c *RunDir) takeLock(ctx context.Context) error {
	if err := os.MkdirAll(c.runDir, 0o700); err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	lock, err := lock(ctx, "--run-dir", c.runDir)
	if err != nil {
		return err
	}
	c.Close()
	c.lock = lock
	return nil
}

// Close gives up the lock.
func (c *RunDir) Close() {
	if c.lock != nil {
		c.lock.Close()
	}
}

// Assert writes the owner of the run directory, again if somebody has removed the directory. An
// agent removes containers that it has no record of, so a run directory with the containers of an
// agent with another state directory is refused, whether that agent runs or not.
func (c *RunDir) Assert(ctx context.Context) error {
	held, err := c.lock.Stat()
	if err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	if there, err := os.Stat(filepath.Join(c.runDir, lockFile)); err != nil ||
		!os.SameFile(held, there) {
		if err := c.takeLock(ctx); err != nil {
			return err
		}
	}
	file := filepath.Join(c.runDir, ownerFile)
	owner, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--run-dir: %w", err)
	}
	other := strings.TrimSpace(string(owner))
	if err == nil && other == c.stateDir {
		return nil
	}
	if err == nil {
		containers, err := c.client.List(ctx)
		if err != nil {
			return err
		}
		if len(containers) > 0 {
			return fmt.Errorf(
				"--run-dir: found %s with %d containers of the agent whose --state-dir is %s; allowed: that --state-dir, or another --run-dir",
				c.runDir, len(containers), other)
		}
	}
	if err := durable.Replace(file, []byte(c.stateDir+"\n"), durable.Options{}); err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	return nil
}
