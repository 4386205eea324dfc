// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
)

// programName returns the name that the program was called by, if it was installed in the place of
// runc or crun: scripts look for that name in its version and help.
func programName() string {
	if name := filepath.Base(os.Args[0]); name == "runc" || name == "crun" {
		return name
	}
	return "berth"
}
