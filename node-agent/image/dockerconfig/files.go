// SPDX-License-Identifier: Apache-2.0

package dockerconfig

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSize is the size of a file that is read, which is the limit of a Secret of Kubernetes.
const maxSize = 1 << 20

// Files are files of credentials. They are read at each Lookup, so that exchanged ones count.
type Files struct {
	// Paths are absolute. The credentials of the first come first.
	Paths []string
	// Optional says that a file may be missing.
	Optional bool
	// Warn is called with a fault that does not prevent the use of a file; nil for nothing.
	Warn func(message string)
}

// Lookup returns the credentials for a repository such as index.docker.io/library/busybox.
func (f Files) Lookup(repository string) ([]Credential, error) {
	var all []Credential
	for _, path := range f.Paths {
		text, err := f.read(path)
		if errors.Is(err, fs.ErrNotExist) && f.Optional {
			continue
		}
		if err != nil {
			return nil, err
		}
		c, err := Parse(text, path)
		if err != nil {
			return nil, err
		}
		found, err := c.Lookup(repository)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// Advice says where Lookup looks, and how credentials get there.
func (f Files) Advice(registry string) string {
	if len(f.Paths) == 0 {
		return "no file of credentials"
	}
	return fmt.Sprintf("%s: for a private image run podman login --authfile %s %s",
		strings.Join(f.Paths, ", "), f.Paths[0], registry)
}

func (f Files) read(path string) ([]byte, error) {
	// Opening a fifo must not wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: found no regular file; allowed: a file of credentials", path)
	}
	if info.Mode().Perm()&0o077 != 0 && f.Warn != nil {
		f.Warn(fmt.Sprintf("%s: found mode %04o of a file of credentials; allowed: 0600, so that nobody else can read it",
			path, info.Mode().Perm()))
	}
	text, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("%s: found more than %d bytes; allowed: at most %d", path, maxSize,
			maxSize)
	}
	return text, nil
}
