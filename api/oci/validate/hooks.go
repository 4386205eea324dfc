// SPDX-License-Identifier: Apache-2.0

package validate

import "github.com/opencontainers/runtime-spec/specs-go"

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

// annotations checks the annotations (config.md, "Annotations").
func (c *checker) annotations() {
	if _, ok := c.spec.Annotations[""]; ok {
		c.err(in("annotations", ""), "an empty key", "keys that are not empty")
	}
}
