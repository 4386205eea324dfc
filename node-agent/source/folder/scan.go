// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/node-agent/source"
)

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
			f.o.Log.Error("cannot read the folder of manifests; what runs goes on", "dir", f.o.Dir,
				"error", err)
		}
		f.dirErr = err.Error()
		f.refresh()
		return nil
	}
	f.dirErr = ""
	claims := f.claim(names)
	f.claimObjects(names)
	f.keepImmutable(names)
	f.forgetUnreadable()
	changed := map[source.Key]bool{}
	f.renewRemoved(names, changed)
	f.takeOver(names, claims, changed)
	f.dropUnclaimed(names, claims, dir, changed)
	f.acceptObjects(names, changed)
	f.forgetUnsure()
	f.synced = true
	f.refresh()
	return slices.Collect(maps.Keys(changed))
}

// contains reports whether a manifest is among the sorted names of those that are there.
func contains(names []string, name string) bool {
	_, found := slices.BinarySearch(names, name)
	return found
}

// forgetUnreadable forgets the files of status that could not be read and are gone now.
func (f *Folder) forgetUnreadable() {
	maps.DeleteFunc(f.unreadable, func(path string, _ error) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// renewRemoved renews the Containers of the files that were removed and written again.
func (f *Folder) renewRemoved(names []string, changed map[source.Key]bool) {
	for name := range f.removed {
		if _, writing := f.unfinished[name]; !writing && (f.files[name] == nil || contains(names, name)) {
			f.renew(name, changed)
			delete(f.removed, name)
		}
	}
}

// takeOver accepts the Containers of the files that are right, and reports those that are wrong.
func (f *Folder) takeOver(names []string, claims map[source.Key]string,
	changed map[source.Key]bool,
) {
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
}

// dropUnclaimed drops the Containers that no file names any more, unless that may change soon.
func (f *Folder) dropUnclaimed(names []string, claims map[source.Key]string, dir directory,
	changed map[source.Key]bool,
) {
	// Where a manifest is gone for a moment, others may be about to go: they are removed together,
	// as they may be by mistake.
	absent := false
	for _, e := range f.entries {
		absent = absent || e.bundle != nil && !contains(names, e.file) && !f.settled(e.file)
	}
	f.pending = absent || len(f.unfinished) > 0
	if absent {
		return
	}
	var gone []source.Key
	for key, e := range f.entries {
		if _, claimed := claims[key]; claimed {
			continue
		}
		if _, writing := f.unfinished[e.file]; writing {
			continue
		}
		if contains(names, e.file) && e.bundle != nil &&
			time.Since(f.files[e.file].readAt) < f.o.Rewrite {
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
	f.removeGone(gone, len(names), dir, changed)
}

// forgetUnsure forgets the Containers whose files are no longer what they were when this version of
// the agent refused them.
func (f *Folder) forgetUnsure() {
	maps.DeleteFunc(f.unsure, func(key source.Key, name string) bool {
		fl, e := f.files[name], f.entries[key]
		return fl == nil || len(fl.refusal()) == 0 || e != nil && e.bundle != nil
	})
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
			f.o.Log.Error("manifest refused; what an older version of it has started goes on", "file", path,
				"error", text(name, fl.faults))
		}
		f.files[name] = fl
	}
	// A file that is gone for a moment only is compared with what comes in its place.
	maps.DeleteFunc(f.files, func(name string, _ *file) bool {
		return !there[name] && f.settled(name)
	})
	maps.DeleteFunc(f.unfinished, func(name string, _ unfinished) bool { return !seen[name] })
	maps.DeleteFunc(there, func(_ string, read bool) bool { return !read })
	return slices.Sorted(maps.Keys(there)), nil
}

// isManifest reports whether a file of this name is read.
func isManifest(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"},
		filepath.Ext(name))
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
		same := slices.EqualFunc(entries, last, func(a, b fs.DirEntry) bool {
			return a.Name() == b.Name()
		})
		if same || try == 4 { // a directory that never rests is looked at again soon
			return entries, nil
		}
		last = entries
	}
}

// file is a file's content at the last look.
type file struct {
	stamp stamp
	content
	sum  [sha256.Size]byte // of what it holds
	born birth
	// before is sum of the file that had this name before this one.
	before [sha256.Size]byte
	// conflicts are names that other files have, too, and changes of what is immutable; found at each
	// look.
	conflicts []manifest.Fault
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

func stampOf(info fs.FileInfo) stamp {
	if info == nil {
		return stamp{}
	}
	s := stamp{size: info.Size(), mtime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.ino, s.ctime = st.Ino, st.Ctim.Nano()
	}
	return s
}
