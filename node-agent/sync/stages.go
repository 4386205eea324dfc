// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/unixsignal"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// attempt is one try to make a container and start it.
type attempt struct {
	s   *Syncer
	w   *worker
	in  Input
	b   *v1alpha1.OCIBundle
	rec *Record
	dir bundle.Dir

	image       *Image
	rootfs      string // in place of an image
	undoVolumes func() error
}

// stage is one step of making a container. What undo undoes is what do did in the same attempt; it is called when do succeeded
// and a later stage failed.
type stage struct {
	name   string
	reason string // of the condition when it fails
	prefix string // of its errors, where they do not say themselves what was done
	do     func(*attempt, context.Context) error
	undo   func(*attempt, context.Context) error
}

// stages in the order in which they are done; they are undone in the opposite one.
func stages() []stage {
	return []stage{
		{"handler", v1alpha1.ReasonHandlerNotFound, "handler: ", (*attempt).checkHandler, nil},
		{"image", v1alpha1.ReasonImagePullFailed, "", (*attempt).ensureImage, nil},
		{"root", v1alpha1.ReasonCreateFailed, "config: ", (*attempt).checkRootfs, nil},
		{"volumes", v1alpha1.ReasonCreateFailed, "", (*attempt).prepareVolumes, (*attempt).removeVolumes},
		{"rootfs", v1alpha1.ReasonCreateFailed, "", (*attempt).mountRootfs, (*attempt).unmountRootfs},
		{"config", v1alpha1.ReasonCreateFailed, "config: ", (*attempt).writeConfig, nil},
		{"create", v1alpha1.ReasonCreateFailed, "", (*attempt).create, (*attempt).delete},
		{"start", v1alpha1.ReasonCreateFailed, "", (*attempt).start, nil},
	}
}

// make tries to make the container of a bundle and to start it. What the container or its bundle is at fault for goes into the record,
// with a back-off; the returned error is the node's.
func (s *Syncer) make(ctx context.Context, w *worker, in Input) error {
	a := &attempt{s: s, w: w, in: in, b: in.Desired}
	if err := a.begin(); err != nil {
		return err
	}
	list := stages()
	for i, st := range list {
		err := st.do(a, ctx)
		if err == nil {
			continue
		}
		if outcomeUnknown(err) {
			// The container may be there, and its program may run: nothing of it is undone. The next look finds out.
			return err
		}
		// Undoing must not be cut off by the end of the agent.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		for _, done := range slices.Backward(list[:i]) {
			if done.undo == nil {
				continue
			}
			if uerr := done.undo(a, clean); uerr != nil {
				// What was done before it may still be in use. The record says that a start is under way, and so the next look
				// discards what is left.
				return errors.Join(err, fmt.Errorf("undo %s: %w", done.name, uerr))
			}
		}
		if ctx.Err() != nil || errors.Is(err, errSuperseded) {
			s.note(a.rec, (*Record).interrupted)
			return err
		}
		s.failed(w, a.rec, st.name, failure{
			Reason: st.reason, Message: st.prefix + err.Error(), Rootfs: errors.As(err, new(*rootfsError)), AfterRootfs: a.rootfs != "" && st.name != "root",
		})
		return nil
	}
	return nil
}

// failed notes a start that failed, all of which has been undone.
func (s *Syncer) failed(w *worker, rec *Record, stage string, f failure) {
	s.Log.Warn("cannot start the container", "container", w.key.String(), "stage", stage, "error", f.Message)
	s.note(rec, func(r *Record) {
		r.unstart()
		r.Failure = &f
		r.BackOff = r.BackOff.afterFailure(s.BootClock())
	})
}

// outcomeUnknown returns whether what the supervisor was asked for may have been done, or may be done yet, although it failed. A
// supervisor that is ending has done nothing, but the container is not at fault either. A container that exists already is one of
// this agent's whose creation had an unknown outcome: a run directory belongs to one agent.
func outcomeUnknown(err error) bool {
	return errors.Is(err, protocol.ErrUnknownOutcome) || errors.Is(err, protocol.ErrStopping) || errors.Is(err, protocol.ErrExist)
}

// start starts a container that was made by an earlier attempt.
func (s *Syncer) start(ctx context.Context, w *worker, in Input) error {
	err := s.Supervisor.Start(ctx, in.Record.ID)
	switch {
	case err == nil:
		return nil // the next look notes that it runs
	case outcomeUnknown(err), errors.Is(err, protocol.ErrNotExist), errors.Is(err, protocol.ErrNotCreated):
		return err
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if derr := s.discard(clean, in.Record); derr != nil {
		return errors.Join(err, derr)
	}
	s.failed(w, in.Record, "start", failure{Reason: v1alpha1.ReasonCreateFailed, Message: err.Error(), AfterRootfs: true})
	return nil
}

// begin writes down that a container is about to be made.
func (a *attempt) begin() (err error) {
	s, in := a.s, a.in
	if in.Record == nil {
		key := a.w.key
		id := ContainerID(key, a.b.UID)
		if err := protocol.ValidateID(id); err != nil {
			return err
		}
		a.rec = &Record{Key: key, UID: a.b.UID, ID: id}
	} else {
		a.rec = in.Record
	}
	s.mu.Lock()
	holder, held := s.byID[a.rec.ID]
	s.mu.Unlock()
	if held && holder != a.w.key {
		return fmt.Errorf("the id %s is still that of a container which is being removed", a.rec.ID)
	}
	a.dir = s.Bundles.Dir(a.rec.ID)
	if err := a.dir.Make(); err != nil {
		return err
	}
	defer func() {
		if err != nil && in.Record == nil { // or a folder would stay that no record speaks of
			err = errors.Join(err, a.dir.Remove())
		}
	}()
	if a.rec.Generation != a.b.Generation || in.Record == nil {
		if err := writeDesired(a.dir, a.b, bundle.Dir.Replace); err != nil {
			return err
		}
	}
	err = s.update(a.rec, func(r *Record) {
		if r.Hash != in.Hash || in.toldToRestart() {
			r.BackOff, r.Failure = backOff{}, nil
		}
		before := r.run
		r.Before, r.run = &before, before.next()
		r.State, r.Stop, r.Compiled = stateStarting, nil, a.b.Spec.CompiledGeneration
		r.LogPath = filepath.Join(s.logDir(r), strconv.Itoa(int(r.Restarts))+".log")
		r.Hash, r.Generation, r.GraceSeconds = in.Hash, a.b.Generation, a.b.Spec.TerminationGracePeriodSeconds
		r.Restart = a.b.Annotations[source.AnnotationRestart]
	})
	if err != nil {
		return err
	}
	if in.Record == nil {
		a.w.records = append(a.w.records, a.rec)
		s.mu.Lock()
		s.byID[a.rec.ID] = a.w.key
		s.mu.Unlock()
	}
	return nil
}

func (a *attempt) handler() string {
	if a.b.Spec.Handler == "" {
		return v1alpha1.HandlerNative
	}
	return a.b.Spec.Handler
}

func (a *attempt) checkHandler(context.Context) error {
	have := a.s.Handlers()
	if slices.Contains(have, a.handler()) {
		return nil
	}
	return fmt.Errorf("found %q, which this node has not; allowed: %s", a.handler(), strings.Join(have, ", "))
}

const (
	// slow is how long a pull may take before it is worth a status of its own. Each further one takes twice as long to come, up
	// to slowest.
	slow    = time.Second
	slowest = 30 * time.Second
)

func (a *attempt) ensureImage(ctx context.Context) error {
	if a.b.Spec.Image == nil {
		return nil
	}
	reference := a.b.Spec.Image.Reference
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.s.mu.Lock()
	a.w.pulling, a.w.pullFor = cancel, pullIdentity(a.b)
	a.s.mu.Unlock()
	defer func() {
		a.s.mu.Lock()
		a.w.pulling = nil
		a.s.mu.Unlock()
	}()
	if a.s.superseded(a.w.key, pullIdentity(a.b)) { // before the line above could tell
		return errSuperseded
	}

	done := make(chan error, 1)
	go func() {
		var err error
		a.image, err = a.s.Images.Ensure(ctx, reference, a.b.Spec.Image.PullPolicy)
		done <- err
	}()
	begun := a.s.Clock.Now()
	err, waited := a.await(ctx, reference, done)
	if waited {
		if err == nil {
			a.s.Log.Info("the image is on the node", "container", a.w.key.String(), "image", reference, "after", a.s.Clock.Since(begun).Round(time.Millisecond).String())
		}
		if now := a.s.Source.Get(a.w.key); now != nil && now.Generation != a.b.Generation {
			return errSuperseded
		}
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errSuperseded) {
			return errSuperseded
		}
		return err // which names the image
	}
	if sig := a.image.Config.StopSignal; sig != "" {
		if _, err := unixsignal.Parse(sig); err != nil {
			return fmt.Errorf("%s: StopSignal of the image's config: %w", reference, err)
		}
	}
	a.rec.ImageID, a.rec.StopSignal = a.image.ID, a.image.Config.StopSignal
	return nil
}

// await waits for the end of a pull, and reports how far it is now and then. waited is false if it was over before that was worth while.
func (a *attempt) await(ctx context.Context, reference string, done <-chan error) (err error, waited bool) {
	for wait := slow; ; wait = min(2*wait, slowest) {
		select {
		case err := <-done:
			return err, waited
		case <-a.s.Clock.After(wait):
		}
		waited = true
		message := "pulling " + reference
		if a.s.Pulled != nil {
			if text := a.s.Pulled(reference); text != "" {
				message += ": " + text
			}
		}
		a.s.Log.Info(message, "container", a.w.key.String())
		in := a.in
		in.Record, in.Now = a.rec, a.s.Clock.Now()
		if err := a.s.report(ctx, a.w, in, &progress{condition: v1alpha1.ConditionImageReady, reason: v1alpha1.ReasonPulling, message: message}); err != nil {
			a.s.Log.Warn("cannot report the pull", "container", a.w.key.String(), "error", err)
		}
	}
}

func (a *attempt) prepareVolumes(context.Context) (err error) {
	a.undoVolumes, err = a.dir.PrepareVolumes(a.b.Spec.Volumes)
	return err
}

func (a *attempt) removeVolumes(context.Context) error { return a.undoVolumes() }

// rootfsError says that the root filesystem is at fault.
type rootfsError struct{ error }

func (e *rootfsError) Unwrap() error { return e.error }

// checkRootfs looks at the folder that a container without an image has for its root filesystem.
func (a *attempt) checkRootfs(context.Context) error {
	if a.b.Spec.Image != nil {
		return nil
	}
	var config struct {
		Root struct {
			Path string `json:"path"`
		} `json:"root"`
	}
	if err := unmarshal(a.b.Spec.Config.Raw, &config); err != nil {
		return err
	}
	a.rootfs = config.Root.Path
	if !filepath.IsAbs(a.rootfs) {
		return &rootfsError{fmt.Errorf("root.path: found %q; allowed: an absolute folder of the node, where there is no image", a.rootfs)}
	}
	info, err := os.Stat(a.rootfs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &rootfsError{fmt.Errorf("root.path: found nothing at %s on this node; allowed: a folder", a.rootfs)}
	case err != nil:
		return &rootfsError{fmt.Errorf("root.path: %w", err)}
	case !info.IsDir():
		return &rootfsError{fmt.Errorf("root.path: found a file at %s; allowed: a folder", a.rootfs)}
	}
	return nil
}

func (a *attempt) mountRootfs(context.Context) error {
	if a.image != nil {
		return a.dir.MountRootfs(a.image.Layers)
	}
	return nil
}

func (a *attempt) unmountRootfs(context.Context) error { return a.dir.UnmountRootfs() }

func (a *attempt) writeConfig(context.Context) error {
	spec := &a.b.Spec
	rootfs := a.dir.Rootfs()
	options := bundle.MergeOptions{CgroupsPath: path.Join(a.s.CgroupParent, a.rec.ID), NoSwapLimit: !bundle.SwapLimit(os.DirFS("/"))}
	if a.image == nil {
		rootfs = a.rootfs
	}
	var err error
	if options.Accounts, err = bundle.ReadAccounts(rootfs); err != nil {
		return err
	}
	var merged *specs.Spec
	if a.image != nil {
		merged, err = bundle.Merge(spec, &a.image.Config, options)
	} else {
		merged, err = bundle.Merge(spec, nil, options)
	}
	if err != nil {
		return err
	}
	if err := a.dir.MountNames(merged, rootfs, a.b.Name, os.DirFS("/")); err != nil {
		return err
	}
	// The agent trusts nobody: neither who compiled the config, nor the image that was merged into it.
	vo := validate.Options{Bundle: a.dir.Path()}
	if err := validate.Spec(merged, vo).Err(); err != nil {
		return err
	}
	if err := validate.OnHost(merged, os.DirFS("/"), vo).Err(); err != nil {
		return err
	}
	return a.dir.WriteConfig(merged)
}

func (a *attempt) create(ctx context.Context) error {
	select {
	case a.s.making <- struct{}{}:
		defer func() { <-a.s.making }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := os.MkdirAll(a.s.logDir(a.rec), 0o700); err != nil {
		return fmt.Errorf("make folder of logs: %w", err)
	}
	if err := a.s.dropLogs(a.rec); err != nil {
		return fmt.Errorf("remove old logs: %w", err)
	}
	// Another agent may have to start it, or to stop it: it has to know the image and its stop signal.
	if err := a.s.update(a.rec, func(*Record) {}); err != nil {
		return err
	}
	// The supervisor keeps no container that it could not create.
	_, err := a.s.Supervisor.Create(ctx, protocol.CreateRequest{
		ID: a.rec.ID, Bundle: a.dir.Path(), Handler: a.handler(),
		Log: protocol.Log{Path: a.rec.LogPath, MaxBytes: a.s.LogMaxBytes},
	})
	return err
}

func (a *attempt) delete(ctx context.Context) error {
	return ignoreGone(a.s.Supervisor.Delete(ctx, a.rec.ID, true))
}

func (a *attempt) start(ctx context.Context) error {
	if err := a.s.Supervisor.Start(ctx, a.rec.ID); err != nil {
		return err
	}
	st, err := a.s.Supervisor.Get(ctx, a.rec.ID)
	if err != nil {
		// It runs, or has run: the next look finds out which.
		a.s.Log.Warn("cannot look at the container that was started", "container", a.w.key.String(), "error", err)
		return nil
	}
	if st.StartedAt.IsZero() {
		st.StartedAt = a.s.Clock.Now()
	}
	a.s.note(a.rec, func(r *Record) { noteRunning(r, &st) })
	return nil
}
