// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// down ends the cluster and removes its state folder. It is no error if there
// is none, or only a part of one.
func (c *cluster) down(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(c.dir, marker)); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(c.dir); err == nil {
			return fmt.Errorf("--dir %s: no cluster's state folder (no %s in it); leaving it alone", c.dir, marker)
		}
		say("nothing to stop")
		return nil
	} else if err != nil {
		return err
	}
	for i := len(names) - 1; i >= 0; i-- {
		rec, running, err := c.programs.find(names[i])
		if err != nil {
			return err
		}
		if err := c.programs.stop(names[i]); err != nil {
			return err
		}
		if running {
			say("stopped %s, pid %d", names[i], rec.PID)
		}
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return err
	}
	say("removed %s", c.dir)
	return nil
}
