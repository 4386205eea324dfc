// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"k8s.io/apimachinery/pkg/util/json"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/berth-run/berth/api/v1alpha1"
)

// digestPrefix begins spec.config of an OCIBundle in the cache. A runtime-spec document is some 20
// KiB, most of it the seccomp profile: ten thousand of them are not kept only to be compared.
const digestPrefix = `{"digest":"sha256:`

// TransformBundle reduces an OCIBundle before it enters the informer cache: managedFields are
// dropped, and spec.config is replaced by its digest. Such an object must never be written back.
func TransformBundle(object any) (any, error) {
	if b, ok := object.(*v1alpha1.OCIBundle); ok {
		b.ManagedFields = nil
		digestConfig(b)
		return b, nil
	}
	return object, nil // a DeletedFinalStateUnknown
}

var _ toolscache.TransformFunc = TransformBundle

// digestConfig replaces the config of b by its digest, if it is not one already.
func digestConfig(b *v1alpha1.OCIBundle) {
	if !bytes.HasPrefix(b.Spec.Config.Raw, []byte(digestPrefix)) {
		b.Spec.Config.Raw = digest(b.Spec.Config.Raw)
	}
}

// digest returns the digest of a document's canonical form, equal for documents that mean the same
// (sorted keys, no white space).
func digest(document []byte) []byte {
	var value any
	if err := json.Unmarshal(document, &value); err == nil {
		if canonical, err := json.Marshal(value); err == nil {
			document = canonical
		}
	}
	return fmt.Appendf(nil, `%s%x"}`, digestPrefix, sha256.Sum256(document))
}

// specDigest returns a digest of an OCIBundle's spec that is equal for the written, the read and
// the cached object.
func specDigest(spec *v1alpha1.OCIBundleSpec) string {
	b := v1alpha1.OCIBundle{Spec: *spec}
	digestConfig(&b)
	text, err := json.Marshal(b.Spec)
	if err != nil {
		return "" // the config is no JSON, which the API server does not take
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(text))
}
