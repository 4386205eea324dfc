// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// processesBelow returns the processes in a cgroup and below it. There are none if dir is empty, or
// not there. An error says that descriptors or memory have run out.
func processesBelow(dir string) (pids []string, err error) {
	if dir == "" {
		return nil, nil
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() { // else it was removed since
			var b []byte
			b, err = os.ReadFile(filepath.Join(path, "cgroup.procs"))
			pids = append(pids, strings.Fields(string(b))...)
		}
		return shortage(err)
	})
	return pids, err
}
