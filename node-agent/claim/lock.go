// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/berth-run/berth/internal/durable"
)

// lockFile is the file of a directory that an agent locks.
const lockFile = "agent.lock"

// StateDir locks a state directory. The lock goes with the returned file, and with the process
// however it ends.
func StateDir(ctx context.Context, dir string) (*os.File, error) {
	return lock(ctx, "--state-dir", dir)
}

// AgentRuns reports whether an agent holds the lock of a state directory.
func AgentRuns(stateDir string) bool {
	return durable.Locked(filepath.Join(stateDir, lockFile))
}

// lock keeps a second agent away from a directory.
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
