// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/plan"
	"github.com/berth-run/berth/node-agent/scoped"
)

// maxPasswd bounds what is read of an image's passwd file.
const maxPasswd = 4 << 20

// home returns the home folder of the process's user: process.env's HOME has precedence, so that nothing is read where
// it is there, then the image's /etc/passwd, then "/".
func (m *maker) home() string {
	if plan.HasHome(m.spec.Process.Env) {
		return ""
	}
	if h := homeOf(m.rec.Rootfs, m.spec.Process.User.UID); h != "" {
		return h
	}
	return "/"
}

// homeOf looks a user up in the passwd file of a root filesystem, which is hostile: the path is resolved inside the root,
// the file must be a regular one, and is read up to a bound (passwd(5)).
func homeOf(rootfs string, uid uint32) string {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(root)
	return homeBelow(root, uid)
}

// homeBelow does so for a root filesystem that is open.
func homeBelow(root int, uid uint32) string {
	fd, err := scoped.Open(root, "etc/passwd", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), "passwd")
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return ""
	}
	return homeIn(f, uid)
}

// homeIn reads a passwd file. A home folder that no environment could hold is none.
func homeIn(passwd io.Reader, uid uint32) string {
	want := strconv.FormatUint(uint64(uid), 10)
	lines := bufio.NewScanner(io.LimitReader(passwd, maxPasswd))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) >= 6 && fields[2] == want && !strings.ContainsRune(fields[5], 0) {
			return fields[5]
		}
	}
	return ""
}
