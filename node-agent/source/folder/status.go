// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/source"
)

// annotationManifest names the file that a Container came from.
const annotationManifest = "berth.run/manifest"

// annotationDigest is the digest of the manifest's spec.
const annotationDigest = "berth.run/manifest-digest"

// ownAnnotations returns the annotations of a Container that the agent sets itself.
func ownAnnotations() []string {
	return []string{
		annotationManifest, annotationDigest, annotationMissing, annotationRecompiled,
		annotationCompiled, source.AnnotationStopped, source.AnnotationRestart,
	}
}

// Fault is one thing that is wrong with a manifest that was refused.
type Fault struct {
	// File is the name of the manifest, or the folder where that cannot be read.
	File string `json:"file"`
	manifest.Fault
	// Since is the time at which the manifest was read.
	Since metav1.Time `json:"since,omitzero"`
	// Containers go on although File, which they came from, is gone; empty if File was refused.
	Containers []string `json:"containers,omitempty"`
}

// Error returns FILE:LINE:COLUMN: FIELD: MESSAGE.
func (f Fault) Error() string {
	if f.Line == 0 {
		return f.File + ": " + f.Fault.Error()
	}
	return f.File + ":" + f.Fault.Error()
}

func statusDir(stateDir string) string { return filepath.Join(stateDir, "status") }

func faultsFile(stateDir string) string { return filepath.Join(stateDir, "manifests.json") }

// statusFile returns the path of a Container's file of status.
func statusFile(stateDir string, key source.Key) string {
	return filepath.Join(statusDir(stateDir), recordName(key.Namespace, key.Name))
}

// recordName returns NAMESPACE_NAME.json, shortened to the greatest length of a file name. Neither
// a namespace nor a name has a "_".
func recordName(namespace, name string) string {
	name = namespace + "_" + name
	if len(name) > 200 {
		sum := sha256.Sum256([]byte(name))
		name = name[:180] + "+" + hex.EncodeToString(sum[:6])
	}
	return name + ".json"
}

// Read returns all Containers that an agent with this state folder has accepted or refused, with
// their status, sorted by namespace and name. It returns the readable ones together with the error
// for the others.
func Read(stateDir string) ([]v1alpha1.Container, error) {
	entries, err := os.ReadDir(statusDir(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	var out []v1alpha1.Container
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || filepath.Ext(e.Name()) != ".json" {
			continue
		}
		path := filepath.Join(statusDir(stateDir), e.Name())
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err == nil && len(data) == 0 {
			continue // never came to the disk before the machine lost power
		}
		var c v1alpha1.Container
		if err == nil {
			err = decode(data, &c)
		}
		if err == nil && c.Name == "" {
			err = errors.New("metadata.name: found nothing")
		}
		if err != nil {
			errs = append(errs, &unreadableError{path, err})
			continue
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b v1alpha1.Container) int {
		return strings.Compare(a.Namespace+"\x00"+a.Name, b.Namespace+"\x00"+b.Name)
	})
	return out, errors.Join(errs...)
}

// statusVersion is the version of the format of status/*.json. Files of 11c74ef and before have
// none, and are of version 0.
const statusVersion = 1

// versioned is the content of a status file.
type versioned struct {
	Version int `json:"version,omitempty"`
	*v1alpha1.Container
}

// decode reads the content of a file of status. One of a newer version is refused.
func decode(data []byte, c *v1alpha1.Container) error {
	v := versioned{Container: c}
	err := json.Unmarshal(data, &v)
	if v.Version > statusVersion { // whatever else it holds
		return fmt.Errorf("found version %d; this agent knows up to %d", v.Version, statusVersion)
	}
	return err
}

// unreadableError says that the status of a Container cannot be read.
type unreadableError struct {
	path string
	err  error
}

func (e *unreadableError) Error() string { return fmt.Sprintf("read status %s: %v", e.path, e.err) }
func (e *unreadableError) Unwrap() error { return e.err }

// unreadableIn returns the parts of an error of Read that each speak of one file.
func unreadableIn(err error) []*unreadableError {
	var out []*unreadableError
	if many, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // Read joins them
		for _, e := range many.Unwrap() {
			var one *unreadableError
			if errors.As(e, &one) {
				out = append(out, one)
			}
		}
	}
	return out
}

// ReadFaults returns the manifests that an agent with this state folder refuses now.
func ReadFaults(stateDir string) ([]Fault, error) {
	data, err := os.ReadFile(faultsFile(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read faults of manifests: %w", err)
	}
	var out []Fault
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("read faults of manifests: %w", err)
	}
	return out, nil
}

// writeFaults writes manifests.json if it is to hold something else than it does, and returns
// whether it holds that.
func (f *Folder) writeFaults() bool {
	faults := []Fault{}
	if f.dirErr != "" {
		faults = append(faults, Fault{File: f.o.Dir, Fault: manifest.Fault{Message: f.dirErr}})
	}
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		fl := f.files[name]
		for _, fault := range fl.refusal() {
			faults = append(faults, Fault{
				File: filepath.Join(f.o.Dir, name), Fault: fault,
				Since: fl.since.Rfc3339Copy(),
			})
		}
	}
	for _, path := range slices.Sorted(maps.Keys(f.unreadable)) {
		faults = append(faults, Fault{File: path, Fault: manifest.Fault{
			Message: f.unreadable[path].Error() +
				"; its container is left alone: remove the file to have it replaced",
		}})
	}
	unstored := slices.SortedFunc(maps.Keys(f.unstored), func(a, b objectKey) int {
		return strings.Compare(a.String(), b.String())
	})
	for _, key := range unstored {
		faults = append(faults, Fault{
			File: filepath.Join(f.o.Dir, f.objects[key].file),
			Fault: manifest.Fault{
				Message: fmt.Sprintf("cannot write down the accepted %s: %v", key, f.unstored[key]),
			},
		})
	}
	faults = append(faults, f.missingFaults()...)
	data, err := json.Marshal(faults)
	if err != nil || string(data) == f.written {
		return err == nil
	}
	if err := f.reserve.Replace(faultsFile(f.o.StateDir), data, durable.Options{}); err != nil {
		f.o.Log.Error("cannot write the list of refused manifests", "error", err)
		return false
	}
	f.written = string(data)
	return true
}

// writeStatus stores an entry; the next look tries again if that fails.
func (f *Folder) writeStatus(key source.Key, e *entry) {
	if err := f.store(key, e, e.bundle != nil); err != nil {
		f.unwritten[key] = false
		f.o.Log.Error("cannot write status", "container", key.String(), "error", err)
	}
}

// refresh marks the status on disk as current, if all of it is. It sets a time alone, which a full
// disk takes.
func (f *Folder) refresh() {
	if !f.writeFaults() {
		return
	}
	for key, reported := range f.unwritten {
		e := f.entries[key]
		switch {
		case e == nil:
			delete(f.unwritten, key)
		case reported || f.store(key, e, e.bundle != nil) != nil: // what was reported is reported again
			return
		}
	}
	now := time.Now()
	if err := os.Chtimes(faultsFile(f.o.StateDir), now, now); err != nil {
		f.o.Log.Error("cannot mark the status as current", "error", err)
	}
}

// Refreshed returns when an agent with this state folder last found that all status on disk is
// current; zero if none did. A running agent writes it each 30 s.
func Refreshed(stateDir string) (time.Time, error) {
	info, err := os.Stat(faultsFile(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read when the status was current: %w", err)
	}
	return info.ModTime(), nil
}

// store writes an entry's Container with the conditions that only this source can know. With soon
// it survives a loss of power within a second, and before its container starts: a Container whose
// UID is lost is another one.
func (f *Folder) store(key source.Key, e *entry, soon bool) error {
	if e.fault != "" {
		setCondition(e.container, metav1.Condition{
			Type: v1alpha1.ConditionSpecValid, Status: metav1.ConditionFalse,
			Reason:  v1alpha1.ReasonInvalidSpec,
			Message: e.fault, ObservedGeneration: e.container.Generation,
		})
	} else {
		setCondition(e.container, metav1.Condition{
			Type: v1alpha1.ConditionSpecValid, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCompiled,
			Message: "the spec compiles", ObservedGeneration: e.container.Generation,
		})
	}
	summarize(e).Set(&e.container.Status, e.container.Generation, status.Deadline(e.container),
		time.Now())
	data, err := json.Marshal(versioned{statusVersion, e.container})
	if err != nil {
		return fmt.Errorf("write status of %s: %w", key, err)
	}
	if err := f.o.Journal.Replace(statusFile(f.o.StateDir, key), data,
		durable.Options{Reserve: f.reserve}); err != nil {
		return err
	}
	if soon {
		f.o.Journal.FlushSoon()
	}
	delete(f.unwritten, key)
	return nil
}

// summarize decides on Ready, Reconciling and Stalled. While a manifest is refused, its container
// runs as the version before wanted it, and Ready speaks of that.
func summarize(e *entry) status.Summary {
	st := &e.container.Status
	switch {
	case e.bundle == nil:
		return status.NotReady(status.Stalled, v1alpha1.ReasonInvalidSpec, e.fault)
	case e.container.DeletionTimestamp != nil:
		return status.NotReady(status.Reconciling, v1alpha1.ReasonTerminating,
			"its manifest was removed: the container is stopped and removed")
	case st.ObservedGeneration != e.container.Generation:
		return status.NotReady(status.Reconciling, v1alpha1.ReasonProgressing, "not looked at yet")
	}
	return status.OfRun(st.Phase, st.Conditions)
}

// stallLate writes the status of each Container whose progress deadline has passed, and returns how
// long it is until the next one.
func (f *Folder) stallLate(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := f.o.Resync
	for key, e := range f.entries {
		at, ok := status.StallsAt(e.container)
		switch {
		case !ok:
		case at.After(now):
			next = min(next, at.Sub(now))
		default:
			f.replace(key, func(*entry, *v1alpha1.Container, *v1alpha1.OCIBundle) {})
		}
	}
	return next
}

func setCondition(c *v1alpha1.Container, cond metav1.Condition) {
	if cond.LastTransitionTime.IsZero() {
		cond.LastTransitionTime = metav1.Now().Rfc3339Copy()
	}
	meta.SetStatusCondition(&c.Status.Conditions, cond)
}

func (f *Folder) removeStatus(key source.Key) error {
	if err := os.Remove(statusFile(f.o.StateDir, key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove status: %w", err)
	}
	if err := f.o.Journal.Removed(statusFile(f.o.StateDir, key)); err != nil {
		return fmt.Errorf("remove status: %w", err)
	}
	f.o.Journal.FlushSoon()
	return nil
}
