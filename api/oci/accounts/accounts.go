// SPDX-License-Identifier: Apache-2.0

// Package accounts looks up users and groups in the contents of a root filesystem's /etc/passwd
// and /etc/group (passwd(5), group(5)), which are hostile.
//
//	a := accounts.Parse(passwd, groups)
//	ids, err := a.Find("app:wheel")
//	home := accounts.Home(passwd, 1000)
//
// It is pure: whoever has the root filesystem reads the files, up to MaxFile bytes. It must not
// know Kubernetes, since the native runtime uses it.
package accounts

import (
	"bytes"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
)

// MaxFile bounds what is read of /etc/passwd and /etc/group (CVE-2023-25153 was an unbounded read).
// 4 MiB is some 60,000 users.
const MaxFile = 4 << 20

// Accounts are the users and groups of a root filesystem. The zero value is empty.
type Accounts struct {
	users  []user
	groups []group
}

type user struct {
	name     string
	uid, gid uint32
	home     string
}

type group struct {
	name    string
	gid     uint32
	members []string
}

// Parse returns the accounts in the contents of passwd(5) and group(5), without those whose id is
// above 2^31-1: see parseID.
func Parse(passwd, groups []byte) Accounts {
	var a Accounts
	for u := range users(passwd) {
		if u.uid <= math.MaxInt32 && u.gid <= math.MaxInt32 {
			a.users = append(a.users, u)
		}
	}
	for f := range lines(groups) {
		if len(f) < 3 || !isName(f[0]) {
			continue
		}
		gid, err := parseID(f[2])
		if err != nil {
			continue
		}
		g := group{name: f[0], gid: gid}
		if len(f) > 3 && f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		a.groups = append(a.groups, g)
	}
	return a
}

// Home returns the home directory of a user in the content of passwd(5), or "" if it has none. It
// skips a directory with a NUL byte in its name, which no environment variable can hold.
func Home(passwd []byte, uid uint32) string {
	for u := range users(passwd) {
		if u.uid == uid && strings.IndexByte(u.home, 0) < 0 {
			return u.home
		}
	}
	return ""
}

// users returns the users in the content of passwd(5). Lines that are no account are passed over,
// as login does.
func users(passwd []byte) iter.Seq[user] {
	return func(yield func(user) bool) {
		for f := range lines(passwd) {
			if len(f) < 4 || !isName(f[0]) || !isNumber(f[2]) || !isNumber(f[3]) {
				continue
			}
			uid, err1 := strconv.ParseUint(f[2], 10, 32)
			gid, err2 := strconv.ParseUint(f[3], 10, 32)
			if err1 != nil || err2 != nil {
				continue
			}
			u := user{name: f[0], uid: uint32(uid), gid: uint32(gid)}
			if len(f) > 5 {
				u.home = f[5]
			}
			if !yield(u) {
				return
			}
		}
	}
}

// lines returns the fields of each line that is neither empty nor a comment.
func lines(content []byte) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		for line := range bytes.SplitSeq(content, []byte("\n")) {
			line = bytes.TrimSpace(line)
			if len(line) > 0 && line[0] != '#' && !yield(strings.Split(string(line), ":")) {
				return
			}
		}
	}
}

// isName reports whether a line's first field names an account. Lines that begin with a sign are
// for the name service (nsswitch.conf(5), compat). As names they would give a number such as -1 the
// id that the image likes (CVE-2026-46680).
func isName(s string) bool { return s != "" && s[0] != '+' && s[0] != '-' }

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// parseID reads a user or group id. Ids above 2^31-1 are refused: they wrap to negative ones, or to
// 0, in programs that use int (CVE-2024-40635).
func parseID(s string) (uint32, error) {
	if !isNumber(s) {
		return 0, fmt.Errorf("found %q; allowed: a number from 0 to %d", s, math.MaxInt32)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt32 {
		return 0, fmt.Errorf("found %s; allowed: a number from 0 to %d", s, math.MaxInt32)
	}
	return uint32(n), nil
}

// Identity is the user and the groups of a process.
type Identity struct {
	UID, GID uint32
	// Groups are the supplementary ones.
	Groups []uint32
	Home   string
}

// Identify resolves the User of an image's config ("", user, uid, user:group and so on), over which
// the ids that the user of Berth set go. As in Kubernetes, a uid that the image knows brings its
// primary group where none is given, and the groups that the user is a member of are the
// supplementary ones.
func (a Accounts) Identify(imageUser string, runAsUser, runAsGroup *int64) (Identity, error) {
	var id Identity
	var known *user
	userPart, groupPart, hasGroup := strings.Cut(imageUser, ":")
	switch {
	case runAsUser != nil:
		if *runAsUser < 0 || *runAsUser > math.MaxInt32 {
			return id, fmt.Errorf("process.runAsUser: found %d; allowed: 0 to %d", *runAsUser, math.MaxInt32)
		}
		id.UID = uint32(*runAsUser)
		known = a.byUID(id.UID)
		hasGroup = false // the group of the image's config goes with the user of the image's config
	case imageUser == "":
		known = a.byUID(0)
	case userPart == "":
		return id, fmt.Errorf(
			"user of the image's config: found %q; allowed: user, uid, or either with :group", imageUser)
	case isNumber(userPart):
		uid, err := parseID(userPart)
		if err != nil {
			return id, fmt.Errorf("user of the image's config: %w", err)
		}
		id.UID = uid
		known = a.byUID(uid)
	default:
		if known = a.byName(userPart); known == nil {
			return id, fmt.Errorf(
				"user of the image's config: found %q, which the image's /etc/passwd does not know; allowed: a user that it knows, a uid, or set securityContext.runAsUser", userPart)
		}
		id.UID = known.uid
	}
	if known != nil {
		id.GID = known.gid
		id.Home = known.home
	}
	switch {
	case runAsGroup != nil:
		if *runAsGroup < 0 || *runAsGroup > math.MaxInt32 {
			return id, fmt.Errorf("process.runAsGroup: found %d; allowed: 0 to %d", *runAsGroup,
				math.MaxInt32)
		}
		id.GID = uint32(*runAsGroup)
	case hasGroup:
		gid, err := a.groupID(groupPart)
		if err != nil {
			return id, fmt.Errorf("group of the image's config: %w", err)
		}
		id.GID = gid
	}
	// The primary group stands among the supplementary ones too, so that a file of that group stays
	// refused to a process which gives its primary group up (CVE-2022-36109).
	id.Groups = []uint32{id.GID}
	if known != nil {
		for _, gid := range a.memberships(known.name) {
			if gid != id.GID {
				id.Groups = append(id.Groups, gid)
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
		return ids, fmt.Errorf(
			"found %q, which /etc/passwd does not know; allowed: a user that it knows, or a uid", name)
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

func (a Accounts) byName(name string) *user {
	i := slices.IndexFunc(a.users, func(u user) bool { return u.name == name })
	if i < 0 {
		return nil
	}
	return &a.users[i]
}

func (a Accounts) byUID(uid uint32) *user {
	for i := range a.users {
		if a.users[i].uid == uid {
			return &a.users[i]
		}
	}
	return nil
}

func (a Accounts) groupID(s string) (uint32, error) {
	if isNumber(s) {
		return parseID(s)
	}
	for _, g := range a.groups {
		if s != "" && g.name == s {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf(
		"found %q, which /etc/group does not know; allowed: a group that it knows, or a gid", s)
}
