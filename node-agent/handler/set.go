// SPDX-License-Identifier: Apache-2.0

package handler

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// NativeName is the name of the native runtime in a Set; an empty name means it, too.
const NativeName = "berth"

// Set is the handlers of a node by name. It is made once and then only read.
type Set map[string]Handler

// Get finds a handler; the empty name is NativeName.
func (s Set) Get(name string) (Handler, error) {
	if name == "" {
		name = NativeName
	}
	h, ok := s[name]
	if !ok {
		return nil, fmt.Errorf("handler: found %q; allowed: %s", name, strings.Join(s.Names(), ", "))
	}
	return h, nil
}

// Names returns the sorted names of the handlers.
func (s Set) Names() []string { return slices.Sorted(maps.Keys(s)) }

// Add puts a handler into the set. A name is 1 to 63 of [a-z0-9.-], as a RuntimeClass's handler is
// (a DNS label or more).
func (s Set) Add(name string, h Handler) error {
	if len(name) == 0 || len(name) > 63 ||
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
		return fmt.Errorf("handler name: found %q; allowed: 1 to 63 of [a-z0-9.-]", name)
	}
	if _, ok := s[name]; ok {
		return fmt.Errorf("handler name: found %q twice", name)
	}
	s[name] = h
	return nil
}

// AddExternal adds a program given as "name=/path/to/program", as on a command line. Its state goes
// to a directory of its own in dir.
func (s Set) AddExternal(nameAndPath, dir string) error {
	name, path, ok := strings.Cut(nameAndPath, "=")
	if !ok || !filepath.IsAbs(path) {
		return fmt.Errorf("handler: found %q; allowed: NAME=PATH with an absolute path", nameAndPath)
	}
	return s.Add(name, &External{Program: path, Dir: filepath.Join(dir, name)})
}
