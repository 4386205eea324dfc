// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// object is a ConfigMap, Secret or PersistentVolumeClaim of a file. Nothing of a Secret is ever
// written down but a digest of an immutable one.
type object struct {
	*manifest.Object
	file   string         // that it was accepted from
	at     manifest.Fault // the place of its name, without a message
	places places
}

// objectKey identifies an object.
type objectKey struct{ kind, namespace, name string }

func (o *object) key() objectKey { return objectKey{o.Kind, o.Namespace, o.Name} }

func (k objectKey) String() string { return k.kind + " " + k.namespace + "/" + k.name }

// Data returns the data of a ConfigMap or Secret of the manifests, or false if there is none of the
// name, or none that has been read yet.
func (f *Folder) Data(namespace string, o environment.Object) (map[string]string, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	found := f.objects[objectKey{o.Kind, namespace, o.Name}]
	if found == nil {
		return nil, false
	}
	return found.Data, true
}

// Files returns the same with the binary data of a ConfigMap.
func (f *Folder) Files(namespace string, o environment.Object) (map[string]string, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	found := f.objects[objectKey{o.Kind, namespace, o.Name}]
	if found == nil {
		return nil, false
	}
	if len(found.Binary) == 0 {
		return found.Data, true
	}
	all := maps.Clone(found.Binary)
	maps.Copy(all, found.Data)
	return all, true
}

// AccessModes returns the access modes of a PersistentVolumeClaim, or false if the manifests have
// no such claim or have not been read yet.
func (f *Folder) AccessModes(namespace, claim string) ([]corev1.PersistentVolumeAccessMode, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	found := f.objects[objectKey{manifest.KindClaim, namespace, claim}]
	if found == nil {
		return nil, false
	}
	return found.AccessModes, true
}

// Unread returns an error until the manifests have been read.
func (f *Folder) Unread(string, []environment.Object) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.objects == nil {
		return errors.New("the manifests are not read yet")
	}
	return nil
}

// Complete reports whether all manifests have been read and none is refused, so that an object that
// is not there is gone. After a start of the agent, a refused file may have been accepted before.
func (f *Folder) Complete() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.complete
}

// addObject adds the object of a document that has no faults, or a fault if the file has one of the
// name already.
func (c *content) addObject(d *manifest.Document) {
	o := &object{Object: d.Object, at: d.At("metadata.name", ""), places: placesOf(d)}
	if slices.ContainsFunc(c.objects, func(other *object) bool { return other.key() == o.key() }) {
		c.faults = append(c.faults,
			d.At("metadata.name", fmt.Sprintf("found %s a second time in this file; allowed: each name once",
				o.key())))
		return
	}
	c.objects = append(c.objects, o)
}

// checkMode adds a fault if the file has a Secret, and anybody but this user can read it.
func (c *content) checkMode(info fs.FileInfo) {
	if c.secret == nil {
		return
	}
	fault := *c.secret
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode().Perm()&0o077 != 0:
		fault.Message = fmt.Sprintf(
			"found mode %04o of a file with a Secret; allowed: 0600 or 0400, so that nobody else can read it", info.Mode().Perm())
	case ok && int(stat.Uid) != os.Geteuid():
		fault.Message = fmt.Sprintf(
			"found a file with a Secret that belongs to user %d; allowed: one that belongs to user %d, as whom the agent runs",
			stat.Uid, os.Geteuid())
	default:
		return
	}
	c.faults = append(c.faults, fault)
	c.containers, c.objects = nil, nil
}

// claimObjects notes conflicts: objects that more than one file has. Such an object belongs to the
// file that it was accepted from, also while that is faulty; if that does not have it any more,
// each of the files is refused.
func (f *Folder) claimObjects(names []string) {
	holders := map[objectKey][]string{}
	for _, name := range names {
		for _, o := range f.files[name].objects {
			holders[o.key()] = append(holders[o.key()], name)
		}
	}
	held := f.held()
	for key, files := range holders {
		owner := ""
		if len(files) == 1 {
			owner = files[0]
		}
		if o := held[key]; o != nil && (slices.Contains(files, o.file) ||
			contains(names, o.file) && len(f.files[o.file].faults) > 0) {
			owner = o.file
		}
		for _, name := range files {
			if name == owner {
				continue
			}
			fl := f.files[name]
			i := slices.IndexFunc(fl.objects, func(o *object) bool { return o.key() == key })
			fl.conflict(fl.objects[i].at, key, owner, files)
		}
	}
}

// acceptObjects takes the objects of the files over, and notes the Containers that refer to what
// has changed. A file that is refused, or gone for a moment only, keeps those that were accepted
// from it. So does one that is gone while a Container goes on whose manifest is gone, too: a
// directory that is not mounted has neither.
func (f *Folder) acceptObjects(names []string, changed map[source.Key]bool) {
	next := map[objectKey]*object{}
	anyMissing := false
	for _, e := range f.entries {
		anyMissing = anyMissing || e.bundle != nil && Missing(e.container) != ""
	}
	keeps := func(file string) bool {
		fl, there := f.files[file], contains(names, file)
		f.pending = f.pending || !there && !f.settled(file)
		return fl != nil && (len(fl.refusal()) > 0 || !there) ||
			!there && (anyMissing || !f.settled(file))
	}
	for key, o := range f.held() {
		if keeps(o.file) {
			next[key] = o
		}
	}
	for _, name := range names {
		fl := f.files[name]
		if len(fl.refusal()) > 0 {
			continue
		}
		for _, o := range fl.objects {
			o.file = name
			next[o.key()] = o
		}
	}
	complete := !slices.ContainsFunc(names, func(name string) bool {
		return len(f.files[name].refusal()) > 0
	})
	// Who refers to what is optional waits to know whether it is there.
	known := f.objects == nil || complete && !f.complete
	f.complete = complete
	differs := func(key objectKey) bool {
		a, b := f.objects[key], next[key]
		return (a == nil) != (b == nil) || a != nil && !a.Same(b.Object)
	}
	for key, e := range f.entries {
		if e.bundle == nil {
			continue
		}
		spec := &e.bundle.Spec
		for _, o := range slices.Concat(files.References(spec.Volumes), claims(spec.Volumes),
			environment.References(spec.Process.Env, spec.Process.EnvFrom),
			environment.PullSecrets(spec)) {
			if known || differs(objectKey{o.Kind, key.Namespace, o.Name}) {
				changed[key] = true
			}
		}
	}
	f.objects = next
	f.storeObjects()
	f.storeSealed(keeps)
}

// claims returns the PersistentVolumeClaims that volumes refer to.
func claims(volumes []v1alpha1.Volume) []environment.Object {
	var out []environment.Object
	for _, v := range volumes {
		if c := v.PersistentVolumeClaim; c != nil {
			out = append(out, environment.Object{Kind: manifest.KindClaim, Name: c.ClaimName})
		}
	}
	return out
}
