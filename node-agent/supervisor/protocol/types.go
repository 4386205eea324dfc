// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/node-agent/boottime"
)

// State is the state of a container, in the words of the OCI runtime spec ("State", status).
type State string

// The states of a container. Each can be followed only by a later one.
const (
	// Creating: the handler has been asked to create it and has not answered.
	Creating State = "creating"
	// Created: the container's process exists and waits for Start.
	Created State = "created"
	// Running: the user's program has been started and has not ended.
	Running State = "running"
	// Stopped: the process has ended (or was never made, see Status.Reason). The container stays
	// known until Delete.
	Stopped State = "stopped"
)

// CreateRequest says which container to make.
type CreateRequest struct {
	// ID names the container on this node: see containerid.CheckSupervised.
	ID string `json:"id"`
	// Bundle is the absolute path of the OCI bundle, a directory that holds config.json.
	Bundle string `json:"bundle"`
	// Handler is the name of the handler that runs it; empty means the native runtime.
	Handler string `json:"handler,omitempty"`
	// Log says where standard output and error go. With an empty Path they are read and thrown
	// away.
	Log Log `json:"log"`
}

// UpdateRequest says which limits of a container to change.
type UpdateRequest struct {
	// To has the new values; what it does not name stays. It may be nil if Log is set.
	To *specs.LinuxResources `json:"to,omitempty"`
	// Before has the values of the same fields that hold now. They get them back if one of the new
	// ones is refused.
	Before *specs.LinuxResources `json:"before,omitempty"`
	// Log has the new limits of the log; nil if they stay.
	Log *LogLimits `json:"log,omitempty"`
}

// Log is a container's log file, in the CRI format ("TIMESTAMP stdout|stderr F|P TEXT", one entry a
// line), and how it is rotated.
type Log struct {
	// Path is the absolute path of the file that is written to. Older ones are Path.1 (newest),
	// Path.2, and so on.
	Path string `json:"path,omitempty"`
	LogLimits
}

// LogLimits bound the log files of a container.
type LogLimits struct {
	// MaxBytes is the size in bytes at which the file is rotated; 0 means never. A single entry is
	// at most 16 KiB of text and is never split, so the least that is allowed is MinLogBytes.
	MaxBytes int64 `json:"maxBytes,omitempty"`
	// MaxFiles is the number of files that are kept, the current one included; at least 2 when
	// MaxBytes is set. 0 means DefaultLogFiles.
	MaxFiles int `json:"maxFiles,omitempty"`
}

const (
	// MinLogBytes is the smallest Log.MaxBytes: it holds at least one entry of the longest kind (16
	// KiB of text and its header).
	MinLogBytes = 32 << 10
	// DefaultLogFiles is used for Log.MaxFiles 0, and is the kubelet's default of
	// containerLogMaxFiles.
	DefaultLogFiles = 5
	// maxLogFiles is the greatest number of log files: each is renamed at a rotation.
	maxLogFiles = 1000
)

// Status is the supervisor's view of a container.
type Status struct {
	ID      string `json:"id"`
	Bundle  string `json:"bundle"`
	Handler string `json:"handler"`
	// PID is the process id of the container's first process in the pid namespace of the
	// supervisor; 0 before it exists. It keeps its value after the process has ended, and may then
	// belong to another process.
	PID   int   `json:"pid,omitempty"`
	State State `json:"state"`

	CreatedAt  time.Time `json:"createdAt"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	// StartedInstant and FinishedInstant are the same moments as durations are measured from:
	// setting the node's clock does not change the time between them. The zero value is unknown.
	StartedInstant  boottime.Instant `json:"startedInstant,omitzero"`
	FinishedInstant boottime.Instant `json:"finishedInstant,omitzero"`

	// ExitCode is set when State is Stopped and the exit status is known: the code of exit(2), or
	// 128 plus the signal's number as shells have it. It is nil when nobody can know it any more;
	// Reason then says why.
	ExitCode *int `json:"exitCode,omitempty"`
	// Signal is the number of the signal that ended the process, 0 if it exited by itself.
	Signal int `json:"signal,omitempty"`
	// OOMKilled is true when the kernel has killed the first process for lack of memory. One that
	// ends because another process was killed ends in its own way; that shows in OOMKills.
	OOMKilled bool `json:"oomKilled,omitempty"`
	// OOMKills counts the processes of the container, the first included, that the kernel has
	// killed for lack of memory.
	OOMKills uint64 `json:"oomKills,omitempty"`
	// Reason is for people: why ExitCode is unknown, or why the container never ran.
	Reason string `json:"reason,omitempty"`

	// LogPath is Log.Path of the request.
	LogPath string `json:"logPath,omitempty"`
	// LogLost counts the log entries that could not be written (a full disk, say). The container is
	// neither blocked nor killed for that.
	LogLost uint64 `json:"logLost,omitempty"`
	// LogError is the last error of writing or rotating the log; empty again once an entry has been
	// written.
	LogError string `json:"logError,omitempty"`
}

// Event is one change that Watch reports.
type Event struct {
	Status Status `json:"status"`
	// Deleted is true when the container is no longer known; only Status.ID is set then.
	Deleted bool `json:"deleted,omitempty"`
}

// Validate checks everything about the request that needs no I/O, and fills in the defaults.
func (r *CreateRequest) Validate() error {
	if err := containerid.CheckSupervised(r.ID); err != nil {
		return err
	}
	if !filepath.IsAbs(r.Bundle) {
		return fmt.Errorf("bundle: found %q; allowed: an absolute path", r.Bundle)
	}
	if r.Log.Path == "" {
		if r.Log.MaxBytes != 0 || r.Log.MaxFiles != 0 {
			return fmt.Errorf(
				"log.path: found an empty string; allowed: an absolute path when log.maxBytes or log.maxFiles is set")
		}
		return nil
	}
	if !filepath.IsAbs(r.Log.Path) {
		return fmt.Errorf("log.path: found %q; allowed: an absolute path", r.Log.Path)
	}
	return r.Log.LogLimits.validate()
}

// Validate checks everything about the request that needs no I/O, and fills in the defaults.
func (r *UpdateRequest) Validate() error {
	switch {
	case r.Log != nil:
		return r.Log.validate()
	case r.To == nil:
		return errors.New("update: found nothing; allowed: limits")
	}
	return nil
}

func (l *LogLimits) validate() error {
	if l.MaxBytes != 0 && l.MaxBytes < MinLogBytes {
		return fmt.Errorf("log.maxBytes: found %d; allowed: 0 (no rotation) or at least %d", l.MaxBytes,
			MinLogBytes)
	}
	if l.MaxFiles == 0 {
		l.MaxFiles = DefaultLogFiles
	}
	if l.MaxFiles < 2 || l.MaxFiles > maxLogFiles {
		return fmt.Errorf("log.maxFiles: found %d; allowed: 2 to %d", l.MaxFiles, maxLogFiles)
	}
	return nil
}
