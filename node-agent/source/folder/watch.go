// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/berth-run/berth/node-agent/source"
)

// Rescan requests another look at the folder.
func (f *Folder) Rescan() {
	select {
	case f.rescan <- struct{}{}:
	default:
	}
}

// Run is part of source.Source.
func (f *Folder) Run(ctx context.Context, events source.Events) error {
	w := &watcher{f: f, events: events, absent: absences{
		since:   map[string]time.Time{},
		removed: map[string]bool{},
	}}
	defer w.close()
	resync := time.NewTicker(f.o.Resync)
	defer resync.Stop()
	w.look()
	deadline := time.NewTimer(0)
	defer deadline.Stop()
	for {
		deadline.Reset(f.stallLate(time.Now()))
		changes, failures := w.channels()
		select {
		case <-ctx.Done():
			return nil
		case <-deadline.C:
		case <-f.reported:
		case event := <-changes:
			w.note(event)
		case err := <-failures: // such as an overflow
			f.o.Log.Warn("watching manifests", "error", err)
			w.lookSoon()
		case <-f.rescan:
			w.look()
		case <-w.next:
			w.next = nil
			w.look()
		case <-resync.C:
			w.look()
		}
	}
}

// watcher is the state of Run: the changes that it is notified of, and when it looks next.
type watcher struct {
	f      *Folder
	events source.Events
	// notify is nil until the manifests can be watched. Without it, as where the host is out of
	// inotify instances, they are looked at now and then, and it is tried again.
	notify    *fsnotify.Watcher
	next      <-chan time.Time // when to look; nil for the next resync
	changedAt time.Time        // of the first change since the last look; zero if there was none
	absent    absences
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

// channels returns the changes of watched directories, and errors; nil while none are watched.
func (w *watcher) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.notify == nil {
		return nil, nil
	}
	return w.notify.Events, w.notify.Errors
}

// start watches the directories of manifests and of requests. It is called at each look: a
// directory that was replaced is watched anew.
func (w *watcher) start() error {
	if w.notify == nil {
		notify, err := fsnotify.NewWatcher()
		if err != nil {
			return err
		}
		w.notify = notify
	}
	return errors.Join(w.notify.Add(requestsDir(w.f.o.StateDir)), w.notify.Add(w.f.o.Dir))
}

// note takes a change of a watched directory.
func (w *watcher) note(event fsnotify.Event) {
	if filepath.Dir(event.Name) == requestsDir(w.f.o.StateDir) {
		w.obey()
		return
	}
	if name := filepath.Base(event.Name); event.Name == w.f.o.Dir || isManifest(name) {
		w.absent.note(event, time.Now())
		w.lookSoon()
	}
}

// restlessLooks is the number of Settle times for which a directory that keeps changing is left
// alone.
const restlessLooks = 5

// lookSoon has the directory looked at once it has come to rest, or soon if it does not.
func (w *watcher) lookSoon() {
	now := time.Now()
	if w.changedAt.IsZero() {
		w.changedAt = now
	}
	settle := w.f.o.Settle
	w.next = time.After(min(settle, w.changedAt.Add(restlessLooks*settle).Sub(now)))
}

// obey takes the requests that there are.
func (w *watcher) obey() {
	for _, key := range w.f.obey() {
		w.events.Changed(key)
	}
}

// look takes the requests, reads the manifests and reports what has changed.
func (w *watcher) look() {
	f := w.f
	w.changedAt = time.Time{}
	w.obey()
	// Watched before it is read, so that no change falls between.
	if err := w.start(); f.noteWatch(err) {
		f.o.Log.Error("cannot watch the folder of manifests; it is looked at only now and then", "dir",
			f.o.Dir, "every", unwatchedEvery, "error", err)
	}
	if f.Watching() != nil {
		w.next = time.After(unwatchedEvery)
	}
	before := f.Synced()
	f.noteRemoved(&w.absent, time.Now())
	for _, key := range f.scan() {
		w.events.Changed(key)
	}
	if f.looksAgain() {
		w.next = time.After(f.o.Debounce)
	}
	if f.away() { // it is not watched then
		w.next = time.After(time.Second)
	}
	if !before && f.Synced() {
		w.events.Synced()
	}
}

// unwatchedEvery is the interval between looks at manifests that cannot be watched.
const unwatchedEvery = 2 * time.Second

// noteWatch notes why the manifests cannot be watched, and returns whether that is news.
func (f *Folder) noteWatch(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("watch %s: %w", f.o.Dir, err)
	}
	news := err != nil && f.watchErr == nil
	f.watchErr = err
	return news
}

// Watching returns why the manifests cannot be watched, or nil if they are. Without a watch,
// changes are seen some seconds late.
func (f *Folder) Watching() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.watchErr
}

// noteRemoved records the removals that the watch has seen, for the next look.
func (f *Folder) noteRemoved(a *absences, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.Copy(f.removed, a.removed)
	clear(a.removed)
	f.gone = f.missing(a, now)
}

// looksAgain reports whether the last look left something to the next one.
func (f *Folder) looksAgain() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.pending
}

// away reports whether the last look failed to read the folder.
func (f *Folder) away() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.dirErr != ""
}
