// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"sync"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/clock"
)

// progress is work under way that is in no record.
type progress struct{ condition, reason, message string }

// reportPatience is the time that a report may take if other work is waiting.
const reportPatience = time.Second

// reporting returns the context of a report. It ends when the next step is due, or when the worker
// is to look again, though not within reportPatience: a source that does not answer must not put
// off the next start of a container, nor its SIGKILL. due is the time until the next step; 0 is
// never.
func (s *Syncer) reporting(ctx context.Context, w *worker, due time.Duration) (context.Context,
	context.CancelFunc,
) {
	ctx, cancel := context.WithCancel(ctx)
	var timers []clock.Timer
	after := func(d time.Duration) { timers = append(timers, s.Clock.AfterFunc(d, cancel)) }
	if due > 0 {
		after(max(due, reportPatience))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.endReport = sync.OnceFunc(func() { after(reportPatience) })
	if w.again {
		w.endReport()
	}
	return ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.endReport = nil
		for _, t := range timers {
			t.Stop()
		}
		cancel()
	}
}

// report reports the status to the source if it differs from the one reported last. due is the time
// until there is something else to do; 0 is never.
func (s *Syncer) report(ctx context.Context, w *worker, in Input, p *progress,
	due time.Duration,
) error {
	// Nobody reads the status of a bundle that the source does not know (yet).
	known := s.Source.Get(w.key)
	if in.Desired == nil || known == nil || known.UID != in.Desired.UID {
		return nil
	}
	// What was reported last counts as long as the source shows no newer version. A newer one may
	// hold another's words, which are no base for what is reported next, such as the time of a
	// transition.
	previous, shown := &known.Status, &known.Status
	if w.told != nil && w.toldFor == known.UID {
		previous = w.told
		if w.toldAt == known.ResourceVersion {
			shown = w.told
		}
	}
	status := Status(in, previous, p)
	if apiequality.Semantic.DeepEqual(status, shown) {
		return nil
	}
	ctx, done := s.reporting(ctx, w, due)
	defer done()
	if err := s.Source.ReportStatus(ctx, known, status); err != nil {
		return err
	}
	w.told, w.toldFor, w.toldAt = status, known.UID, known.ResourceVersion
	s.followers.Changed(w.key)
	return nil
}
