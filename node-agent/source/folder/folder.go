// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/source"
)

// Options of a Folder.
type Options struct {
	// Dir holds the manifests: files that end in .yaml, .yml or .json. Folders in it and files that
	// begin with a dot are passed over.
	Dir string
	// StateDir is the agent's, where the status is written.
	StateDir string
	// Journal makes the status survive a power loss; with nil it may be lost. It is that of
	// StateDir, or of a folder above it.
	Journal *durable.Journal
	// NewBoot reports whether the status on disk was written in another boot.
	NewBoot bool
	// NodeName and NodeLabels are compared with nodeName and nodeSelector of a Container.
	NodeName   string
	NodeLabels map[string]string
	// Settle is the time to wait for more changes after one; 0 is 20 ms.
	Settle time.Duration
	// Debounce is the time for which a file must be gone until it counts as removed; 0 is 200 ms.
	Debounce time.Duration
	// Resync is the interval between looks without an event; 0 is 30 s.
	Resync time.Duration
	// Rewrite is the time for which a file must stay as it is until a document that is gone from it
	// counts as removed; 0 is 5 s.
	Rewrite time.Duration
	// Compile turns Containers into bundles; nil is compile.Bundle. Tests stand in for another
	// version of Berth by it.
	Compile Compile
	// Log receives the messages; optional.
	Log *slog.Logger
}

// Folder is a source.Source.
type Folder struct {
	o        Options
	on       node
	rescan   chan struct{}
	reported chan struct{} // a status may have a progress deadline now

	mu      sync.RWMutex
	synced  bool
	entries map[source.Key]*entry
	files   map[string]*file // by name
	// objects are the ConfigMaps and Secrets that have been accepted.
	objects map[objectKey]*object
	dirErr  string // why the folder could not be read
	// watchErr is the reason why changes of the manifests are not seen at once; nil if they are.
	watchErr error
	written  string           // what manifests.json holds
	reserve  *durable.Reserve // for the files of status
	// unwritten are Containers whose last status could not be written; true if that was a report of
	// the agent.
	unwritten map[source.Key]bool
	// unsure are Containers, with their files, that were accepted by another version of the agent
	// and are refused by this one. As long as their files are what they were, nobody may take them
	// for unwanted.
	unsure map[source.Key]string
	// unreadable are files of status that cannot be read. The UIDs in them are not known, so their
	// containers are left alone until the files are gone.
	unreadable map[string]error
	// dir is the directory of manifests as an earlier look found it.
	dir directory
	// unfinished are manifests that have changed and were being written at the last look.
	unfinished map[string]unfinished
	// gone has the missing manifests, and whether each has been missing for the debounce time; if
	// nil, all count as missing for that long.
	gone map[string]bool
	// pending reports whether the last look left something to be decided by the next one, which is
	// to come soon.
	pending bool
	// removed are the names of files that were removed since the last look, also if there is one of
	// the name again.
	removed map[string]bool
}

// entry is a Container that has been accepted, or is named by a file that is wrong. What its
// pointers point to is never changed, only replaced.
type entry struct {
	file      string
	container *v1alpha1.Container
	bundle    *v1alpha1.OCIBundle // without its config; nil: never accepted
	config    source.Document
	fault     string // what is wrong with the file now, with its name; a line for each fault
}

// copy returns an entry whose container and bundle may be changed.
func (e *entry) copy() *entry {
	out := *e
	out.container, out.bundle = e.container.DeepCopy(), e.bundle.DeepCopy()
	return &out
}

// file is a file's content at the last look.
type file struct {
	stamp stamp
	content
	sum  [sha256.Size]byte // of what it holds
	born birth
	// before is sum of the file that had this name before this one.
	before    [sha256.Size]byte
	conflicts []manifest.Fault // names that other files have, too; found at each look
	since     metav1.Time
	readAt    time.Time
}

// refusal returns all that is wrong with a file.
func (fl *file) refusal() []manifest.Fault { return slices.Concat(fl.faults, fl.conflicts) }

// text returns a refusal in words, a line for each fault.
func text(name string, faults []manifest.Fault) string {
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = Fault{File: name, Fault: f}.Error()
	}
	return strings.Join(lines, "\n")
}

// stamp identifies a version of a file by its attributes, without reading it.
type stamp struct {
	size  int64
	mtime time.Time
	ino   uint64
	ctime int64
}

var _ source.Source = (*Folder)(nil)

// New reads the Containers that an earlier agent has accepted. Run reads the manifests.
func New(o Options) (*Folder, error) {
	if o.Dir == "" || !filepath.IsAbs(o.StateDir) {
		return nil, fmt.Errorf("folder of manifests: found %q with state in %q; allowed: a folder, and an absolute one for state", o.Dir, o.StateDir)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("folder of manifests: %w", err)
	}
	o.Dir = dir
	info, err := os.Stat(o.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && readDirectory(o.StateDir).Path == o.Dir:
		// It was there: a volume may not be mounted yet. What runs goes on.
	case err != nil:
		return nil, fmt.Errorf("folder of manifests: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("folder of manifests: found a file at %s; allowed: a folder", o.Dir)
	}
	if o.Settle == 0 {
		o.Settle = 20 * time.Millisecond
	}
	if o.Debounce == 0 {
		o.Debounce = 200 * time.Millisecond
	}
	if o.Resync == 0 {
		o.Resync = 30 * time.Second
	}
	if o.Rewrite == 0 {
		o.Rewrite = 5 * time.Second
	}
	if o.Compile == nil {
		o.Compile = compile.Bundle
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if info != nil && info.Mode().Perm()&0o002 != 0 {
		o.Log.Warn("everybody may write to the folder of manifests, and so run anything as root", "dir", o.Dir)
	}
	f := &Folder{
		o: o, on: node{name: o.NodeName, labels: o.NodeLabels, bundle: o.Compile}, rescan: make(chan struct{}, 1), reported: make(chan struct{}, 1),
		entries: map[source.Key]*entry{}, files: map[string]*file{}, written: "?", unwritten: map[source.Key]bool{}, unsure: map[source.Key]string{},
		dir: readDirectory(o.StateDir), removed: map[string]bool{}, unreadable: map[string]error{},
		unfinished: map[string]unfinished{},
	}
	for _, d := range []string{statusDir(o.StateDir), requestsDir(o.StateDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create a directory of the agent: %w", err)
		}
	}
	f.reserve = durable.NewReserve(statusDir(o.StateDir))
	return f, f.restore()
}

// restore reads the accepted Containers.
func (f *Folder) restore() error {
	all, err := Read(f.o.StateDir)
	for _, bad := range unreadableIn(err) {
		f.o.Log.Error("a status cannot be read; its container is left alone until the file is removed", "file", bad.path, "error", bad.err)
		f.unreadable[bad.path] = bad.err
	}
	if err != nil && len(f.unreadable) == 0 {
		return err
	}
	for i := range all {
		c := &all[i]
		key := source.Key{Namespace: c.Namespace, Name: c.Name}
		if c.Generation == 0 { // never accepted; the first look finds whether its file still names it
			f.entries[key] = &entry{file: c.Annotations[annotationManifest], container: c, fault: "not looked at yet"}
			continue
		}
		raw, err := json.Marshal(stripped(c))
		if err != nil {
			return err
		}
		m, err := parseOne(raw, f.on)
		if err != nil {
			// A newer Berth refuses what an older one took. It runs as it is until the manifest is
			// corrected.
			f.o.Log.Error("what was accepted is refused now; it goes on unchanged", "container", key.String(), "error", err)
			f.unsure[key] = c.Annotations[annotationManifest]
			f.entries[key] = &entry{file: c.Annotations[annotationManifest], container: c, fault: err.Error()}
			continue
		}
		// A field that is newer than this status has its default now, which is no change of the
		// manifest.
		c.Spec = m.container.Spec
		if f.o.NewBoot {
			forgetProcess(c)
		}
		e := &entry{file: c.Annotations[annotationManifest], container: c, bundle: f.toBundle(c, m.spec), config: m.config}
		f.entries[key] = e
		if f.o.NewBoot {
			f.writeStatus(key, e)
		}
	}
	return nil
}

// forgetProcess marks the status of another boot as not looked at: no process of it is left, and
// the file may be older than what was reported last.
func forgetProcess(c *v1alpha1.Container) {
	st := &c.Status
	st.ObservedGeneration = -1
	if st.State.Running == nil {
		return
	}
	st.Phase, st.PID = v1alpha1.ContainerPending, 0
	const message = "the node was booted, and the agent has not looked at the container since"
	st.State = corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: v1alpha1.ReasonProgressing, Message: message},
	}
	setCondition(c, metav1.Condition{
		Type: v1alpha1.ConditionRunning, Status: metav1.ConditionUnknown,
		Reason: v1alpha1.ReasonProgressing, Message: message, ObservedGeneration: c.Generation,
	})
}

// stripped returns a Container as one would apply it.
func stripped(c *v1alpha1.Container) *v1alpha1.Container {
	out := &v1alpha1.Container{TypeMeta: c.TypeMeta, Spec: c.Spec}
	out.Name, out.Namespace, out.Labels = c.Name, c.Namespace, c.Labels
	out.Annotations = maps.Clone(c.Annotations)
	for _, a := range ownAnnotations() {
		delete(out.Annotations, a)
	}
	return out
}

// Synced is part of source.Source.
func (f *Folder) Synced() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.synced && len(f.unsure) == 0 && len(f.unreadable) == 0
}

// Get is part of source.Source.
func (f *Folder) Get(key source.Key) *v1alpha1.OCIBundle {
	f.mu.RLock()
	e := f.entries[key]
	f.mu.RUnlock()
	if e == nil || e.bundle == nil {
		return nil
	}
	return e.config.In(e.bundle)
}

// List is part of source.Source.
func (f *Folder) List() []*v1alpha1.OCIBundle {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []*v1alpha1.OCIBundle
	for _, e := range f.entries {
		if e.bundle != nil {
			out = append(out, e.bundle)
		}
	}
	return out
}

// Rescan requests another look at the folder.
func (f *Folder) Rescan() {
	select {
	case f.rescan <- struct{}{}:
	default:
	}
}

// Run is part of source.Source.
func (f *Folder) Run(ctx context.Context, events source.Events) error {
	// Without a watcher, as where the host is out of inotify instances, the manifests are looked at
	// now and then, and the watcher is tried again.
	var watcher *fsnotify.Watcher
	var watched <-chan fsnotify.Event
	var watchErrors <-chan error
	defer func() {
		if watcher != nil {
			_ = watcher.Close()
		}
	}()
	resync := time.NewTicker(f.o.Resync)
	defer resync.Stop()
	var next <-chan time.Time // look
	var changedAt time.Time   // of the first change since the last look; zero if there was none
	// changed has the directory looked at once it has come to rest, or soon if it does not.
	changed := func() {
		now := time.Now()
		if changedAt.IsZero() {
			changedAt = now
		}
		next = time.After(min(f.o.Settle, changedAt.Add(restlessLooks*f.o.Settle).Sub(now)))
	}
	absent := absences{since: map[string]time.Time{}, removed: map[string]bool{}}
	requests := requestsDir(f.o.StateDir)
	watch := func() error {
		if watcher == nil {
			w, err := fsnotify.NewWatcher()
			if err != nil {
				return err
			}
			watcher, watched, watchErrors = w, w.Events, w.Errors
		}
		// Again at each look: a directory that was replaced is watched anew.
		return errors.Join(watcher.Add(requests), watcher.Add(f.o.Dir))
	}
	obey := func() {
		for _, key := range f.obey() {
			events.Changed(key)
		}
	}
	look := func() {
		changedAt = time.Time{}
		obey()
		// Watched before it is read, so that no change falls between.
		if err := watch(); f.noteWatch(err) {
			f.o.Log.Error("cannot watch the folder of manifests; it is looked at only now and then", "dir", f.o.Dir, "every", unwatchedEvery, "error", err)
		}
		if f.Watching() != nil {
			next = time.After(unwatchedEvery)
		}
		before := f.Synced()
		f.noteRemoved(&absent, time.Now())
		for _, key := range f.scan() {
			events.Changed(key)
		}
		if f.looksAgain() {
			next = time.After(f.o.Debounce)
		}
		if f.away() { // it is not watched then
			next = time.After(time.Second)
		}
		if !before && f.Synced() {
			events.Synced()
		}
	}
	look()
	deadline := time.NewTimer(0)
	defer deadline.Stop()
	for {
		deadline.Reset(f.stallLate(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-deadline.C:
		case <-f.reported:
		case event := <-watched:
			if filepath.Dir(event.Name) == requests {
				obey()
				continue
			}
			if name := filepath.Base(event.Name); event.Name == f.o.Dir || isManifest(name) {
				absent.note(event, time.Now())
				changed()
			}
		case err := <-watchErrors: // such as an overflow
			f.o.Log.Warn("watching manifests", "error", err)
			changed()
		case <-f.rescan:
			look()
		case <-next:
			next = nil
			look()
		case <-resync.C:
			look()
		}
	}
}

// restlessLooks is the number of Settle times for which a directory that keeps changing is left
// alone.
const restlessLooks = 5

// isManifest reports whether a file of this name is read.
func isManifest(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
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

// scan reads the folder and returns the keys of the Containers that changed.
func (f *Folder) scan() []source.Key {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, err := directoryOf(f.o.Dir)
	var names []string
	if err == nil {
		names, err = f.readFiles()
	}
	if err != nil {
		// Nothing is removed on the word of a folder that cannot be read.
		if f.dirErr != err.Error() {
			f.o.Log.Error("cannot read the folder of manifests; what runs goes on", "dir", f.o.Dir, "error", err)
		}
		f.dirErr = err.Error()
		f.refresh()
		return nil
	}
	f.dirErr = ""
	claims := f.claim(names)
	f.claimObjects(names)

	maps.DeleteFunc(f.unreadable, func(path string, _ error) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	})
	changed := map[source.Key]bool{}
	there := func(name string) bool {
		_, found := slices.BinarySearch(names, name)
		return found
	}
	for name := range f.removed {
		if _, writing := f.unfinished[name]; !writing && (f.files[name] == nil || there(name)) {
			f.renew(name, changed)
			delete(f.removed, name)
		}
	}
	for _, name := range names {
		fl := f.files[name]
		if wrong := fl.refusal(); len(wrong) > 0 {
			f.noteBroken(name, text(name, wrong), claims)
			continue
		}
		for _, c := range fl.containers {
			f.accept(keyOf(c.container), name, c, changed)
		}
	}
	f.acceptObjects(names, changed)
	// Where a manifest is gone for a moment, others may be about to go: they are removed together,
	// as they may be by mistake.
	absent := false
	for _, e := range f.entries {
		absent = absent || e.bundle != nil && !there(e.file) && !f.settled(e.file)
	}
	f.pending = absent || len(f.unfinished) > 0
	var gone []source.Key
	for key, e := range f.entries {
		if _, claimed := claims[key]; claimed || absent {
			continue
		}
		if _, writing := f.unfinished[e.file]; writing {
			continue
		}
		if there(e.file) && e.bundle != nil && time.Since(f.files[e.file].readAt) < f.o.Rewrite {
			f.pending = true // the rest of the file may be yet to come
			continue
		}
		if e.bundle == nil { // named by a file that was wrong, and is gone or corrected
			delete(f.entries, key)
			if err := f.removeStatus(key); err != nil {
				f.o.Log.Error("manifest removed", "container", key.String(), "error", err)
			}
			continue
		}
		if e.bundle.DeletionTimestamp == nil && Missing(e.container) == "" {
			gone = append(gone, key)
		}
	}
	if !absent {
		f.removeGone(gone, len(names), dir, changed)
	}
	maps.DeleteFunc(f.unsure, func(key source.Key, name string) bool {
		fl, e := f.files[name], f.entries[key]
		return fl == nil || len(fl.refusal()) == 0 || e != nil && e.bundle != nil
	})
	f.synced = true
	f.refresh()
	return slices.Collect(maps.Keys(changed))
}

// readFiles reads the changed files of the folder, and returns the sorted names of all manifests.
func (f *Folder) readFiles() ([]string, error) {
	entries, err := listed(f.o.Dir)
	if err != nil {
		return nil, err
	}
	there, seen := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		seen[name] = true
		if !isManifest(name) {
			continue
		}
		path := filepath.Join(f.o.Dir, name)
		info, err := os.Stat(path) // a symlink is followed, as a mounted ConfigMap has them
		if errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink == 0 {
			continue // removed since
		}
		if err == nil && info.IsDir() {
			continue
		}
		now := stampOf(info)
		old := f.files[name]
		if err == nil && old != nil && old.stamp == now {
			delete(f.unfinished, name)
			there[name] = true
			continue
		}
		var data []byte
		if err == nil {
			data, err = readFile(path, f.waits(name, now))
		}
		if errors.Is(err, errBeingWritten) {
			there[name] = old != nil
			continue
		}
		delete(f.unfinished, name)
		there[name] = true
		fl := &file{stamp: now, since: metav1.Now(), readAt: time.Now()}
		if err == nil {
			fl.sum = sha256.Sum256(data)
			fl.follow(old, path)
			fl.content = parse(data, f.on)
			fl.checkMode(info)
		}
		if err != nil {
			fl.faults = []manifest.Fault{{Message: err.Error()}}
		}
		if len(fl.faults) > 0 && (old == nil || !slices.Equal(old.faults, fl.faults)) {
			f.o.Log.Error("manifest refused; what an older version of it has started goes on", "file", path, "error", text(name, fl.faults))
		}
		f.files[name] = fl
	}
	// A file that is gone for a moment only is compared with what comes in its place.
	maps.DeleteFunc(f.files, func(name string, _ *file) bool { return !there[name] && f.settled(name) })
	maps.DeleteFunc(f.unfinished, func(name string, _ unfinished) bool { return !seen[name] })
	maps.DeleteFunc(there, func(_ string, read bool) bool { return !read })
	return slices.Sorted(maps.Keys(there)), nil
}

// listed returns the entries of a directory once two listings agree: one that is made during a
// rename may have both names of the file, or neither.
func listed(dir string) ([]fs.DirEntry, error) {
	var last []fs.DirEntry
	for try := 0; ; try++ {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		same := slices.EqualFunc(entries, last, func(a, b fs.DirEntry) bool { return a.Name() == b.Name() })
		if same || try == 4 { // a directory that never rests is looked at again soon
			return entries, nil
		}
		last = entries
	}
}

// claim returns the file of each Container, and records conflicts: names that more than one file
// has. It depends on nothing but what the files hold and what has been accepted, so that it makes
// no difference in which order files come, go and are renamed.
//
// A name that several files have belongs to the file that it was accepted from; if that file does
// not have it any more, to the only one that says the same, which is that file renamed. Otherwise
// it belongs to nobody: each of the files is refused, and what runs goes on.
func (f *Folder) claim(names []string) map[source.Key]string {
	claims := map[source.Key]string{}
	holders := map[source.Key][]string{}
	for _, name := range names {
		fl := f.files[name]
		fl.conflicts = nil
		for _, c := range fl.containers {
			holders[keyOf(c.container)] = append(holders[keyOf(c.container)], name)
		}
	}
	for key, e := range f.entries { // a file that cannot be understood keeps what it has started
		if fl := f.files[e.file]; fl != nil && len(fl.faults) > 0 && e.bundle != nil {
			claims[key] = e.file
		}
	}
	for key, files := range holders {
		owner := claims[key]
		if owner == "" {
			owner = f.owner(key, files)
			claims[key] = owner
		}
		for _, name := range files {
			if name != owner {
				f.files[name].conflict(key, owner, files)
			}
		}
		if e := f.entries[key]; owner == "" && e != nil {
			claims[key] = e.file
		}
	}
	for _, name := range names { // names that are known only from a file that is wrong
		for _, c := range f.files[name].named {
			if claims[keyOf(c)] == "" {
				claims[keyOf(c)] = name
			}
		}
	}
	return claims
}

// owner returns which of the files that have a name it belongs to; "" is none of them.
func (f *Folder) owner(key source.Key, files []string) string {
	if len(files) == 1 {
		return files[0]
	}
	e := f.entries[key]
	if e == nil || e.bundle == nil {
		return ""
	}
	if slices.Contains(files, e.file) {
		return e.file
	}
	same := slices.DeleteFunc(slices.Clone(files), func(name string) bool {
		return !slices.ContainsFunc(f.files[name].containers, func(c compiled) bool {
			return keyOf(c.container) == key && !edited(e.container, c)
		})
	})
	if len(same) == 1 {
		return same[0]
	}
	return ""
}

// conflict notes that other files have a name of this one's.
func (fl *file) conflict(key source.Key, owner string, files []string) {
	i := slices.IndexFunc(fl.containers, func(c compiled) bool { return keyOf(c.container) == key })
	fault := fl.containers[i].at
	others := owner + " has already"
	if owner == "" {
		others = strings.Join(files, " and ") + " have"
	}
	fault.Message = fmt.Sprintf("found %s, which %s; allowed: each name in one file only", key, others)
	fl.conflicts = append(fl.conflicts, fault)
	slices.SortFunc(fl.conflicts, func(a, b manifest.Fault) int { return a.Line - b.Line })
}

// accept takes a Container over.
func (f *Folder) accept(key source.Key, name string, in compiled, changed map[source.Key]bool) {
	old := f.entries[key]
	if old != nil && old.bundle != nil && old.bundle.DeletionTimestamp != nil {
		return // it is made afresh when the old one is gone
	}
	if f.unreadable[statusFile(f.o.StateDir, key)] != nil {
		return
	}
	if old != nil && old.bundle != nil && old.file == name && old.fault == "" && Missing(old.container) == "" &&
		old.container.Annotations[annotationDigest] == in.digest && sameLabels(old.container, in.container) {
		return
	}
	c := in.container.DeepCopy()
	noted := map[string]string{annotationManifest: name, annotationDigest: in.digest}
	c.UID = types.UID(uuid.NewString())
	c.Generation = 1
	c.CreationTimestamp = metav1.Now().Rfc3339Copy()
	c.Status = v1alpha1.ContainerStatus{ObservedGeneration: -1, NodeName: f.on.name, Bundle: key.Name}
	if old != nil && old.container.UID != "" {
		c.UID, c.Generation, c.CreationTimestamp, c.Status = old.container.UID, old.container.Generation, old.container.CreationTimestamp, old.container.Status
		switch {
		case edited(old.container, in):
			c.Generation++
			changed[key] = true
		case asksToRecompile(old.container, in.container):
			// It is no edit, so what has finished does not run again.
			noted[annotationCompiled] = strconv.FormatInt(compiledGeneration(old.container), 10)
			c.Generation++
			c.Spec = old.container.Spec
			changed[key] = true
		default:
			c.Spec = old.container.Spec
			if v, ok := old.container.Annotations[annotationCompiled]; ok {
				noted[annotationCompiled] = v
			}
		}
	} else {
		changed[key] = true
	}
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	for _, a := range ownAnnotations() {
		delete(c.Annotations, a)
	}
	last := ""
	if old != nil {
		maps.Copy(c.Annotations, requested(old.container))
		last = recompiled(old.container)
	}
	if last = cmp.Or(c.Annotations[v1alpha1.AnnotationRecompile], last); last != "" {
		noted[annotationRecompiled] = last
	}
	maps.Copy(c.Annotations, noted)
	if changed[key] {
		f.o.Log.Info("manifest accepted", "container", key.String(), "file", name, "generation", c.Generation)
	}
	e := &entry{file: name, container: c, bundle: f.toBundle(c, in.spec), config: in.config}
	f.entries[key] = e
	f.writeStatus(key, e)
}

// noteBroken reports a wrong file where people look for its Containers.
func (f *Folder) noteBroken(name, fault string, claims map[source.Key]string) {
	for key, e := range f.entries {
		if claims[key] == name && e.fault != fault {
			f.replace(key, func(e *entry, c *v1alpha1.Container, _ *v1alpha1.OCIBundle) {
				e.fault = fault
				delete(c.Annotations, annotationMissing)
			})
		}
	}
	fl := f.files[name]
	named := slices.Clone(fl.named)
	for _, c := range fl.containers {
		named = append(named, identity(c.container))
	}
	for _, c := range named {
		key := keyOf(c)
		if f.entries[key] != nil {
			continue
		}
		c.CreationTimestamp = metav1.Now().Rfc3339Copy()
		c.Annotations = map[string]string{annotationManifest: name}
		c.Status = v1alpha1.ContainerStatus{ObservedGeneration: -1, Phase: v1alpha1.ContainerPending, NodeName: f.on.name}
		e := &entry{file: name, container: c, fault: fault}
		f.entries[key] = e
		f.writeStatus(key, e)
	}
}

// replace changes copies of an entry's objects, replaces the entry, and writes its status.
func (f *Folder) replace(key source.Key, change func(*entry, *v1alpha1.Container, *v1alpha1.OCIBundle)) {
	old := f.entries[key]
	e := old.copy()
	change(e, e.container, e.bundle)
	f.entries[key] = e
	f.writeStatus(key, e)
}

// ReportStatus is part of source.Source.
func (f *Folder) ReportStatus(_ context.Context, b *v1alpha1.OCIBundle, status *v1alpha1.OCIBundleStatus) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := source.Key{Namespace: b.Namespace, Name: b.Name}
	old := f.entries[key]
	if old == nil || old.bundle == nil || old.bundle.UID != b.UID {
		return nil
	}
	// Specs and metadata are shared with the old entry, in which nothing is changed either.
	e, container, bundle := *old, *old.container, *old.bundle
	e.container, e.bundle = &container, &bundle
	e.bundle.Status = *status.DeepCopy()
	e.container.Status = *old.container.Status.DeepCopy()
	e.container.Status.ObservedGeneration = status.ObservedGeneration
	e.container.Status.Phase = status.Phase
	e.container.Status.RunStatus = *status.RunStatus.DeepCopy()
	for _, kind := range []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionDegraded, v1alpha1.ConditionRecompileAvailable} {
		if meta.FindStatusCondition(status.Conditions, kind) == nil { // the agent sets it while there is something to say
			meta.RemoveStatusCondition(&e.container.Status.Conditions, kind)
		}
	}
	for _, c := range status.Conditions {
		setCondition(e.container, c)
	}
	if err := f.store(key, &e, false); err != nil {
		f.unwritten[key] = true
		return err
	}
	f.entries[key] = &e
	select {
	case f.reported <- struct{}{}:
	default:
	}
	return nil
}

// Release is part of source.Source.
func (f *Folder) Release(_ context.Context, key source.Key, uid types.UID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.entries[key]; e != nil && (e.bundle == nil || e.bundle.UID != uid || e.bundle.DeletionTimestamp == nil) {
		return nil
	}
	if err := f.removeStatus(key); err != nil {
		return err
	}
	delete(f.entries, key)
	f.Rescan() // its manifest may be there again
	return nil
}

func (f *Folder) toBundle(c *v1alpha1.Container, spec *v1alpha1.OCIBundleSpec) *v1alpha1.OCIBundle {
	b := &v1alpha1.OCIBundle{Spec: *spec}
	b.Spec.ContainerRef = &v1alpha1.ContainerReference{Name: c.Name, UID: c.UID}
	b.Name, b.Namespace, b.UID, b.Generation, b.CreationTimestamp = c.Name, c.Namespace, c.UID, c.Generation, c.CreationTimestamp
	b.DeletionTimestamp = c.DeletionTimestamp
	b.Labels = map[string]string{"berth.run/container": c.Name}
	b.Annotations = annotations(c)
	b.Spec.CompiledGeneration = compiledGeneration(c)
	b.Status = v1alpha1.OCIBundleStatus{
		ObservedGeneration: c.Status.ObservedGeneration, Phase: c.Status.Phase, RunStatus: *c.Status.RunStatus.DeepCopy(),
	}
	for _, cond := range c.Status.Conditions {
		switch cond.Type {
		case v1alpha1.ConditionAccepted, v1alpha1.ConditionRecompileAvailable, v1alpha1.ConditionImageReady, v1alpha1.ConditionRunning:
			b.Status.Conditions = append(b.Status.Conditions, cond)
		}
	}
	return b
}

// annotations returns the annotations for the bundle of a Container.
func annotations(c *v1alpha1.Container) map[string]string {
	out := requested(c)
	out[source.AnnotationRun], out[source.AnnotationFixed] = compile.RunDigest(c.Spec), compile.FixedDigest(c.Spec)
	if v := c.Annotations[annotationRecompiled]; v != "" {
		for _, a := range []string{source.AnnotationRun, source.AnnotationFixed} {
			out[a] += " recompiled " + v
		}
	}
	return out
}

func keyOf(c *v1alpha1.Container) source.Key {
	return source.Key{Namespace: c.Namespace, Name: c.Name}
}

// edited reports whether a manifest says something else than the Container was accepted from. What
// another version of Berth makes of the same words, such as another default, is no edit.
func edited(c *v1alpha1.Container, in compiled) bool {
	if digest, ok := c.Annotations[annotationDigest]; ok {
		return digest != in.digest
	}
	// An agent accepted it that did not record the digest.
	return specDigest(&c.Spec) != specDigest(&in.container.Spec)
}

// sameLabels reports whether labels and annotations of two Containers are equal.
func sameLabels(a, b *v1alpha1.Container) bool {
	annotations := func(c *v1alpha1.Container) map[string]string {
		out := maps.Clone(c.Annotations)
		for _, a := range ownAnnotations() {
			delete(out, a)
		}
		return out
	}
	return maps.Equal(a.Labels, b.Labels) && maps.Equal(annotations(a), annotations(b))
}
