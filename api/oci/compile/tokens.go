// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// defaultServiceAccount is the ServiceAccount that Kubernetes creates in every namespace.
const defaultServiceAccount = "default"

// The limits of a token's validity in seconds, as in a Pod (pkg/apis/core/validation).
const minTokenSeconds, maxTokenSeconds = 600, 1 << 32

// noIssuer is the reason for which an agent without a cluster refuses tokens.
const noIssuer = "takes a cluster, whose API server issues tokens: remove it, or write a token into a Secret"

// serviceAccount checks the name of the ServiceAccount, which tokens of volumes belong to.
func serviceAccount(d *draft) {
	name, at := d.in.ServiceAccountName, d.path.Child("serviceAccountName")
	switch {
	case name == "":
	case d.noServiceAccounts:
		d.refuse(at, noIssuer)
	default:
		for _, msg := range validation.IsDNS1123Subdomain(name) {
			d.invalid(at, name, msg)
		}
	}
}

// token checks a source with a token, which the agent asks the API server for.
func (b *volumeFiles) token(at *field.Path, p *corev1.ServiceAccountTokenProjection) {
	if b.noServiceAccounts {
		b.refuse(at, noIssuer)
		return
	}
	b.path(at.Child("path"), p.Path)
	if s := p.ExpirationSeconds; s != nil && (*s < minTokenSeconds || *s > maxTokenSeconds) {
		b.invalid(at.Child("expirationSeconds"), *s, "must be 600 (10 minutes) to 4294967296")
	}
	b.user(at.Child("user"), p.User)
	b.out.ServiceAccountName = cmp.Or(b.in.ServiceAccountName, defaultServiceAccount)
}
