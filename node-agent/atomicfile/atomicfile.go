// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces files of the agent's state so that a reader, or an agent that starts after a
// kill, finds either the old or the new content and never a part of one.
//
// It promises order, not durability against loss of power: nothing is flushed to the disk, because each thing that is
// written this way can be worked out afresh after a boot, when no container runs any more. It knows nothing of what
// is in the files.
package atomicfile

import (
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces the file at path by data with mode 0600. The folder must be there and be writable by the agent alone, since the
// temporary name beside the file is not guarded against others.
func Write(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600, O_EXCL and O_CLOEXEC
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		_ = f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
