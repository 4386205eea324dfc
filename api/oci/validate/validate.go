// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
)

// Options holds a validation's knowledge beyond the document. The zero value is
// good: it checks all that the document alone can tell.
type Options struct {
	// Bundle is the absolute directory that relative paths of the document are
	// relative to, or "" when it is not known. Only OnHost needs it.
	Bundle string
	// VM says that the document is for a handler that runs virtual machines;
	// only such a one may have the vm section.
	VM bool
	// Systemd says that systemd makes the container's cgroup. Only then has the
	// annotation run.oci.systemd.subgroup of crun a meaning.
	Systemd bool
	// KnownSyscall reports whether a seccomp profile's name is a system call of
	// any architecture that the runtime has a table of. Names that it does not
	// know become warnings, since profiles list newer ones. With nil no name
	// is doubted.
	KnownSyscall func(name string) bool
}

// checks are the rules, in the order of the specification's sections: one
// function a section, each in a file of that name.
var checks = [...]func(*checker){
	(*checker).version,
	(*checker).root,
	(*checker).mounts,
	(*checker).process,
	(*checker).hostname,
	(*checker).platforms,
	(*checker).vm,
	(*checker).hooks,
	(*checker).annotations,
	(*checker).namespaces,
	(*checker).idMappings,
	(*checker).timeOffsets,
	(*checker).devices,
	(*checker).netDevices,
	(*checker).cgroupsPath,
	(*checker).resources,
	(*checker).intelRdt,
	(*checker).memoryPolicy,
	(*checker).sysctl,
	(*checker).seccomp,
	(*checker).rootfsPropagation,
	(*checker).maskedPaths,
	(*checker).labels,
	(*checker).personality,
}

// Spec returns every fault of a document that is parsed already. A nil spec is
// a fault. The spec is only read.
func Spec(spec *specs.Spec, o Options) document.Faults {
	if spec == nil {
		return document.Faults{{
			Found: nothing, Allowed: "a runtime-spec document",
			Severity: document.Error,
		}}
	}
	c := newChecker(spec, o)
	for _, check := range checks {
		check(c)
	}
	return c.all()
}

// Process returns every fault of a process alone, as `exec --process FILE`
// takes it. Paths begin at the process, such as "args" or "user.umask".
func Process(p *specs.Process, o Options) document.Faults {
	if p == nil {
		return document.Faults{{Found: nothing, Allowed: "a process object", Severity: document.Error}}
	}
	c := newChecker(&specs.Spec{Process: p}, o)
	c.processAt("", p)
	return c.all()
}

// ProcessOf returns every fault of the process of a document, whose other
// sections, such as its mappings of ids, are taken for right. Paths begin with
// "process.".
func ProcessOf(spec *specs.Spec, o Options) document.Faults {
	c := newChecker(spec, o)
	c.process()
	return c.all()
}

// MountsOf returns every fault of the mounts of a document, whose other
// sections are taken for right. Paths begin with "mounts".
func MountsOf(spec *specs.Spec, o Options) document.Faults {
	c := newChecker(spec, o)
	c.mounts()
	return c.all()
}

// checker is one validation under way.
type checker struct {
	spec *specs.Spec
	// linux is spec.Linux, or an empty section when the document has none, so
	// that the checks need not ask.
	linux   *specs.Linux
	options Options
	// has holds the namespaces that are not the runtime's own: made new, or
	// joined by path. fresh holds those made new.
	has, fresh namespaceSet
	faults     document.Collector
}

// err records an error.
func (c *checker) err(path, found, allowed string) { c.faults.Error(path, found, allowed) }

// warn records a warning.
func (c *checker) warn(path, found, allowed string) { c.faults.Warn(path, found, allowed) }

// all returns what has been recorded.
func (c *checker) all() document.Faults { return c.faults.All() }

func newChecker(spec *specs.Spec, o Options) *checker {
	c := &checker{spec: spec, linux: spec.Linux, options: o}
	if c.linux == nil {
		c.linux = &specs.Linux{}
	}
	for i := range c.linux.Namespaces {
		ns := &c.linux.Namespaces[i]
		bit := namespaceBit(ns.Type)
		c.has |= bit
		if ns.Path == "" {
			c.fresh |= bit
		}
	}
	return c
}
