// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/boottime"
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
	// Boot is the id of this boot; "" is the machine's.
	Boot string
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
	// objects are the ConfigMaps, Secrets and PersistentVolumeClaims that have been accepted; nil
	// before the first look.
	objects map[objectKey]*object
	// stored are the objects that the state directory has.
	stored map[objectKey]acceptedObject
	// sealed has digests of the immutable Secrets that have been accepted, and seal their key.
	sealed map[objectKey]sealedSecret
	seal   []byte
	// unstored has the errors of writing PersistentVolumeClaims there.
	unstored map[objectKey]error
	// complete reports whether no manifest was refused at the last look.
	complete bool
	dirErr   string // why the folder could not be read
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

var _ source.Source = (*Folder)(nil)

// New reads the Containers that an earlier agent has accepted. Run reads the manifests.
func New(o Options) (*Folder, error) {
	if o.Dir == "" || !filepath.IsAbs(o.StateDir) {
		return nil, fmt.Errorf(
			"folder of manifests: found %q with state in %q; allowed: a folder, and an absolute one for state", o.Dir, o.StateDir)
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
	if o.Boot == "" {
		o.Boot = boottime.Now().Boot
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if info != nil && info.Mode().Perm()&0o002 != 0 {
		o.Log.Warn("everybody may write to the folder of manifests, and so run anything as root",
			"dir", o.Dir)
	}
	f := &Folder{
		o: o, on: node{name: o.NodeName, labels: o.NodeLabels, bundle: o.Compile},
		rescan: make(chan struct{}, 1), reported: make(chan struct{}, 1),
		entries: map[source.Key]*entry{}, files: map[string]*file{}, written: "?",
		unwritten: map[source.Key]bool{}, unsure: map[source.Key]string{},
		dir: readDirectory(o.StateDir), removed: map[string]bool{}, unreadable: map[string]error{},
		unfinished: map[string]unfinished{},
	}
	for _, d := range []string{statusDir(o.StateDir), requestsDir(o.StateDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create a directory of the agent: %w", err)
		}
	}
	f.reserve = durable.NewReserve(statusDir(o.StateDir))
	if err := f.restoreObjects(); err != nil {
		return nil, err
	}
	return f, f.restore()
}

// restore reads the accepted Containers.
func (f *Folder) restore() error {
	all, err := Read(f.o.StateDir)
	for _, bad := range unreadableIn(err) {
		f.o.Log.Error("a status cannot be read; its container is left alone until the file is removed",
			"file", bad.path, "error", bad.err)
		f.unreadable[bad.path] = bad.err
	}
	if err != nil && len(f.unreadable) == 0 {
		return err
	}
	going := map[source.Key]bool{}
	for i := range all {
		c := &all[i]
		key := source.Key{Namespace: c.Namespace, Name: c.Name}
		going[key] = goesOn(c)
		if c.Generation == 0 { // never accepted; the first look finds whether its file still names it
			f.entries[key] = &entry{
				file: c.Annotations[annotationManifest], container: c,
				fault: "not looked at yet",
			}
			continue
		}
		if f.o.NewBoot {
			forgetProcess(c)
		}
		raw, err := json.Marshal(stripped(c))
		if err != nil {
			return err
		}
		m, err := parseOne(raw, f.on)
		if err != nil {
			// A newer Berth refuses what an older one took. It runs as it is until the manifest is
			// corrected.
			f.o.Log.Error("what was accepted is refused now; it goes on unchanged", "container",
				key.String(), "error", err)
			f.unsure[key] = c.Annotations[annotationManifest]
			f.entries[key] = &entry{
				file: c.Annotations[annotationManifest], container: c,
				fault: err.Error(),
			}
			if f.o.NewBoot {
				f.writeStatus(key, f.entries[key])
			}
			continue
		}
		// A field that is newer than this status has its default now, which is no change of the
		// manifest.
		c.Spec = m.container.Spec
		e := &entry{
			file: c.Annotations[annotationManifest], container: c, bundle: f.toBundle(c, m.spec),
			config: m.config,
		}
		f.entries[key] = e
		if f.o.NewBoot {
			f.writeStatus(key, e)
		}
	}
	f.afterBoot(going)
	return nil
}

// notLookedAt is the message of a container whose process ended with another boot.
const notLookedAt = "the node was booted, and the agent has not looked at the container since"

// forgetProcess marks the status of another boot as not looked at: no process of it is left, and
// the file may be older than what was reported last.
func forgetProcess(c *v1alpha1.Container) {
	st := &c.Status
	st.ObservedGeneration = -1
	if st.State.Running == nil {
		return
	}
	st.Phase, st.PID = v1alpha1.ContainerPending, 0
	st.State = corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: v1alpha1.ReasonProgressing, Message: notLookedAt},
	}
	setCondition(c, metav1.Condition{
		Type: v1alpha1.ConditionRunning, Status: metav1.ConditionUnknown,
		Reason: v1alpha1.ReasonProgressing, Message: notLookedAt, ObservedGeneration: c.Generation,
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

func keyOf(c *v1alpha1.Container) source.Key {
	return source.Key{Namespace: c.Namespace, Name: c.Name}
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

// ReportStatus is part of source.Source.
func (f *Folder) ReportStatus(_ context.Context, b *v1alpha1.OCIBundle,
	status *v1alpha1.OCIBundleStatus,
) error {
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
	for _, kind := range []string{
		v1alpha1.ConditionAccepted, v1alpha1.ConditionDegraded,
		v1alpha1.ConditionRecompileAvailable, v1alpha1.ConditionDNSConfigured,
	} {
		// the agent sets it while there is something to say
		if meta.FindStatusCondition(status.Conditions, kind) == nil {
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
	e := f.entries[key]
	if e != nil && (e.bundle == nil || e.bundle.UID != uid || e.bundle.DeletionTimestamp == nil) {
		return nil
	}
	if err := f.removeStatus(key); err != nil {
		return err
	}
	delete(f.entries, key)
	f.Rescan() // its manifest may be there again
	return nil
}

// replace changes copies of an entry's objects, replaces the entry, and writes its status.
func (f *Folder) replace(key source.Key, change func(*entry, *v1alpha1.Container,
	*v1alpha1.OCIBundle),
) {
	old := f.entries[key]
	e := old.copy()
	change(e, e.container, e.bundle)
	f.entries[key] = e
	f.writeStatus(key, e)
}
