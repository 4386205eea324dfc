// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/berth-run/berth/internal/durable"
)

// User is a container that uses volumes, or may use them at its next start.
type User struct {
	// ID is the name of the directory of its bundle.
	ID string `json:"-"`
	// Namespace and Container name the Container.
	Namespace string `json:"namespace"`
	Container string `json:"container"`
	// Claims are the names of the volumes, which are of the Container's namespace.
	Claims []string `json:"claims"`
}

// Uses reports whether the container uses a volume.
func (u User) Uses(id ID) bool {
	return u.Namespace == id.Namespace && slices.Contains(u.Claims, id.Name)
}

// usersVersion is the version of the format of bundles/*/claims.json.
const usersVersion = 1

type versioned struct {
	Version int `json:"version"`
	User
}

func (s *Store) userFile(id string) string {
	return filepath.Join(s.stateDir, "bundles", id, "claims.json")
}

// note writes down what a container uses.
func (s *Store) note(u User, claims []Claim) error {
	u.Claims = nil
	for _, c := range claims {
		u.Claims = append(u.Claims, c.Name)
	}
	data, err := json.Marshal(versioned{usersVersion, u})
	if err != nil {
		return err
	}
	// A boot of the machine ends the container, which is written down again before its next start.
	if err := durable.Replace(s.userFile(u.ID), data, durable.Options{}); err != nil {
		return fmt.Errorf("write down the user of volumes: %w", err)
	}
	return nil
}

// Forget forgets that a container uses volumes. It is no error if it uses none.
func (s *Store) Forget(id string) error {
	err := os.Remove(s.userFile(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the user of volumes: %w", err)
	}
	return nil
}

// Users returns the containers that use volumes. It fails if one of them cannot be read.
func (s *Store) Users() ([]User, error) {
	bundles, err := entries(filepath.Join(s.stateDir, "bundles"))
	if err != nil {
		return nil, fmt.Errorf("list the users of volumes: %w", err)
	}
	var out []User
	for _, id := range bundles {
		data, err := os.ReadFile(s.userFile(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var u versioned
		if err == nil {
			err = json.Unmarshal(data, &u)
		}
		if err == nil && u.Version > usersVersion {
			err = fmt.Errorf("found version %d; this program knows up to %d", u.Version, usersVersion)
		}
		if err != nil {
			return nil, fmt.Errorf("read a user of volumes, %s: %w", s.userFile(id), err)
		}
		u.ID = id
		out = append(out, u.User)
	}
	return out, nil
}
