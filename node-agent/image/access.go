// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-run/berth/node-agent/image/dockerconfig"
)

// maxAccess is the number of credentials that a record has. One that is forgotten is tried at the
// registry again.
const maxAccess = 64

// lookup returns the credentials for a repository in a caller's own configurations.
func lookup(r reference, repository string, own []*dockerconfig.Config) ([]dockerconfig.Credential,
	error,
) {
	var all []dockerconfig.Credential
	for _, config := range own {
		found, err := config.Lookup(repository)
		if err != nil {
			return nil, fmt.Errorf("image %s: credentials: %w", r.raw, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// lookupAll returns the credentials for the registry of a reference and its mirrors.
func (s *Store) lookupAll(r reference, own []*dockerconfig.Config) ([]dockerconfig.Credential,
	error,
) {
	if r.local() || len(own) == 0 {
		return nil, nil
	}
	all, err := lookup(r, r.remote.Context().Name(), own)
	if err != nil {
		return nil, err
	}
	// An image that is on the node needs no configuration of hosts.
	endpoints, err := s.endpoints(r)
	if err != nil {
		return all, nil //nolint:nilerr // a pull returns it
	}
	for i := range endpoints {
		more, err := lookup(r, endpoints[i].repository(r), own)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// opens reports whether the registry has shown the image of the record to somebody with one of
// these credentials, or to everybody.
func (rec *refRecord) opens(own []dockerconfig.Credential) bool {
	return len(rec.Access) == 0 ||
		slices.ContainsFunc(own, func(c dockerconfig.Credential) bool {
			return slices.ContainsFunc(rec.Access, func(digest string) bool {
				salt, _, _ := strings.Cut(digest, ":")
				return hmac.Equal([]byte(digest), []byte(credentialDigest(salt, c)))
			})
		})
}

// accessAfter returns refRecord.Access of a manifest that a registry has just shown.
func (rec *refRecord) accessAfter(reg *registry, same bool) []string {
	switch {
	case reg.own == nil:
		return nil // the node's credentials open it
	case !same:
		return []string{credentialDigest(rand.Text(), *reg.own)}
	case rec.opens([]dockerconfig.Credential{*reg.own}):
		return rec.Access
	}
	all := append(slices.Clone(rec.Access), credentialDigest(rand.Text(), *reg.own))
	return all[max(0, len(all)-maxAccess):]
}

// credentialDigest returns SALT:DIGEST of a credential, by which it can be recognized.
func credentialDigest(salt string, c dockerconfig.Credential) string {
	mac := hmac.New(sha256.New, []byte(salt))
	for _, part := range []string{c.Username, c.Password, c.IdentityToken, c.RegistryToken} {
		fmt.Fprintf(mac, "%d %s", len(part), part)
	}
	return salt + ":" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
