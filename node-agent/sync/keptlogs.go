// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/node-agent/source"
)

// Retention says how long the logs of removed containers are kept.
type Retention struct {
	// Count is for how many of them; 0 keeps none.
	Count int
	// Age is for how long after the removal; 0 is without end.
	Age time.Duration
}

// removedLogs is the directory in LogDir that holds the log directories of removed containers. The time of their removal is the time
// of modification of each.
const removedLogs = "removed"

// keepLogs moves the logs of a container that is being removed to where they are kept, which takes no space on the disk.
func (s *Syncer) keepLogs(r *Record) error {
	from := s.logDir(r)
	empty, err := isEmpty(from)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case empty || s.KeepLogs.Count <= 0:
		return os.RemoveAll(from)
	}
	to := filepath.Join(s.LogDir, removedLogs, filepath.Base(from))
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
		s.Log.Warn("cannot keep the logs of a removed container", "container", r.Key.String(), "error", err)
		return os.RemoveAll(from)
	}
	now := s.Clock.Now()
	if err := os.Chtimes(to, now, now); err != nil {
		s.Log.Warn("cannot note when the logs became those of a removed container", "logs", to, "error", err)
	}
	s.Log.Info("the container is removed; its logs are kept", "container", r.Key.String(), "logs", to)
	return s.pruneLogs()
}

// isEmpty tells whether a directory has nothing in it.
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

// pruneLogs removes the logs of removed containers that are over the retention.
func (s *Syncer) pruneLogs() error {
	s.pruning.Lock()
	defer s.pruning.Unlock()
	kept, err := keptLogDirs(s.LogDir)
	if err != nil {
		return err
	}
	now := s.Clock.Now()
	for i, k := range kept {
		if i < s.KeepLogs.Count && (s.KeepLogs.Age == 0 || now.Sub(k.removed) < s.KeepLogs.Age) {
			continue
		}
		if err := os.RemoveAll(k.path); err != nil {
			return fmt.Errorf("remove old logs: %w", err)
		}
		s.Log.Info("removed the logs of a container that was removed earlier", "logs", k.path, "removedAt", k.removed)
	}
	return nil
}

// pruneLogsNowAndThen runs until ctx ends.
func (s *Syncer) pruneLogsNowAndThen(ctx context.Context) {
	for {
		if err := s.pruneLogs(); err != nil {
			s.Log.Warn("cannot remove the logs of containers that were removed earlier; trying again", "error", err)
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

// keptLogDirs returns the log directories of removed containers, the one that was removed last first.
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

// RemovedLogs returns the log directories of removed containers of that name, the one that was removed last first.
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
