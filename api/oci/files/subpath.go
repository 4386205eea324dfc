// SPDX-License-Identifier: Apache-2.0

package files

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/berth-run/berth/api/oci/environment"
)

// CheckSubPath returns an error if a volumeMount may not name that path in a volume.
func CheckSubPath(p string) error {
	switch {
	case p == "":
		return errors.New("must not be empty")
	case strings.HasPrefix(p, "/"):
		return errors.New("must be relative to the volume: remove the leading /")
	case slices.Contains(strings.Split(p, "/"), ".."):
		return errors.New(`must not contain ".."`)
	case strings.Contains(p, "\x00"):
		return errors.New("must not contain a NUL byte")
	case len(p) > maxSubPath:
		return errors.New("must not be longer than 4096 bytes")
	}
	return nil
}

// maxSubPath is the greatest length of a path in bytes (PATH_MAX).
const maxSubPath = 4096

// ExpandSubPath returns the path that a subPathExpr gives with these variables. Its errors have no
// values, which may be those of Secrets.
func ExpandSubPath(expr string, variables map[string]string) (string, error) {
	p, err := environment.ExpandKnown(expr, variables)
	if err != nil {
		return "", err
	}
	if err := CheckSubPath(p); err != nil {
		return "", fmt.Errorf("with the values of its variables, the path %w", err)
	}
	return path.Clean(p), nil
}
