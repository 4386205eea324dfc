// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/lifecycle"
)

// is reports whether the container was created from this bundle, or updated to it.
func (r *Record) is(b *v1alpha1.OCIBundle) bool {
	switch {
	case b == nil || b.UID != r.UID:
		return false
	case r.Made != 0:
		return b.Generation == r.Made
	}
	return r.Hash != "" && hashOf(b) == r.Hash // the record is of an agent that knew only this
}

// madeFrom returns the bundle that the container was made from last, or updated to; nil if that is
// not known.
func (r *Record) madeFrom(d bundle.Dir) *v1alpha1.OCIBundle {
	for _, file := range []string{runningFile, desiredFile} {
		if b := readBundle(d, file); r.is(b) {
			return b
		}
	}
	return nil
}

// keepMade keeps the bundle that the container was made from, before desired.json becomes another
// one.
func (r *Record) keepMade(d bundle.Dir) error {
	made := readDesired(d)
	if !r.is(made) || made.Generation == r.unwrittenDesired.Generation {
		return nil // running.json has it, or it is not known
	}
	return writeBundle(d, runningFile, made, bundle.Dir.ReplaceForBoot)
}

// compareRunning classifies the change from the container's own spec to the desired one. Until an
// update that was refused is to be tried again, the container goes on under its own spec.
func (in *Input) compareRunning(dir bundle.Dir, now boottime.Instant) {
	r := in.Record
	if in.Desired == nil || r.Hash == in.Hash && len(r.Updating) == 0 {
		return
	}
	running := r.madeFrom(dir)
	if running == nil {
		return
	}
	if in.Refused == "" && in.refusedUpdate() && r.Refusal.BackOff.left(defaultBackOff(), now) > 0 {
		in.keep(&running.Spec)
		in.RefusedReason, in.GoesOn = r.Refusal.Reason, true
		in.Refused = fmt.Sprintf("%s (next try after %s)", r.Refusal.Message, r.Refusal.BackOff.Waits)
		return
	}
	in.Running, in.Change = running, change.Classify(&running.Spec, &in.Desired.Spec)
}

// refusedUpdate reports whether the running container could not be updated to the desired spec.
func (in Input) refusedUpdate() bool {
	r := in.Record
	return r != nil && r.State == stateRunning && r.Refusal != nil && in.Desired != nil &&
		r.Refusal.Generation == in.Desired.Generation
}

// updateRunning gives a running container the changed values. The record names them before: if the
// agent is killed in between, the next one repeats the change, or sets the values back if that is
// desired by then.
func (s *Syncer) updateRunning(ctx context.Context, in *Input) error {
	r, set := in.Record, in.Change
	for _, path := range r.Updating {
		if !slices.Contains(set.Of(change.Live), path) {
			set.Fields = append(set.Fields, change.Field{Path: path, Kind: change.Live})
		}
	}
	if paths := slices.Concat(set.Limits(), set.Log()); len(paths) > 0 {
		if err := s.update(r, func(r *Record) { r.Updating = paths }); err != nil {
			return err
		}
		c := s.container(r)
		c.Bundle, c.Running = in.Desired, in.Running
		if err := s.stages.Update(ctx, c, set); err != nil {
			return s.refuseUpdate(in, err)
		}
	}
	s.note(r, func(r *Record) {
		r.Hash, r.Made, r.Compiled = in.Hash, r.Generation, in.Desired.Spec.CompiledGeneration
		r.Updating, r.Refusal = nil, nil
	})
	if r.unwritten == nil {
		return removeMade(s.Bundles.Dir(r.ID))
	}
	return nil // the record on disk still refers to it
}

// removeMade removes running.json.
func removeMade(d bundle.Dir) error {
	if err := os.Remove(d.File(runningFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what the container was made from: %w", err)
	}
	return nil
}

// refuseUpdate records that the container cannot get the changed values and is as it was. Any other
// error is returned.
func (s *Syncer) refuseUpdate(in *Input, err error) error {
	var fault *lifecycle.StageError
	if !errors.As(err, &fault) || fault.Class != lifecycle.ContainerFault {
		return err
	}
	s.Log.Warn("cannot update the container; it goes on as it was", "container",
		in.Record.Key.String(), "error", err)
	s.note(in.Record, func(r *Record) {
		next := &refusedUpdate{
			Generation: in.Desired.Generation, Reason: fault.Reason,
			Message: err.Error(),
		}
		if in.refusedUpdate() {
			next.BackOff = r.Refusal.BackOff
		}
		next.BackOff = next.BackOff.afterFailure(defaultBackOff(), s.BootClock())
		r.Updating, r.Refusal = nil, next
		// A job that ends with the limits of before has done its work all the same.
		r.Compiled = in.Desired.Spec.CompiledGeneration
	})
	return nil
}

// lastOffer caches how this version of Berth would compile the bundle that a worker has looked at
// last.
type lastOffer struct {
	uid        types.UID
	generation int64
	text       string
}

// of returns the fields that the source has compiled differently from the accepted spec of this
// generation, or "".
func (l *lastOffer) of(accepted, compiled *v1alpha1.OCIBundle) string {
	if l.uid != compiled.UID || l.generation != compiled.Generation {
		*l = lastOffer{uid: compiled.UID, generation: compiled.Generation}
		set := change.Classify(&accepted.Spec, &compiled.Spec)
		if fields := append(set.Of(change.Replace), set.Of(change.Live)...); len(fields) > 0 {
			slices.Sort(fields)
			l.text = fmt.Sprintf(
				"this version of Berth gives %s another value: to have that, set the annotation %s in the manifest to a new value",
				strings.Join(fields, ", "), v1alpha1.AnnotationRecompile)
		}
	}
	return l.text
}
