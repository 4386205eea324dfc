// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// MaxConfig bounds a config.json, in bytes.
const MaxConfig = 16 << 20

// ReadConfig reads a bundle's document, bounded by MaxConfig.
func ReadConfig(file string) ([]byte, error) {
	data, err := readBounded(file, MaxConfig)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("JSON specification file %s not found", file)
	}
	return data, err
}

// ReadNamed reads a file that a caller names, bounded by MaxConfig. It may be a pipe such as
// /dev/stdin or a shell's <(...).
func ReadNamed(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, MaxConfig)
}

// readBounded reads a regular file of at most so many bytes.
func readBounded(file string, most int64) ([]byte, error) { return readFile(file, most, 0, nil) }

// ReadOwn reads a regular file of at most so many bytes that belongs to this process's user. It
// follows no link: a record names programs to execute.
func ReadOwn(file string, most int64) ([]byte, error) {
	return readFile(file, most, unix.O_NOFOLLOW, func(st *unix.Stat_t) error {
		if st.Uid != uint32(os.Geteuid()) {
			return fmt.Errorf("%s: it belongs to user %d, and is read for user %d", file, st.Uid,
				os.Geteuid())
		}
		return nil
	})
}

// readFile reads a regular file of at most so many bytes that passes a check, if there is one.
func readFile(file string, most int64, flags int, check func(*unix.Stat_t) error) ([]byte, error) {
	// A fifo in the place of the file must not hang the reader.
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: file, Err: err}
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s: found something other than a regular file", file)
	}
	if check != nil {
		if err := check(&st); err != nil {
			return nil, err
		}
	}
	return readAll(f, most)
}

// readAll reads at most so many bytes, and fails where there are more.
func readAll(f *os.File, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s: found more than %d bytes", f.Name(), most)
	}
	return data, nil
}
