// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hooks checks the lifecycle hooks (config.md, "POSIX-platform Hooks").
func (c *checker) hooks() {
	h := c.spec.Hooks
	if h == nil {
		return
	}
	c.hookList("hooks.prestart", h.Prestart, onHost) //nolint:staticcheck // deprecated, and still to be honoured
	c.hookList("hooks.createRuntime", h.CreateRuntime, onHost)
	c.hookList("hooks.createContainer", h.CreateContainer, onHost)
	c.hookList("hooks.startContainer", h.StartContainer, inContainer)
	c.hookList("hooks.poststart", h.Poststart, onHost)
	c.hookList("hooks.poststop", h.Poststop, onHost)
}

// hookList checks the hooks of one point; where is where their programs are.
func (c *checker) hookList(path string, hooks []specs.Hook, where string) {
	for i := range hooks {
		h := &hooks[i]
		hook := at(path, i)
		c.absolute(hook+".path", h.Path, where)
		c.texts(hook+".args", h.Args)
		c.env(hook+".env", h.Env)
		if h.Timeout != nil && *h.Timeout <= 0 {
			c.err(hook+".timeout", decimal(*h.Timeout), "a number of seconds greater than 0, or nothing")
		}
	}
}

// annotations checks the annotations (config.md, "Annotations"), also crun's, for settings that the
// specification has no field for (crun(1)). One that is not honoured is refused: better no
// container than one that differs from its document.
func (c *checker) annotations() {
	if len(c.spec.Annotations) == 0 {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(c.spec.Annotations)) {
		if key == "" {
			c.err(in("annotations", ""), "an empty key", "keys that are not empty")
		}
		if name, ok := strings.CutPrefix(key, "run.oci."); ok {
			c.crunAnnotation(in("annotations", key), name, c.spec.Annotations[key])
		}
	}
}

func (c *checker) crunAnnotation(path, name, value string) {
	switch name {
	case "mount_context_type":
		types := []string{"context", "fscontext", "defcontext", "rootcontext"}
		if !slices.Contains(types, value) {
			c.err(path, quoteOrNothing(value), "context, fscontext, defcontext or rootcontext")
		}
	case "hooks.stdout", "hooks.stderr":
		if !strings.HasPrefix(value, "/") {
			c.err(path, quoteOrNothing(value), "the absolute path of a file on the host")
		}
	case "pidfd_receiver":
		if !strings.HasPrefix(value, "/") {
			c.err(path, quoteOrNothing(value), "the absolute path of a unix socket on the host")
		}
	case "systemd.subgroup", "delegate-cgroup":
		const allowed = "nothing: the container's process is in the cgroup of linux.cgroupsPath itself"
		switch {
		case value == "":
		case name == "systemd.subgroup" && !c.options.Systemd:
			c.warn(path, quote(value), allowed+"; without systemd's cgroups it is ignored, as by crun")
		default:
			c.err(path, quote(value), allowed)
		}
	case "seccomp.receiver":
		c.err(path, quoteOrNothing(value),
			"no such annotation; linux.seccomp.listenerPath is the specification's field for it")
	case "seccomp.plugins", "seccomp_bpf_data":
		c.err(path, quoteOrNothing(value), "no such annotation; linux.seccomp says which filter there is")
	case "systemd.force_cgroup_v1":
		c.err(path, quoteOrNothing(value), "no such annotation; mounts may have one of type cgroup")
	case "handler":
		c.err(path, quoteOrNothing(value),
			"no such annotation; other kinds of container are for another runtime (berth --runtime-type)")
	}
}
