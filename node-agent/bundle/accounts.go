// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/accounts"
	"github.com/berth-run/berth/node-agent/scoped"
)

// ReadAccounts reads etc/passwd and etc/group of the root filesystem at rootfs. A file that is not
// there knows nobody; one that is no regular file, or is too large, is an error.
func ReadAccounts(rootfs string) (accounts.Accounts, error) {
	var a accounts.Accounts
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return a, fmt.Errorf("open rootfs %s: %w", rootfs, err)
	}
	defer unix.Close(root)
	passwd, err := readInRoot(root, "etc/passwd")
	if err != nil {
		return a, err
	}
	groups, err := readInRoot(root, "etc/group")
	if err != nil {
		return a, err
	}
	return accounts.Parse(passwd, groups), nil
}

// readInRoot reads a regular file below the directory root, which every symlink and .. on the way
// is held in. A file that is not there is empty.
func readInRoot(root int, path string) ([]byte, error) {
	fd, err := scoped.Open(root, path, unix.O_PATH, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open /%s of the rootfs: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("open /%s of the rootfs: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf(
			"/%s of the rootfs: found something other than a regular file; allowed: a regular file", path)
	}
	// Only now that it is known to be a regular file is it opened: opening a device can do harm.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, fmt.Errorf("open /%s of the rootfs: %w", path, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, accounts.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read /%s of the rootfs: %w", path, err)
	}
	if len(content) > accounts.MaxFile {
		return nil, fmt.Errorf("/%s of the rootfs: found more than %d bytes; allowed: %d", path,
			accounts.MaxFile, accounts.MaxFile)
	}
	return content, nil
}
