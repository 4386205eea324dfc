// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/scoped"
)

// maxLinks is the number of symbolic links that the kernel follows in one path (MAXSYMLINKS,
// path_resolution(7)).
const maxLinks = 40

// danglingDestinations returns, by the index of a mount, where its destination leads if that is by
// a symbolic link of the image to a file that does not exist, such as an /etc/resolv.conf that
// points below /run: the target of the link has to be created and mounted on. The image may change
// at the same time; a result is no more than another path inside the root, which the plan resolves
// there.
func danglingDestinations(rootfs string, mounts []specs.Mount) (map[int]string, error) {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("root.path: %w", &os.PathError{Op: "open", Path: rootfs, Err: err})
	}
	defer unix.Close(root)
	var out map[int]string
	for i, m := range mounts {
		if m.Type == "proc" || m.Type == "sysfs" || slices.ContainsFunc(m.Options, aboutLinks) ||
			covered(mounts[:i], m.Destination) {
			continue // it follows no link at its destination, or what is there then is the mount's before
		}
		fd, err := scoped.Open(root, strings.TrimPrefix(path.Clean("/"+m.Destination), "/"), unix.O_PATH,
			unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
		if err == nil {
			unix.Close(fd)
			continue
		}
		if !errors.Is(err, unix.ENOENT) {
			continue // the plan says what is wrong
		}
		if target := followLinks(root, m.Destination); target != path.Clean("/"+m.Destination) {
			if out == nil {
				out = map[int]string{}
			}
			out[i] = target
		}
	}
	return out, nil
}

// aboutLinks reports whether an option has a mount put on a symbolic link, or in its place.
func aboutLinks(option string) bool { return option == "dest-nofollow" || option == "copy-symlink" }

// covered reports whether a path lies below the destination of one of the mounts.
func covered(mounts []specs.Mount, p string) bool {
	for _, m := range mounts {
		d := path.Clean("/" + m.Destination)
		if d == "/" || strings.HasPrefix(path.Clean("/"+p)+"/", d+"/") {
			return true
		}
	}
	return false
}

// followLinks follows the symbolic links of a path as if root were the root, also those that lead
// to nothing.
func followLinks(root int, p string) string {
	at, rest := "/", strings.Split(path.Clean("/" + p)[1:], "/")
	target := make([]byte, unix.PathMax)
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0]) // ".." ends at "/"
		rest = rest[1:]
		if next == "/" {
			at = next
			continue
		}
		n, err := unix.Readlinkat(root, next[1:], target)
		if err != nil {
			at = next // no link, or nothing at all
			continue
		}
		if links++; links > maxLinks {
			break
		}
		link := string(target[:n])
		if path.IsAbs(link) {
			at = "/"
		}
		rest = append(strings.Split(link, "/"), rest...)
	}
	return at
}
