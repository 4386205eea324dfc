// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/accounts"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
	"github.com/berth-run/berth/node-agent/scoped"
)

// homeOf returns the home directory of the process's user. HOME in process.env has precedence, so
// that nothing is read if it is there; then comes the container's /etc/passwd, then "/".
func homeOf(spec *specs.Spec, rootfs, bundle string) string {
	if plan.HasHome(spec.Process.Env) {
		return ""
	}
	home, uid := "", spec.Process.User.UID
	switch root, file := passwd(spec, rootfs, bundle); {
	case root == "":
	case file == "":
		if fd, err := unix.Open(root, passwdFlags|unix.O_CLOEXEC, 0); err == nil {
			home = homeFrom(fd, uid)
		}
	default:
		if dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			home = homeBelow(dir, file, uid)
			unix.Close(dir)
		}
	}
	if home == "" {
		return "/"
	}
	return home
}

const (
	// passwdFile is the file with a container's users (passwd(5)).
	passwdFile  = "/etc/passwd"
	passwdFlags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
)

// passwd returns a directory of the host and the path of the container's passwd file in it: the
// image's, or that of a bind mount which covers it. The path is empty where the file itself is
// mounted, and both are where another kind of mount covers it.
func passwd(spec *specs.Spec, rootfs, bundle string) (root, file string) {
	// below returns what is left of the file's path below another.
	below := func(p string) (string, bool) {
		rest, found := strings.CutPrefix(passwdFile, strings.TrimSuffix(filepath.Clean(p), "/"))
		return rest, found && (rest == "" || rest[0] == '/')
	}
	for _, p := range spec.Linux.MaskedPaths {
		if _, masked := below(p); masked {
			return "", ""
		}
	}
	root, file = rootfs, passwdFile
	for _, mount := range spec.Mounts {
		has := func(option string) bool { return slices.Contains(mount.Options, option) }
		rest, covers := below(mount.Destination)
		switch {
		case !covers || has("remount") || has("tmpcopyup"):
		case mount.Type == "bind" || has("bind") || has("rbind"):
			root, file = mount.Source, rest
			if !filepath.IsAbs(root) {
				root = filepath.Join(bundle, root)
			}
		case mount.Type != "":
			root, file = "", ""
		}
	}
	return root, file
}

// homeBelow looks a user up in the passwd file of a root filesystem, which is hostile: the path is
// resolved inside the root.
func homeBelow(root int, file string, uid uint32) string {
	fd, err := scoped.Open(root, "./"+file, passwdFlags, unix.RESOLVE_IN_ROOT|
		unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return ""
	}
	return homeFrom(fd, uid)
}

// homeFrom reads a passwd file, if it is a regular file, and closes it.
func homeFrom(fd int, uid uint32) string {
	f := os.NewFile(uintptr(fd), "passwd")
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return ""
	}
	content, err := io.ReadAll(io.LimitReader(f, accounts.MaxFile))
	if err != nil {
		return ""
	}
	return accounts.Home(content, uid)
}
