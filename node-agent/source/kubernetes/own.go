// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/berth-run/berth/api/v1alpha1"
)

// ownWrites holds the last status that this agent has written of each OCIBundle, to distinguish it
// from the writes of others. The zero value is ready.
type ownWrites struct {
	mu   sync.Mutex
	last map[types.UID]ownWrite
}

type ownWrite struct {
	// version is the resource version that the write came to.
	version string
	// pending is a status on its way, nil if there is none. The watch may show it before the answer
	// has come.
	pending *v1alpha1.OCIBundleStatus
}

// begin notes that a status is about to be written.
func (o *ownWrites) begin(b *v1alpha1.OCIBundle, status *v1alpha1.OCIBundleStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last == nil {
		o.last = map[types.UID]ownWrite{}
	}
	o.last[b.UID] = ownWrite{version: o.last[b.UID].version, pending: status}
}

// done notes that it was written.
func (o *ownWrites) done(b *v1alpha1.OCIBundle, version string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last[b.UID] = ownWrite{version: version}
}

// forget drops the data of an OCIBundle that is gone.
func (o *ownWrites) forget(b *v1alpha1.OCIBundle) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.last, b.UID)
}

// includes reports whether the status of an OCIBundle, as the watch shows it, is the agent's own,
// or older than that.
func (o *ownWrites) includes(b *v1alpha1.OCIBundle) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	last, ok := o.last[b.UID]
	if !ok {
		return false
	}
	if last.pending != nil && equality.Semantic.DeepEqual(*last.pending, b.Status) {
		return true
	}
	if last.version == "" {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(b.ResourceVersion, last.version)
	return err == nil && order <= 0
}
