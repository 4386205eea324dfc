// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// processesBelow returns the processes in a cgroup and below it. There are none if dir is empty, or
// not there.
func processesBelow(dir string) (pids []string) {
	if dir == "" {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() { // else it was removed since
			b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			pids = append(pids, strings.Fields(string(b))...)
		}
		return nil
	})
	return pids
}
