// SPDX-License-Identifier: Apache-2.0

// Package containerid has the rule for the ids of containers, one for `berth` and the supervisor:
//
//	id   = char { char }, of at most MaxLen bytes, but neither "." nor ".."
//	char = A-Z | a-z | 0-9 | "_" | "+" | "-" | "."
//
// An id is the name of a directory, so none may lead out of its parent. A new container's id does
// not begin with "." (CheckNew), and one that the supervisor is given is shorter and begins with a
// letter, a digit or "_" (CheckSupervised).
package containerid

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxLen is the greatest length of an id in bytes, as runc has it.
	MaxLen = 1024
	// MaxSupervised is the greatest length of an id that the supervisor is given. It leaves room for
	// what is put before and behind an id in names of at most 255 bytes: files (NAME_MAX), and
	// systemd's units and stored descriptors.
	MaxSupervised = 128
)

// ErrInvalid says that an id breaks the rule. Clients of runc look for these words.
var ErrInvalid = errors.New("invalid container ID format")

// Check refuses a string that cannot be the id of a container.
func Check(id string) error {
	if id == "" || id == "." || id == ".." || len(id) > MaxLen {
		return ErrInvalid
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '_', c == '+', c == '-', c == '.':
		case c > ' ' && c < 0x7f:
			// crun's words behind runc's
			return fmt.Errorf("%w: invalid character `%c` in the ID", ErrInvalid, c)
		default:
			return ErrInvalid
		}
	}
	return nil
}

// CheckNew is Check for a container that is to be created. It refuses names of hidden files, too,
// as crun does. Containers that have such an id already are still found by it.
func CheckNew(id string) error {
	if strings.HasPrefix(id, ".") {
		return fmt.Errorf("%w: it begins with a dot", ErrInvalid)
	}
	return Check(id)
}

// CheckSupervised is CheckNew for a container of the supervisor. Other runtimes take the id as an
// argument of their command line, where one that begins with "-" is an option.
func CheckSupervised(id string) error {
	if len(id) > MaxSupervised {
		return fmt.Errorf("id: found %d bytes; allowed: at most %d", len(id), MaxSupervised)
	}
	if CheckNew(id) != nil || id[0] == '+' || id[0] == '-' {
		return fmt.Errorf(
			"id: found %q; allowed: 1 to %d of A-Z a-z 0-9 _ + - and dot, beginning with a letter, a digit or \"_\"",
			id, MaxSupervised)
	}
	return nil
}
