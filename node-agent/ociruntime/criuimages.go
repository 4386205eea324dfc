// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-run/berth/internal/durable"
)

// writeDescriptors records the standard streams of a process, so that a restore can replace them.
func writeDescriptors(pid int, dir string) error {
	fds := make([]string, 3)
	for i := range fds {
		fds[i], _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, i)) // one that is closed stays empty
	}
	data, err := json.Marshal(fds)
	if err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(dir, descriptorsFile), data,
		durable.Options{}); err != nil {
		return fmt.Errorf("--image-path: %w", err)
	}
	return nil
}

// checkImages checks the directory that criu restores from. Its files are not trusted: through a
// symbolic link in it criu, as root, would map a file of the host into the container, or write its
// log over one.
func checkImages(o CriuOptions) error {
	entries, err := os.ReadDir(o.ImagePath)
	if err != nil {
		return fmt.Errorf("--image-path: %w", err)
	}
	const parent = "parent" // the images of the pre-dump, which criu finds so
	for _, e := range entries {
		if !e.Type().IsRegular() && !e.IsDir() && e.Name() != parent {
			return fmt.Errorf("--image-path: %s: found something other than a regular file",
				filepath.Join(o.ImagePath, e.Name()))
		}
	}
	// The directory of the logs has files of others too.
	for _, name := range []string{restoreLog, "stats-restore"} {
		file := filepath.Join(o.WorkPath, name)
		if st, err := os.Lstat(file); o.WorkPath != "" && err == nil && !st.Mode().IsRegular() {
			return fmt.Errorf("--work-path: %s: found something other than a regular file", file)
		}
	}
	return nil
}

// maxDescriptors is the maximum size of descriptorsFile in bytes.
const maxDescriptors = 1 << 20

// readDescriptors reads the file of writeDescriptors. Images are not trusted.
func readDescriptors(dir string) ([]string, error) {
	file := filepath.Join(dir, descriptorsFile)
	data, err := readBounded(file, maxDescriptors)
	if err != nil {
		return nil, fmt.Errorf("--image-path: %w", err)
	}
	var fds []string
	if err := json.Unmarshal(data, &fds); err != nil || len(fds) != 3 {
		return nil, fmt.Errorf("--image-path: %s: found %.60q; allowed are three strings", file, data)
	}
	return fds, nil
}
