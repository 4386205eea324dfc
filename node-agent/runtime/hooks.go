// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxHookOutput bounds what of a hook's output is kept for an error message.
const maxHookOutput = 4 << 10

// runHooks runs hooks in the runtime's namespaces in their order, each with the container's state on its standard input;
// the first that fails ends it (config.md, POSIX-platform Hooks).
func (r *Runtime) runHooks(ctx context.Context, kind string, hooks []specs.Hook, rec *record, status specs.ContainerState) error {
	for i, h := range hooks {
		if err := runHook(ctx, h, rec, status); err != nil {
			return &hookError{fmt.Errorf("error running %s hook #%d: %w", kind, i, err)}
		}
	}
	return nil
}

// hookError is the failure of a hook that ends the container.
type hookError struct{ error }

func (e *hookError) Unwrap() error { return e.error }

// runHooksLogged runs hooks whose failure is a warning: poststop.
func (r *Runtime) runHooksLogged(ctx context.Context, kind string, hooks []specs.Hook, rec *record, status specs.ContainerState) {
	for i, h := range hooks {
		if err := runHook(ctx, h, rec, status); err != nil {
			r.warn(fmt.Sprintf("error running %s hook #%d: %v", kind, i, err))
		}
	}
}

func runHook(ctx context.Context, h specs.Hook, rec *record, status specs.ContainerState) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second, fmt.Errorf("it ran longer than its timeout of %d s", *h.Timeout))
		defer cancel()
	}
	state, err := json.Marshal(rec.ociState(status))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	// An absent env is an empty one: the runtime's own is not the hook's.
	cmd.Env = h.Env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Dir = rec.Bundle
	cmd.Stdin = bytes.NewReader(state)
	stdout, stderr := &bounded{}, &bounded{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// A hook's own children may keep its output open: do not wait for them longer than this.
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w, stdout: %s, stderr: %s", err, stdout, stderr)
	}
	return nil
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ kept []byte } // no bytes.Buffer: io.Copy would use its ReadFrom, which has no bound

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxHookOutput - len(b.kept); room > 0 {
		b.kept = append(b.kept, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (b *bounded) String() string { return string(b.kept) }
