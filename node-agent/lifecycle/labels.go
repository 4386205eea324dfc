// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"io/fs"

	"github.com/berth-run/berth/node-agent/selinux"
)

// labelsStage computes the SELinux labels of a container that asks for some. The container has its
// level until it is removed, since its volumes have it, too. Its place is before the stages that
// make files.
type labelsStage struct {
	levels *selinux.Levels
	// enabled reports whether the kernel has SELinux, and host is the root directory of the node.
	enabled func() bool
	host    fs.FS
}

func (labelsStage) Name() string { return "labels" }
func (labelsStage) Scope() Scope { return PerContainer }

func (s labelsStage) Ensure(_ context.Context, c *Container) error {
	c.Labels = selinux.Labels{}
	if c.Bundle.Spec.Security == nil || c.Bundle.Spec.Security.SELinuxOptions == nil {
		return nil
	}
	options := c.Bundle.Spec.Security.SELinuxOptions
	// Other runtimes drop the options here, and the process is confined less than its owner thinks.
	if s.levels == nil || !s.enabled() {
		return errors.New("spec.securityContext.seLinuxOptions: found no SELinux on the node;" +
			" allowed here: no seLinuxOptions")
	}
	level, err := s.levels.Ensure(c.ID, options.Level)
	if err != nil {
		return ownFiles(err)
	}
	c.Labels = selinux.LabelsFor(options, level, s.host)
	return nil
}

func (s labelsStage) Release(_ context.Context, c *Container) error {
	if s.levels == nil {
		return nil
	}
	return s.levels.Release(c.ID)
}
