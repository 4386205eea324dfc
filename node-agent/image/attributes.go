// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// describeDir gives a directory its owner, mode and attributes; its times are set at the end.
func (a *applier) describeDir(fd int, parts []string, h *tar.Header) error {
	if fd == a.root { // O_PATH: attributes need a real one
		own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		defer unix.Close(own)
		fd = own
	}
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if err := a.xattrs(h, func(name, value string) error {
		return unix.Fsetxattr(fd, name, []byte(value), 0)
	}); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, modeOf(h)); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	a.times = append(a.times, dirTime{path: strings.Join(parts, "/"), times: timesOf(h)})
	return nil
}

// describe gives anything but a directory its owner, attributes, mode and times, in this order:
// chown(2) clears setuid bits and file capabilities. fd is open for writing on a regular file, else
// -1.
func (a *applier) describe(parent int, base string, fd int, h *tar.Header, mode bool) error {
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	err := a.xattrs(h, func(name, value string) error {
		if fd >= 0 {
			return unix.Fsetxattr(fd, name, []byte(value), 0)
		}
		// A link or device must not be opened, and setxattrat(2) is of Linux 6.13.
		return unix.Lsetxattr("/proc/self/fd/"+strconv.Itoa(parent)+"/"+base, name, []byte(value), 0)
	})
	if err != nil {
		return err
	}
	if mode { // symbolic links have none
		if err := unix.Fchmodat(parent, base, modeOf(h), 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	t := timesOf(h)
	if err := unix.UtimesNanoAt(parent, base, t[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// modeOf returns the entry's permissions with setuid, setgid and sticky.
func modeOf(h *tar.Header) uint32 { return uint32(h.Mode) & 0o7777 }

func timesOf(h *tar.Header) [2]unix.Timespec {
	at := h.AccessTime
	if at.IsZero() {
		at = h.ModTime
	}
	spec := func(t time.Time) unix.Timespec {
		return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	}
	return [2]unix.Timespec{spec(at), spec(h.ModTime)}
}

// hostXattrs belong to the host's security policy: an image's word for them would be foreign, or an
// attack.
var hostXattrs = []string{
	"security.selinux", "security.ima", "security.evm", "security.apparmor",
	"security.SMACK64",
}

// xattrs sets the extended attributes of an entry, in a fixed order. Those that the filesystem does
// not take are passed over (image-spec layer.md: "where supported"), but never a capability: the
// program would lose what it needs to work.
func (a *applier) xattrs(h *tar.Header, set func(name, value string) error) error {
	attributes, err := xattrsOf(h)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		switch {
		case strings.HasPrefix(name, "trusted.overlay."):
			return &EntryError{
				Entry: h.Name,
				Reason: fmt.Sprintf("extended attribute: found %q, which is overlayfs's own; allowed: others",
					shorten(name)),
			}
		case strings.HasPrefix(name, userOverlay), slices.ContainsFunc(hostXattrs, func(p string) bool {
			return strings.HasPrefix(name, p)
		}):
			a.skip(name)
			continue
		}
		switch err := set(name, attributes[name]); {
		case err == nil:
		case name != "security.capability" && unsupportedXattr(name, err):
			a.skip(name)
		default:
			return &EntryError{Entry: h.Name, Reason: fmt.Sprintf("extended attribute %q cannot be set",
				shorten(name)), Err: err}
		}
	}
	return nil
}

// maxSkipped bounds the names that are remembered of a layer, which may have a new one in each
// entry.
const maxSkipped = 16

func (a *applier) skip(name string) {
	if len(a.skipped) < maxSkipped && !slices.Contains(a.skipped, shorten(name)) {
		a.skipped = append(a.skipped, shorten(name))
	}
}

// unsupportedXattr reports whether an error of setxattr(2) means that the file or its filesystem
// has no such attributes. The kernel answers EPERM for user.* of anything but files and directories
// (xattr(7)).
func unsupportedXattr(name string, err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) &&
		strings.HasPrefix(name, "user.")
}

// xattrsOf returns the extended attributes of an entry. Most programs write SCHILY's form; bsdtar
// adds its own, with the name escaped as in a URL and the value in base64, and may write that
// alone.
func xattrsOf(h *tar.Header) (map[string]string, error) {
	out := map[string]string{}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrRecord); ok {
			out[name] = v
		}
	}
	for k, v := range h.PAXRecords {
		escaped, ok := strings.CutPrefix(k, bsdXattrRecord)
		if !ok {
			continue
		}
		name, err := url.PathUnescape(escaped)
		if err != nil {
			return nil, &EntryError{
				Entry: h.Name,
				Reason: fmt.Sprintf("extended attribute: found %q; allowed: a name escaped as in a URL",
					shorten(escaped)),
			}
		}
		if _, known := out[name]; known {
			continue
		}
		value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "="))
		if err != nil {
			return nil, &EntryError{
				Entry:  h.Name,
				Reason: fmt.Sprintf("extended attribute %q: found no base64", shorten(name)),
			}
		}
		out[name] = string(value)
	}
	return out, nil
}

func overlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, userOverlay)
}
