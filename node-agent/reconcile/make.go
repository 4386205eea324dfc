// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/source"
)

// make creates the container of a bundle and starts it, or goes on with that once its image is
// there.
func (s *Syncer) make(ctx context.Context, w *worker, in *Input) error {
	if err := s.begin(w, in); err != nil {
		return err
	}
	c := s.container(in.Record)
	c.Bundle = in.Desired
	c.Commit = func() error {
		err := s.update(in.Record, func(r *Record) {
			r.noteImages(c)
			r.Launch = s.BootClock()
		})
		c.Flushed = s.Bundles.Journal().BeginFlush()
		return err
	}
	err := s.settle(ctx, in.Record, c, s.stages.Ensure(ctx, c))
	w.started = c.Status
	return err
}

// start starts a container that was created by an earlier attempt.
func (s *Syncer) start(ctx context.Context, in *Input) error {
	c := s.container(in.Record)
	c.Bundle = in.Desired
	return s.settle(ctx, in.Record, c, s.stages.From(lifecycle.StartStage).Ensure(ctx, c))
}

// container returns the stored data from which the stages work.
func (s *Syncer) container(r *Record) *lifecycle.Container {
	return &lifecycle.Container{
		Key: r.Key, UID: r.UID, ID: r.ID, Dir: s.Bundles.Dir(r.ID), Restarts: r.Restarts,
		LogPath: r.LogPath, Emptied: r.Emptied, OwnUsers: r.OwnUsers,
		Flushed: s.Bundles.Journal().Flush,
		Took: func(stage string, took time.Duration) {
			s.Log.Debug("stage", "container", r.Key.String(), "stage", stage, "took", took.String())
		},
	}
}

// settle notes how a start went. The container's fault goes into the record, with a back-off; a
// returned error is the node's, or a *lifecycle.Pending.
func (s *Syncer) settle(ctx context.Context, r *Record, c *lifecycle.Container, err error) error {
	var pending *lifecycle.Pending
	if errors.As(err, &pending) {
		return err // the record still says that the start is under way
	}
	if r.waiting != nil && r.waiting.condition == v1alpha1.ConditionImageReady && c.Image != nil {
		s.Log.Info("the image is on the node", "container", r.Key.String(), "image", c.Image.ID,
			"after", s.Clock.Since(r.waiting.since).Round(time.Millisecond).String())
	}
	r.waiting = nil
	if err == nil {
		if c.Status != nil {
			if c.Status.StartedAt.IsZero() {
				c.Status.StartedAt = s.Clock.Now()
			}
			ips, dns := s.ips(r), s.dnsNotice(r)
			s.note(r, func(r *Record) { noteRunning(r, c.Status, ips, dns) })
		}
		return nil
	}
	var fault *lifecycle.StageError
	if !errors.As(err, &fault) || fault.Class == lifecycle.Unknown {
		// The container may be there, and its program may run: nothing of it is released. The next
		// look finds out.
		return err
	}
	if rerr := s.release(ctx, c, lifecycle.PerRun); rerr != nil {
		// What was not released may still be in use. The record says that a start is under way, and
		// so the next look discards it.
		return errors.Join(err, rerr)
	}
	if ctx.Err() != nil || fault.Class == lifecycle.NodeFault {
		s.note(r, (*Record).interrupted)
		return err
	}
	s.Log.Warn("cannot start the container",
		"container", r.Key.String(), "stage", fault.Stage, "error", err)
	s.note(r, func(r *Record) {
		r.unstart()
		r.noteImages(c)
		r.Failure = &failure{
			Reason: fault.Reason, Message: err.Error(),
			Rootfs:      fault.Stage == lifecycle.RootfsStage && c.Image == nil,
			AfterRootfs: fault.Stage == lifecycle.StartStage || c.Rootfs != "",
		}
		r.BackOff = r.BackOff.afterFailure(r.backOffLimits(c.Bundle), s.BootClock())
	})
	return nil
}

// release releases the stages of a container. The end of the agent does not interrupt it.
func (s *Syncer) release(ctx context.Context, c *lifecycle.Container, scope lifecycle.Scope) error {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return s.stages.Release(clean, c, scope)
}

// noteImages records the facts about images that a later agent needs.
func (r *Record) noteImages(c *lifecycle.Container) {
	if c.Image != nil {
		r.ImageID, r.StopSignal = c.Image.ID, c.Image.Config.StopSignal
	}
	if c.VolumeImages == nil {
		return
	}
	r.VolumeImages = nil
	for _, v := range c.Bundle.Spec.Volumes {
		if i := c.VolumeImages[v.Name]; i != nil {
			r.VolumeImages = append(r.VolumeImages, v1alpha1.VolumeImage{Name: v.Name, ImageID: i.ID})
		}
	}
}

// begin writes down that a container is about to be made. A start that waits for its image has
// begun already; only a change of what is wanted is written down then.
func (s *Syncer) begin(w *worker, in *Input) (err error) {
	rec, b := in.Record, in.Desired
	first := rec == nil
	if first {
		rec = &Record{Key: w.key, UID: b.UID, ID: lifecycle.ContainerID(w.key, b.UID)}
		if err := containerid.CheckSupervised(rec.ID); err != nil {
			return err
		}
	}
	if rec.waiting != nil && rec.Hash == in.Hash && !in.toldToRestart() {
		return nil
	}
	s.mu.Lock()
	holder, held := s.byID[rec.ID]
	s.mu.Unlock()
	if held && holder != w.key {
		return fmt.Errorf("the id %s is still that of a container which is being removed", rec.ID)
	}
	dir := s.Bundles.Dir(rec.ID)
	if err := dir.Make(); err != nil {
		return err
	}
	defer func() {
		if err != nil && first { // or a directory would stay that no record speaks of
			err = errors.Join(err, dir.Remove())
		}
	}()
	generation := b.Generation
	if in.GoesOn {
		generation = rec.Generation // what is desired is not accepted
	}
	if rec.Generation != generation || first {
		if err := writeDesired(dir, b, bundle.Dir.Replace); err != nil {
			return err
		}
	}
	anew, defaults := in.changed() || in.toldToRestart(), in.takesDefaults()
	err = s.update(rec, func(r *Record) {
		if anew {
			r.Failure = nil
			if r.Interrupted != in.Hash || in.toldToRestart() {
				r.BackOff = backOff{}
			}
		}
		if defaults {
			r.OwnUsers = s.OwnUsers
		}
		r.Interrupted = ""
		if r.waiting == nil {
			before := r.run
			r.Before, r.run = &before, before.next()
		}
		r.State, r.Launch, r.Stop, r.Compiled = stateStarting, boottime.Instant{}, nil,
			b.Spec.CompiledGeneration
		r.LogPath = lifecycle.LogFile(s.logs.Of(r.Key, r.UID), r.Restarts)
		r.Hash, r.Made, r.Generation, r.GraceSeconds = in.Hash, generation, generation,
			b.Spec.TerminationGracePeriodSeconds
		r.Updating, r.Refusal = nil, nil
		r.Restart = b.Annotations[source.AnnotationRestart]
	})
	if err != nil {
		return err
	}
	in.Record = rec
	s.take(w, rec)
	return nil
}

const (
	// slow is the time after which a pull is reported in the status. Each further report waits
	// twice as long, up to slowest.
	slow    = time.Second
	slowest = 30 * time.Second
)

// waiting is a start that waits for its image, or for an object that it refers to.
type waiting struct {
	since time.Time
	// condition and message are the Pending's.
	condition, message string
	// next is the time of the next status report, and wait the interval before it.
	next time.Time
	wait time.Duration
}

// await reports the progress of a waiting start now and then, and returns the time after which to
// look again.
func (s *Syncer) await(
	ctx context.Context, w *worker, in Input, p *lifecycle.Pending,
) time.Duration {
	now := s.Clock.Now()
	wait := in.Record.waiting
	// The progress of a pull changes all the time.
	if wait == nil || wait.condition != p.Condition ||
		p.Condition != v1alpha1.ConditionImageReady && wait.message != p.Message {
		wait = &waiting{
			since: now, next: now.Add(slow), wait: slow, condition: p.Condition, message: p.Message,
		}
		in.Record.waiting = wait
		if p.Condition != v1alpha1.ConditionImageReady { // which ends soon, as a rule
			wait.next = now
		}
	}
	if !now.Before(wait.next) {
		s.Log.Info(p.Message, "container", w.key.String())
		in.Now = now
		far := &progress{condition: p.Condition, reason: p.Reason, message: p.Message}
		if err := s.report(ctx, w, in, far, 0); err != nil {
			s.Log.Warn("cannot report what a start waits for", "container", w.key.String(), "error", err)
		}
		wait.wait = min(2*wait.wait, slowest)
		wait.next = now.Add(wait.wait)
	}
	// Never zero, and not for ever if the clock was set back.
	return min(max(wait.next.Sub(now), time.Millisecond), slowest)
}
