// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
)

// OnHost returns the faults that only a host can show: a root.path that is no
// directory (config.md, "Root": "A directory MUST exist at the path declared by
// the field"), and bind sources, hooks' programs and namespaces to join that
// do not exist. Paths relative to the bundle are left out when o.Bundle is
// empty. host is the host's file system from its root, as os.DirFS("/") is.
//
// It only looks, with stat(2), and what it sees may change: it spares the user
// a half-made container, and is no protection. It follows symbolic links, so
// it must not be asked about paths inside of a container's root filesystem.
func OnHost(spec *specs.Spec, host fs.FS, o Options) document.Faults {
	if spec == nil {
		return Spec(nil, o)
	}
	c := newChecker(spec, o)
	if r := spec.Root; r != nil && r.Path != "" {
		if info, ok := c.stat(host, "root.path", r.Path, "a directory that exists"); ok && !info.IsDir() {
			c.err("root.path", quote(r.Path)+", a file", "a directory")
		}
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if m.Source == "" || !isBind(m) {
			continue
		}
		c.stat(host, at("mounts", i)+".source", m.Source, "a file or directory that exists")
	}
	if h := spec.Hooks; h != nil {
		c.hookPrograms(host, "hooks.prestart", h.Prestart) //nolint:staticcheck // deprecated, and still to be honoured
		c.hookPrograms(host, "hooks.createRuntime", h.CreateRuntime)
		c.hookPrograms(host, "hooks.createContainer", h.CreateContainer)
		c.hookPrograms(host, "hooks.poststart", h.Poststart)
		c.hookPrograms(host, "hooks.poststop", h.Poststop)
		// startContainer's programs are in the container.
	}
	for i := range c.linux.Namespaces {
		if p := c.linux.Namespaces[i].Path; strings.HasPrefix(p, "/") {
			c.stat(host, at("linux.namespaces", i)+".path", p, "a namespace that exists")
		}
	}
	return c.all()
}

func isBind(m *specs.Mount) bool {
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

func (c *checker) hookPrograms(host fs.FS, list string, hooks []specs.Hook) {
	for i := range hooks {
		p := hooks[i].Path
		if !strings.HasPrefix(p, "/") {
			continue
		}
		field := at(list, i) + ".path"
		if info, ok := c.stat(host, field, p, "a program that exists"); ok &&
			(info.IsDir() || info.Mode().Perm()&0o111 == 0) {
			c.err(field, quote(p)+", which is not executable", "a program")
		}
	}
}

// stat looks at a path of the host, relative to the bundle unless absolute.
// It reports false when the path was not looked at, or a fault was recorded.
func (c *checker) stat(host fs.FS, field, p, allowed string) (fs.FileInfo, bool) {
	if !strings.HasPrefix(p, "/") {
		if !strings.HasPrefix(c.options.Bundle, "/") {
			return nil, false
		}
		p = c.options.Bundle + "/" + p
	}
	// Clean makes a ".." after a symbolic link another place than the kernel
	// does; the runtime itself goes by the kernel.
	name := strings.TrimPrefix(path.Clean(p), "/")
	if name == "" {
		name = "."
	}
	info, err := fs.Stat(host, name)
	switch {
	case err == nil:
		return info, true
	case errors.Is(err, fs.ErrNotExist):
		c.err(field, quote(p)+", which does not exist", allowed)
	default:
		cause := err
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			cause = pathErr.Err
		}
		c.err(field, quote(p)+": "+cause.Error(), allowed)
	}
	return nil, false
}
