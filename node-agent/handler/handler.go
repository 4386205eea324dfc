// SPDX-License-Identifier: Apache-2.0

// Package handler chooses what runs a container: the native runtime in this process, or any program
// with runc's command line. It knows ids, bundles and processes. It must not know who keeps the
// container's logs and exit code (that is the supervisor), nor what a Container of Kubernetes is.
package handler

import (
	"context"
	"errors"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime"
)

// Errors that every handler reports in the same way, whatever the words of the program behind it.
// The text of the error that wraps them is the handler's own.
var (
	// ErrNotExist: the handler knows no container of that id.
	ErrNotExist = ociruntime.ErrNotExist
	// ErrExist: the handler has a container of that id already.
	ErrExist = ociruntime.ErrExist
	// ErrNotRunning: the container's first process has ended.
	ErrNotRunning = ociruntime.ErrNotRunning
	// ErrCutOff: the call of a program was cut off, so that it is not known how far it came.
	ErrCutOff = errors.New("cut off")
	// ErrNotUndone: a create has failed, and what it may have left behind could not be removed.
	// Delete with force removes it. External alone reports it: Native forgets the container, and warns
	// of what it could not remove.
	ErrNotUndone = errors.New("not undone")
)

// Stdio is the standard input, output and error of a container's first process. The caller keeps
// the files and closes them after Create; a nil file is /dev/null.
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
}

// Handler runs containers on behalf of one long-lived process, which is a child subreaper
// (prctl(2), PR_SET_CHILD_SUBREAPER) and becomes the parent of each container's first process. The
// handler never collects that process's exit status once Create has returned its pid: that is the
// caller's.
//
// What may be asked again, after an error or after the caller itself was killed half way:
//
//   - Create is not idempotent: a second one of the same id fails with ErrExist. One that fails
//     leaves nothing behind, or reports ErrNotUndone; that, and one that was cut off by the death
//     of the caller, is cleared by Delete with force.
//   - Start works once. A second one fails and changes nothing.
//   - State reads only.
//   - Kill may be repeated; once the process has ended it fails with ErrNotRunning.
//   - Update may be repeated with the same limits. One that fails leaves the limits as they were.
//   - Delete may be repeated until it succeeds or fails with ErrNotExist; the two mean the same to
//     one who wants the container gone. Without force it refuses a container whose process lives.
//     With force it kills first.
//
// A call whose context ends returns soon after. Whether it has done its work is not known then.
//
// Calls for different ids may be made at the same time; calls for one id must not.
type Handler interface {
	// Create creates the container of the bundle (an absolute path), up to the point where its
	// process waits for Start, and returns that process's pid as the calling process sees it.
	Create(ctx context.Context, id, bundle string, stdio Stdio) (pid int, err error)
	// Start lets the user's program run.
	Start(ctx context.Context, id string) error
	// State is the container's state in the words of the runtime-spec.
	State(ctx context.Context, id string) (*specs.State, error)
	// Kill sends a signal to the first process, or with all to every process of the container.
	Kill(ctx context.Context, id string, sig unix.Signal, all bool) error
	// Update changes limits of a container whose process has not ended; what to does not name
	// stays. before has the values of the same fields that hold now, which they get back if one of
	// the new ones is refused.
	Update(ctx context.Context, id string, to, before *specs.LinuxResources) error
	// Delete removes everything that Create has created.
	Delete(ctx context.Context, id string, force bool) error
	// Features returns the handler's features (runtime-spec, features.md).
	Features(ctx context.Context) (*features.Features, error)
}
