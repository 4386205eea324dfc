// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/scoped"
)

// maxAccountsFile bounds /etc/passwd and /etc/group of an image, which is hostile (CVE-2023-25153
// was an unbounded read). 4 MiB is some 60,000 users.
const maxAccountsFile = 4 << 20

// Accounts are the users and groups of a root filesystem. The zero value is empty.
type Accounts struct {
	users  []account
	groups []group
}

type account struct {
	name     string
	uid, gid uint32
	home     string
}

type group struct {
	name    string
	gid     uint32
	members []string
}

// ReadAccounts reads etc/passwd and etc/group of the root filesystem at rootfs. A file that is not
// there knows nobody; one that is no regular file, or is too large, is an error. Lines that are no
// account are passed over, as login does.
func ReadAccounts(rootfs string) (Accounts, error) {
	var a Accounts
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
	return ParseAccounts(passwd, groups), nil
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
		return nil, fmt.Errorf("/%s of the rootfs: found something other than a regular file; allowed: a regular file", path)
	}
	// Only now that it is known to be a regular file is it opened: opening a device can do harm.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, fmt.Errorf("open /%s of the rootfs: %w", path, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxAccountsFile+1))
	if err != nil {
		return nil, fmt.Errorf("read /%s of the rootfs: %w", path, err)
	}
	if len(content) > maxAccountsFile {
		return nil, fmt.Errorf("/%s of the rootfs: found more than %d bytes; allowed: %d", path, maxAccountsFile, maxAccountsFile)
	}
	return content, nil
}

// ParseAccounts reads the content of passwd(5) and group(5).
func ParseAccounts(passwd, groups []byte) Accounts {
	var a Accounts
	lines(passwd, func(f []string) {
		if len(f) < 4 || f[0] == "" {
			return
		}
		uid, err1 := parseID(f[2])
		gid, err2 := parseID(f[3])
		if err1 != nil || err2 != nil {
			return
		}
		home := ""
		if len(f) > 5 {
			home = f[5]
		}
		a.users = append(a.users, account{name: f[0], uid: uid, gid: gid, home: home})
	})
	lines(groups, func(f []string) {
		if len(f) < 3 || f[0] == "" {
			return
		}
		gid, err := parseID(f[2])
		if err != nil {
			return
		}
		g := group{name: f[0], gid: gid}
		if len(f) > 3 && f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		a.groups = append(a.groups, g)
	})
	return a
}

func lines(content []byte, each func(fields []string)) {
	s := bufio.NewScanner(bytes.NewReader(content))
	s.Buffer(nil, maxAccountsFile+1)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			each(strings.Split(line, ":"))
		}
	}
}

// parseID reads a user or group id. Ids above 2^31-1 are refused: they wrap to negative ones, or to
// 0, in programs that use int (CVE-2024-40635).
func parseID(s string) (uint32, error) {
	if s == "" || strings.TrimLeft(s, "0123456789") != "" {
		return 0, fmt.Errorf("found %q; allowed: a number from 0 to %d", s, math.MaxInt32)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt32 {
		return 0, fmt.Errorf("found %s; allowed: a number from 0 to %d", s, math.MaxInt32)
	}
	return uint32(n), nil
}

// identity is the user and the groups of a process.
type identity struct {
	uid, gid uint32
	groups   []uint32 // the supplementary groups
	home     string
}

// identity resolves the User of an image's config ("", user, uid, user:group and so on), over which
// the ids that the user of Berth set go. As in Kubernetes, a uid that the image knows brings its
// primary group where none is given, and the groups that the user is a member of are the
// supplementary ones.
func (a Accounts) identity(imageUser string, runAsUser, runAsGroup *int64) (identity, error) {
	var id identity
	var known *account
	userPart, groupPart, hasGroup := strings.Cut(imageUser, ":")
	switch {
	case runAsUser != nil:
		if *runAsUser < 0 || *runAsUser > math.MaxInt32 {
			return id, fmt.Errorf("process.runAsUser: found %d; allowed: 0 to %d", *runAsUser, math.MaxInt32)
		}
		id.uid = uint32(*runAsUser)
		known = a.byUID(id.uid)
		hasGroup = false // the group of the image's config goes with the user of the image's config
	case imageUser == "":
		known = a.byUID(0)
	case userPart == "":
		return id, fmt.Errorf("user of the image's config: found %q; allowed: user, uid, or either with :group", imageUser)
	case strings.TrimLeft(userPart, "0123456789") == "":
		uid, err := parseID(userPart)
		if err != nil {
			return id, fmt.Errorf("user of the image's config: %w", err)
		}
		id.uid = uid
		known = a.byUID(uid)
	default:
		if known = a.byName(userPart); known == nil {
			return id, fmt.Errorf("user of the image's config: found %q, which the image's /etc/passwd does not know; allowed: a user that it knows, a uid, or set securityContext.runAsUser", userPart)
		}
		id.uid = known.uid
	}
	if known != nil {
		id.gid = known.gid
		id.home = known.home
	}
	switch {
	case runAsGroup != nil:
		if *runAsGroup < 0 || *runAsGroup > math.MaxInt32 {
			return id, fmt.Errorf("process.runAsGroup: found %d; allowed: 0 to %d", *runAsGroup, math.MaxInt32)
		}
		id.gid = uint32(*runAsGroup)
	case hasGroup:
		gid, err := a.groupID(groupPart)
		if err != nil {
			return id, fmt.Errorf("group of the image's config: %w", err)
		}
		id.gid = gid
	}
	// The primary group stands among the supplementary ones too, so that a file of that group stays
	// refused to a process which gives its primary group up (CVE-2022-36109).
	id.groups = []uint32{id.gid}
	if known != nil {
		for _, gid := range a.memberships(known.name) {
			if gid != id.gid {
				id.groups = append(id.groups, gid)
			}
		}
	}
	return id, nil
}

// IDs are a user's, and its groups besides the primary one.
type IDs struct {
	UID, GID uint32
	Groups   []uint32
}

// Find returns the ids of a user that is given as a name or a uid, with or without :GROUP, which is
// a name or a gid. As for docker and podman, a user without :GROUP has the groups that it is a
// member of.
func (a Accounts) Find(user string) (IDs, error) {
	var ids IDs
	name, groupName, hasGroup := strings.Cut(user, ":")
	known := a.byName(name)
	uid, err := parseID(name)
	switch {
	case err == nil:
		ids.UID = uid
		known = a.byUID(uid)
	case known == nil:
		return ids, fmt.Errorf("found %q, which /etc/passwd does not know; allowed: a user that it knows, or a uid", name)
	default:
		ids.UID = known.uid
	}
	if hasGroup {
		ids.GID, err = a.groupID(groupName)
		return ids, err
	}
	if known != nil {
		ids.GID = known.gid
		ids.Groups = a.memberships(known.name)
	}
	return ids, nil
}

// memberships returns the groups that list the user.
func (a Accounts) memberships(user string) []uint32 {
	var ids []uint32
	for _, g := range a.groups {
		if slices.Contains(g.members, user) && !slices.Contains(ids, g.gid) {
			ids = append(ids, g.gid)
		}
	}
	return ids
}

func (a Accounts) byName(name string) *account {
	i := slices.IndexFunc(a.users, func(u account) bool { return u.name == name })
	if i < 0 {
		return nil
	}
	return &a.users[i]
}

func (a Accounts) byUID(uid uint32) *account {
	for i := range a.users {
		if a.users[i].uid == uid {
			return &a.users[i]
		}
	}
	return nil
}

func (a Accounts) groupID(s string) (uint32, error) {
	if s != "" && strings.TrimLeft(s, "0123456789") == "" {
		return parseID(s)
	}
	for _, g := range a.groups {
		if s != "" && g.name == s {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf("found %q, which /etc/group does not know; allowed: a group that it knows, or a gid", s)
}
