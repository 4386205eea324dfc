// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/berth-run/berth/node-agent/source"
)

// Retention says how long the logs of removed containers are kept.
type Retention struct {
	// Count is for how many of them; 0 keeps none.
	Count int
	// Age is for how long after the removal; 0 is without end.
	Age time.Duration
}

// removedLogs is the directory in LogDir that holds the log directories of removed containers. The
// time of their removal is the time of modification of each.
const removedLogs = "removed"

// Logs are the log files of the node's containers.
type Logs struct {
	// Dir holds the directory of logs of each container; absolute.
	Dir string
	// Keep says how long the logs of removed containers are kept.
	Keep  Retention
	Clock clock.Clock
	Log   *slog.Logger

	pruning sync.Mutex // one at a time removes old logs
}

// Of returns the directory of logs of a container.
func (l *Logs) Of(key source.Key, uid types.UID) string {
	return filepath.Join(l.Dir, LogDirName(key, uid))
}

// logsStage makes the directory of logs, in which the supervisor creates the log of the run.
type logsStage struct{ logs *Logs }

func (logsStage) Name() string { return "logs" }
func (logsStage) Scope() Scope { return PerContainer }

func (s logsStage) Ensure(_ context.Context, c *Container) error {
	dir := s.logs.Of(c.Key, c.UID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ownFiles(fmt.Errorf("make directory of logs: %w", err))
	}
	if err := dropLogs(dir, c.Restarts-keptRuns); err != nil {
		return ownFiles(fmt.Errorf("remove old logs: %w", err))
	}
	return nil
}

// Release moves the logs to where those of removed containers are kept. The logs of nobody knows
// whom are left alone.
func (s logsStage) Release(_ context.Context, c *Container) error {
	if c.UID == "" {
		return nil
	}
	return s.logs.remove(c)
}

// keptRuns is the number of runs whose log files are kept: this one's and the last one's, as the
// kubelet keeps them.
const keptRuns = 2

// dropLogs removes the log files of the runs up to last, with their rotated parts.
func dropLogs(dir string, last int32) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if run, ok := runOf(e.Name()); ok && run <= last {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove moves the logs of a container that is being removed to where they are kept, which takes no
// space on the disk.
func (l *Logs) remove(c *Container) error {
	from := l.Of(c.Key, c.UID)
	empty, err := isEmpty(from)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case empty || l.Keep.Count <= 0:
		return os.RemoveAll(from)
	}
	to := filepath.Join(l.Dir, removedLogs, filepath.Base(from))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o700)
	}
	if err == nil {
		err = os.RemoveAll(to)
	}
	if err == nil {
		err = os.Rename(from, to)
	}
	if err != nil {
		l.Log.Warn("cannot keep the logs of a removed container", "container", c.Key.String(),
			"error", err)
		return os.RemoveAll(from)
	}
	now := l.Clock.Now()
	if err := os.Chtimes(to, now, now); err != nil {
		l.Log.Warn("cannot note when the logs became those of a removed container", "logs", to,
			"error", err)
	}
	l.Log.Info("the container is removed; its logs are kept", "container", c.Key.String(), "logs", to)
	return l.Prune()
}

// isEmpty reports whether a directory has no entries.
func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if _, err = f.Readdirnames(1); errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// Prune removes the logs of removed containers that are over the retention.
func (l *Logs) Prune() error {
	l.pruning.Lock()
	defer l.pruning.Unlock()
	kept, err := keptLogDirs(l.Dir)
	if err != nil {
		return err
	}
	now := l.Clock.Now()
	for i, k := range kept {
		if i < l.Keep.Count && (l.Keep.Age == 0 || now.Sub(k.removed) < l.Keep.Age) {
			continue
		}
		if err := os.RemoveAll(k.path); err != nil {
			return fmt.Errorf("remove old logs: %w", err)
		}
		l.Log.Info("removed the logs of a container that was removed earlier", "logs", k.path,
			"removedAt", k.removed)
	}
	return nil
}

// PruneNowAndThen runs until ctx ends.
func (l *Logs) PruneNowAndThen(ctx context.Context) {
	for {
		if err := l.Prune(); err != nil {
			l.Log.Warn("cannot remove the logs of containers that were removed earlier; trying again",
				"error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Minute):
		}
	}
}

type keptLogDir struct {
	path    string
	removed time.Time
}

// keptLogDirs returns the log directories of removed containers, the one that was removed last
// first.
func keptLogDirs(logDir string) ([]keptLogDir, error) {
	entries, err := os.ReadDir(filepath.Join(logDir, removedLogs))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("logs of removed containers: %w", err)
	}
	var out []keptLogDir
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // removed since
		}
		out = append(out, keptLogDir{filepath.Join(logDir, removedLogs, e.Name()), info.ModTime()})
	}
	slices.SortFunc(out, func(a, b keptLogDir) int {
		if c := b.removed.Compare(a.removed); c != 0 {
			return c
		}
		return strings.Compare(a.path, b.path)
	})
	return out, nil
}

// RemovedLogs returns the log directories of removed containers of that name, the one that was
// removed last first.
func RemovedLogs(logDir string, key source.Key) ([]string, error) {
	kept, err := keptLogDirs(logDir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, k := range kept {
		base := filepath.Base(k.path)
		uid := types.UID(base[strings.LastIndexByte(base, '_')+1:])
		if base == LogDirName(key, uid) {
			out = append(out, k.path)
		}
	}
	return out, nil
}
