// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/node-agent/scoped"
)

// maxSeccomp is the greatest size of a seccomp profile's file. Docker's default profile has 14 KiB.
const maxSeccomp = 1 << 20

// ReadSeccomp reads a seccomp profile of the node: the file at path below the directory root, in
// the format of the runtime specification, as the kubelet has it. Links lead to no file outside of
// root.
func ReadSeccomp(root, path string) (*specs.LinuxSeccomp, error) {
	at := filepath.Join(root, path)
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("found no directory of seccomp profiles at %s (%w);"+
			" allowed: a file below it, or the agent's --seccomp-profile-root", root, err)
	}
	defer unix.Close(dir)
	// O_NONBLOCK: opening a fifo would wait for somebody who writes into it.
	fd, err := scoped.Open(dir, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("found nothing at %s on this node; allowed: a seccomp profile", at)
	case errors.Is(err, unix.EXDEV):
		return nil, fmt.Errorf("found %s, which leads out of %s; allowed: a file below it", at, root)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", at, err)
	}
	f := os.NewFile(uintptr(fd), at)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("found %s (%s); allowed: a regular file", at, kindOf(info.Mode()))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSeccomp+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", at, err)
	}
	if len(text) > maxSeccomp {
		return nil, fmt.Errorf("found more than %d bytes in %s; allowed: at most so many", maxSeccomp, at)
	}
	profile, faults := validate.SeccompJSON(text, validate.Options{})
	if err := faults.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return profile, nil
}
