// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/environment"
)

// ReadVolumeFile reads a file of variables in a volume; found is false if the volume does not have
// it.
//
// A volume is hostile: containers write to it, also at this moment. The file is opened beneath the
// volume, and read only once it is known to be a regular one: opening a device can do harm.
func ReadVolumeFile(volume, in string) (file environment.File, found bool, err error) {
	dir, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return file, false, &fs.PathError{Op: "open", Path: volume, Err: err}
	}
	defer unix.Close(dir)
	fd, err := beneath(dir, in, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return file, false, nil
	}
	if err != nil {
		return environment.File{Fault: volumeFileFault(err)}, true, nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return file, false, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return environment.File{Fault: "it is no regular file"}, true, nil
	}
	// A container may hold a lease on its file (F_SETLEASE in fcntl(2)), for which open(2) waits
	// 45 s, unless it is told not to.
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EAGAIN) {
		return environment.File{Fault: "a process has a lease on it"}, true, nil
	}
	if err != nil {
		return file, false, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, environment.MaxFile+1))
	if err != nil {
		return file, false, err
	}
	if len(text) > environment.MaxFile {
		return environment.File{
			Fault: fmt.Sprintf("it has more than %d bytes", environment.MaxFile),
		}, true, nil
	}
	return environment.File{Text: string(text)}, true, nil
}

// volumeFileFault returns why a path in a volume cannot be opened.
func volumeFileFault(err error) string {
	switch {
	case errors.Is(err, unix.EXDEV):
		return "a symbolic link leads out of the volume"
	case errors.Is(err, unix.ELOOP):
		return "a symbolic link leads nowhere"
	case errors.Is(err, unix.ENOTDIR):
		return "a file is in place of a directory"
	}
	return err.Error()
}
