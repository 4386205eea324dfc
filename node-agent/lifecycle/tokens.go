// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/files"
)

// Tokens has the tokens of ServiceAccounts. Config.Wake is called when one has changed.
type Tokens interface {
	// Token returns a valid token of a ServiceAccount, or why there is none yet: source.ErrNotAsked
	// if that is not known. An error has no token in it.
	Token(namespace, account string, p *corev1.ServiceAccountTokenProjection) (string, error)
}

// noTokenError says why there is no token yet.
type noTokenError struct {
	at  string
	err error
}

func (e *noTokenError) Error() string { return e.at + ": " + e.err.Error() }
func (e *noTokenError) Unwrap() error { return e.err }

// tokenMode is the mode of a token that not everybody in the container is to read.
const tokenMode = 0o600

// Token is part of files.Values. As in a Pod, a token is for the container's user, or for the group
// of its volumes, where the Container names one of them.
func (v nodeValues) Token(at string, p *corev1.ServiceAccountTokenProjection) (files.File, error) {
	if v.tokens == nil {
		return files.File{}, fmt.Errorf("%s: found a token; allowed: none, since this agent has no cluster",
			at)
	}
	spec := &v.c.Bundle.Spec
	value, err := v.tokens.Token(v.c.Bundle.Owner().Namespace, spec.ServiceAccountName, p)
	if err != nil {
		return files.File{}, &noTokenError{at, err}
	}
	file := files.File{Data: value}
	if spec.Process.RunAsUser != nil {
		file.Mode, file.Owner = tokenMode, uint32(*spec.Process.RunAsUser)
	}
	if spec.Security != nil && spec.Security.FSGroup != nil {
		file.Mode = tokenMode
	}
	return file, nil
}
