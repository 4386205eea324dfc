// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/node-agent/source"
)

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
				fl := f.files[name]
				fl.conflict(fl.place(key), key, owner, files)
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

// conflict notes that other files have a name of this one's, which stands at a place in it. owner
// is the file that the name belongs to, or "".
func (fl *file) conflict(at manifest.Fault, name fmt.Stringer, owner string, files []string) {
	others := owner + " has already"
	if owner == "" {
		others = strings.Join(files, " and ") + " have"
	}
	at.Message = fmt.Sprintf("found %s, which %s; allowed: each name in one file only", name, others)
	fl.conflicts = append(fl.conflicts, at)
	slices.SortFunc(fl.conflicts, func(a, b manifest.Fault) int { return a.Line - b.Line })
}

// place returns where a file has the name of a Container.
func (fl *file) place(key source.Key) manifest.Fault {
	i := slices.IndexFunc(fl.containers, func(c compiled) bool { return keyOf(c.container) == key })
	return fl.containers[i].at
}
