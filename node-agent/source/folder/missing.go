// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/source"
)

// This file decides what a manifest that is gone means. Removing one stops its containers. But
// manifests are gone as well while their volume is not mounted, or when another branch is checked
// out, and then nobody has asked for anything to be stopped.

// annotationMissing says why a Container whose manifest is gone goes on.
const annotationMissing = "berth.run/manifest-missing"

// Missing returns why a Container whose manifest is gone goes on, or "" if there is its manifest.
func Missing(c *v1alpha1.Container) string { return c.Annotations[annotationMissing] }

// directory identifies the directory of manifests as a look found it.
type directory struct {
	Path string `json:"path"`
	// Resolved is Path without symbolic links.
	Resolved string `json:"resolved"`
	Dev      uint64 `json:"dev"`
	Inode    uint64 `json:"inode"`
}

func directoryFile(stateDir string) string {
	return filepath.Join(stateDir, "manifests-directory.json")
}

func directoryOf(path string) (directory, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return directory{}, err
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return directory{}, err
	}
	d := directory{Path: path, Resolved: resolved}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		d.Dev, d.Inode = st.Dev, st.Ino
	}
	return d, nil
}

// readDirectory returns the identity that noteDirectory wrote, or the zero value.
func readDirectory(stateDir string) directory {
	var d directory
	data, err := os.ReadFile(directoryFile(stateDir))
	if err != nil || json.Unmarshal(data, &d) != nil {
		return directory{}
	}
	return d
}

// noteDirectory writes down which directory was looked at.
func (f *Folder) noteDirectory(now directory) {
	if now == f.dir {
		return
	}
	data, err := json.Marshal(now)
	if err == nil {
		err = durable.Replace(directoryFile(f.o.StateDir), data, durable.Options{})
	}
	if err != nil {
		f.o.Log.Error("cannot write down which directory holds the manifests", "error", err)
		return
	}
	f.dir = now
}

// mistaken returns why the removal of the manifests that these containers came from is more likely
// a mistake than a wish, or "". left is how many manifests there are.
func (f *Folder) mistaken(gone []source.Key, left int, now directory) string {
	files := map[string]bool{}
	for _, key := range gone {
		files[f.entries[key].file] = true
	}
	switch {
	case len(gone) == 0:
		return ""
	case f.dir != (directory{}) && f.dir.Path != now.Path:
		return fmt.Sprintf("the agent read its manifests from %s before, and now reads %s", f.dir.Path,
			now.Path)
	case f.dir.Resolved == now.Resolved && f.dir != now: // a symbolic link that was switched is a wish
		return fmt.Sprintf("%s is another directory than before (is a volume not mounted?)", now.Path)
	case left == 0 && len(files) > 1:
		return fmt.Sprintf("all %d manifests in %s vanished at once", len(files), now.Path)
	}
	return ""
}

// removeGone requests the removal of containers whose manifests are gone, or keeps them if that is
// likely a mistake.
func (f *Folder) removeGone(gone []source.Key, left int, now directory,
	changed map[source.Key]bool,
) {
	slices.SortFunc(gone, func(a, b source.Key) int { return strings.Compare(a.String(), b.String()) })
	why := f.mistaken(gone, left, now)
	for _, key := range gone {
		if why == "" {
			f.remove(key, "its manifest was removed", changed)
			continue
		}
		f.o.Log.Warn(
			"a manifest is gone, and its container goes on: put the manifest back, or confirm with `berth-agent prune`",
			"container", key.String(), "file", f.entries[key].file, "why", why)
		f.replace(key, func(e *entry, c *v1alpha1.Container, _ *v1alpha1.OCIBundle) {
			e.fault = ""
			c.Annotations[annotationMissing] = why
		})
	}
	f.noteDirectory(now)
}

// remove requests that a container is stopped and removed.
func (f *Folder) remove(key source.Key, why string, changed map[source.Key]bool) {
	f.o.Log.Info("removing a container", "container", key.String(), "file", f.entries[key].file,
		"why", why)
	f.replace(key, func(e *entry, c *v1alpha1.Container, b *v1alpha1.OCIBundle) {
		now := metav1.Now()
		c.DeletionTimestamp, b.DeletionTimestamp = &now, &now
		c.Generation++
		b.Generation = c.Generation
		e.fault = ""
		delete(c.Annotations, annotationMissing)
	})
	changed[key] = true
}

// missingFaults returns a fault for each manifest that is missing while its containers go on.
func (f *Folder) missingFaults() []Fault {
	var keys []source.Key
	for key, e := range f.entries {
		if Missing(e.container) != "" {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b source.Key) int { return strings.Compare(a.String(), b.String()) })
	byFile := map[string]*Fault{}
	for _, key := range keys {
		e := f.entries[key]
		why := Missing(e.container)
		if known := byFile[e.file]; known != nil {
			known.Containers = append(known.Containers, key.String())
			continue
		}
		byFile[e.file] = &Fault{
			File: filepath.Join(f.o.Dir, e.file), Containers: []string{key.String()},
			Fault: manifest.Fault{Message: "the file is gone and its containers go on, since " + why +
				"; put it back, or confirm with `berth-agent prune`"},
		}
	}
	var out []Fault
	for _, file := range slices.Sorted(maps.Keys(byFile)) {
		out = append(out, *byFile[file])
	}
	return out
}

// absences are the removals that the watch of the directory has seen since the last look. It
// belongs to Run's goroutine.
type absences struct {
	since   map[string]time.Time // when a file was first found gone
	removed map[string]bool      // files that were removed, also if there is one of the name again
}

// note records an event.
func (a *absences) note(event fsnotify.Event, now time.Time) {
	name := filepath.Base(event.Name)
	if event.Has(fsnotify.Remove) {
		a.removed[name] = true
	}
	if event.Has(fsnotify.Create) {
		delete(a.since, name)
	}
	if event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename) {
		a.since[name] = now
	}
}

// missing returns the manifests that are gone, each with whether it has been so for the debounce
// time. A tool that updates a file by removing it first (git, tar) is given that time to write it
// again.
func (f *Folder) missing(a *absences, now time.Time) map[string]bool {
	known := maps.Collect(maps.All(f.files))
	for _, e := range f.entries {
		known[e.file] = nil
	}
	for _, o := range f.held() {
		known[o.file] = nil
	}
	gone := map[string]bool{}
	for name := range known {
		if _, err := os.Lstat(filepath.Join(f.o.Dir, name)); err == nil {
			continue
		}
		if a.since[name].IsZero() {
			a.since[name] = now
		}
		gone[name] = now.Sub(a.since[name]) >= f.o.Debounce
	}
	maps.DeleteFunc(a.since, func(name string, _ time.Time) bool { _, ok := gone[name]; return !ok })
	return gone
}

// settled reports whether a manifest that is not there counts as removed.
func (f *Folder) settled(name string) bool { return f.gone == nil || f.gone[name] }

// birth identifies a file as long as it is there. An inode's number alone may be that of a file
// that was removed.
type birth struct {
	inode uint64
	at    unix.StatxTimestamp // zero where the filesystem does not know
}

// follow links a file to the previous one of the same name.
func (fl *file) follow(old *file, path string) {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st) == nil {
		fl.born.inode = st.Ino
		if st.Mask&unix.STATX_BTIME != 0 {
			fl.born.at = st.Btime
		}
	}
	switch {
	case old == nil:
	case old.born == fl.born:
		fl.before = old.before
	default:
		fl.before = old.sum
	}
}

// renew ends the life of the Containers of a file that was removed and written again as it was:
// that is how people say that a job is to run again. Where the content differs it is an edit, since
// git, too, removes a file before it writes another version of it.
func (f *Folder) renew(name string, changed map[source.Key]bool) {
	fl := f.files[name]
	if fl == nil || len(fl.refusal()) > 0 || fl.before != fl.sum {
		return
	}
	for key, e := range f.entries {
		if e.file == name && e.bundle != nil && e.bundle.DeletionTimestamp == nil {
			f.remove(key, "its manifest was removed and written again", changed)
		}
	}
}
