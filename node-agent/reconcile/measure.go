// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/scoped"
	"github.com/berth-run/berth/node-agent/source"
)

// overfull is an emptyDir volume on disk that holds more than its sizeLimit.
type overfull struct {
	Volume string
	// Why says so, with the path of the field.
	Why string
}

// measured holds the limited volumes of a running container.
type measured struct {
	key  source.Key
	run  int32 // Record.Restarts
	dir  bundle.Dir
	spec []limited
	// next is the time of the next look, and wait the interval before it.
	next time.Time
	wait time.Duration
	over *overfull
}

// limited is an emptyDir volume on disk with a sizeLimit.
type limited struct {
	index int
	name  string
	limit resource.Quantity
}

const (
	// firstLook and looksApart are the least and the greatest time between two looks at the volumes
	// of a container. The kubelet looks every ten seconds.
	firstLook  = time.Second
	looksApart = 10 * time.Second
	// restFactor keeps the looks at one container's volumes below a twentieth of a processor.
	restFactor = 20
)

// measurer looks at volumes that have a sizeLimit, one after the other.
type measurer struct {
	mu   sync.Mutex
	of   map[string]*measured // by the id of the container
	wake chan struct{}
}

func newMeasurer() *measurer {
	return &measurer{of: map[string]*measured{}, wake: make(chan struct{}, 1)}
}

// look returns the volume of a container that holds too much, or nil, and has the volumes of a
// running container looked at from now on.
func (m *measurer) look(in *Input, dir bundle.Dir) *overfull {
	spec := limits(in)
	m.mu.Lock()
	defer m.mu.Unlock()
	id := in.Record.ID
	if len(spec) == 0 {
		delete(m.of, id)
		return nil
	}
	c := m.of[id]
	if c == nil || c.run != in.Record.Restarts {
		c = &measured{next: in.Now.Add(firstLook), wait: firstLook}
		m.of[id] = c
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
	c.key, c.run, c.dir, c.spec = in.Record.Key, in.Record.Restarts, dir, spec
	return c.over
}

// limits returns the volumes of a running container that are to be looked at.
func limits(in *Input) []limited {
	b := in.Running
	if b == nil {
		b = in.Desired
	}
	if b == nil || !in.alive() || in.Record.unreadable != nil {
		return nil
	}
	var out []limited
	for i, v := range b.Spec.Volumes {
		if v.EmptyDir != nil && v.EmptyDir.Medium == "" && v.EmptyDir.SizeLimit != nil {
			out = append(out, limited{i, v.Name, *v.EmptyDir.SizeLimit})
		}
	}
	return out
}

// measure looks at volumes until ctx ends.
func (s *Syncer) measure(ctx context.Context) {
	m := s.measurer
	for ctx.Err() == nil {
		due, wait := m.due(s.Clock.Now())
		if due == nil {
			var later <-chan time.Time
			if wait > 0 {
				later = s.Clock.After(wait)
			}
			select {
			case <-ctx.Done():
			case <-m.wake:
			case <-later:
			}
			continue
		}
		began := s.Clock.Now()
		over, err := due.over(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.Log.Error("cannot measure a volume; trying again", "container", due.key.String(), "error", err)
		}
		if m.note(due, over, s.Clock.Now(), s.Clock.Since(began)) {
			s.Changed(due.key)
		}
	}
}

// look is a look at the volumes of one container.
type look struct {
	id   string
	run  int32
	key  source.Key
	dir  bundle.Dir
	spec []limited
}

// due returns the look that is due, or the time until one is; zero if there is none.
func (m *measurer) due(now time.Time) (*look, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var wait time.Duration
	for id, c := range m.of {
		if c.over != nil {
			continue
		}
		left := c.next.Sub(now)
		if left <= 0 {
			return &look{id, c.run, c.key, c.dir, c.spec}, 0
		}
		if wait == 0 || left < wait {
			wait = left
		}
	}
	return nil, wait
}

// note notes what a look has found and how long it took. It returns whether a volume of the same
// run holds too much.
func (m *measurer) note(l *look, over *overfull, now time.Time, took time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.of[l.id]
	if c == nil || c.run != l.run {
		return false
	}
	c.over = over
	c.wait = min(2*c.wait, looksApart)
	c.next = now.Add(max(c.wait, restFactor*took))
	return over != nil
}

// over returns the first volume that holds too much, or nil. A file that is moved at that time may
// be counted twice, so what is too much is measured again.
func (l *look) over(ctx context.Context) (*overfull, error) {
	var failures []error
	for _, v := range l.spec {
		used, err := scoped.Usage(ctx, l.dir.Volume(v.name))
		if err == nil && used > v.limit.Value() {
			used, err = scoped.Usage(ctx, l.dir.Volume(v.name))
		}
		at := fmt.Sprintf("spec.volumes[%d].emptyDir.sizeLimit: ", v.index)
		switch {
		case errors.Is(err, scoped.ErrTooDeep):
			return &overfull{v.name, at + fmt.Sprintf(
				"%v in the volume %s, which cannot be measured; allowed: %s in %d levels",
				scoped.ErrTooDeep, v.name, v.limit.String(), scoped.MaxLevels)}, nil
		case errors.Is(err, fs.ErrNotExist): // the container is being removed
		case err != nil:
			failures = append(failures, err)
		case used > v.limit.Value():
			return &overfull{v.name, at + fmt.Sprintf("found %s in the volume %s; allowed: %s",
				resource.NewQuantity(used, resource.BinarySI), v.name, v.limit.String())}, nil
		}
	}
	return nil, errors.Join(failures...)
}
