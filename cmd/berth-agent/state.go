// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// readSettings returns the settings of the last agent with this state directory.
func (o *options) readSettings() (claim.Settings, error) {
	s, err := claim.Read(o.StateDir)
	return s, needRoot(err)
}

// containers returns the Containers of the agent that works alone with this state directory. Where
// some cannot be read, it returns the others with an error.
func (o *options) containers() ([]v1alpha1.Container, error) {
	all, err := folder.Read(o.StateDir)
	return all, needRoot(err)
}

// needRoot adds to a permission error that the command has to run as root.
func needRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf(
			"found user id %d; allowed: 0, since what the agent writes is root's alone (sudo berth-agent …): %w", os.Geteuid(), err)
	}
	return err
}
