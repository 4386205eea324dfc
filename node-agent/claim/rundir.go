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

// lockFile is the file of a directory that an agent locks.
const lockFile = "agent.lock"

// lock keeps a second agent away from a directory. The lock goes with the process, however it ends.
func lock(ctx context.Context, flag, dir string) (*os.File, error) {
	// An agent that is ending, or a status command that looks, lets go soon.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	f, err := durable.Lock(ctx, filepath.Join(dir, lockFile))
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

// runDirClaim marks a run directory as this agent's: by a lock, and by the path of its state
// directory.
type runDirClaim struct {
	runDir, stateDir string
	client           *protocol.Client
	lock             *os.File
}

// newRunDirClaim takes the lock.
func newRunDirClaim(ctx context.Context, runDir, stateDir string, client *protocol.Client) (*runDirClaim, error) {
	c := &runDirClaim{runDir: runDir, client: client}
	var err error
	if c.stateDir, err = filepath.Abs(stateDir); err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	return c, c.takeLock(ctx)
}

func (c *runDirClaim) takeLock(ctx context.Context) error {
	if err := os.MkdirAll(c.runDir, 0o700); err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	lock, err := lock(ctx, "--run-dir", c.runDir)
	if err != nil {
		return err
	}
	c.close()
	c.lock = lock
	return nil
}

func (c *runDirClaim) close() {
	if c.lock != nil {
		c.lock.Close()
	}
}

// assert writes the owner of the run directory, again if somebody has removed the directory. An
// agent removes containers that it has no record of, so a run directory with the containers of an
// agent with another state directory is refused, whether that agent runs or not.
func (c *runDirClaim) assert(ctx context.Context) error {
	held, err := c.lock.Stat()
	if err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	if there, err := os.Stat(filepath.Join(c.runDir, lockFile)); err != nil || !os.SameFile(held, there) {
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
			return fmt.Errorf("--run-dir: found %s with %d containers of the agent whose --state-dir is %s; allowed: that --state-dir, or another --run-dir",
				c.runDir, len(containers), other)
		}
	}
	if err := durable.Replace(file, []byte(c.stateDir+"\n"), durable.Options{}); err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	return nil
}
