// SPDX-License-Identifier: Apache-2.0

// Package source defines sources of desired bundles. There are two: the Kubernetes API
// (source/kubernetes) and a folder of manifests (source/folder). The rest of the agent cannot tell
// them apart.
//
// It must not know how a bundle is run, nor keep anything about one but what is desired.
package source

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/v1alpha1"
)

// ErrNotAsked is for what a source would have from others, and has not asked for yet: whether it
// can be had is not known.
var ErrNotAsked = errors.New("the API server has not been asked yet")

// Key names a bundle. A bundle that is deleted and made again under the same name has the same key
// and another UID.
type Key = types.NamespacedName

// AnnotationRun on a bundle is the digest of the Container's fields about the process itself. Only
// a source that compiles sets it, in memory: while it stays the same, another document is another
// version's, and not an edit.
const AnnotationRun = "berth.run/local-run-digest"

// AnnotationFixed on a bundle is the digest of the fields that a running container cannot get.
// While it stays the same, no more of another document is an edit than the rest.
const AnnotationFixed = "berth.run/local-fixed-digest"

// What an administrator of the node asks for besides what a bundle says. A source that no
// administrator of the node can speak to sets neither, whatever its bundles have.
const (
	// AnnotationStopped is on a bundle whose container is to be stopped and stay so.
	AnnotationStopped = "berth.run/stopped"
	// AnnotationRestart is on a bundle whose container is to be started afresh each time that the
	// value changes.
	AnnotationRestart = "berth.run/restart"
)

// Conditions returns the types of the conditions that an agent reports for a bundle.
func Conditions() []string {
	return []string{
		v1alpha1.ConditionAccepted, v1alpha1.ConditionRecompileAvailable,
		v1alpha1.ConditionImageReady, v1alpha1.ConditionRunning, v1alpha1.ConditionDegraded,
		v1alpha1.ConditionDNSConfigured,
	}
}

// Events receives changes. Its methods return at once and may be called from any goroutine.
type Events interface {
	// Changed says that a bundle is new, was changed, is no longer wanted, or that somebody else
	// has written its status. It may be said once too often.
	Changed(Key)
	// Synced says that Source.Synced has become true.
	Synced()
}

// Source delivers desired bundles and takes reports of their status.
//
// Its methods may be called from many goroutines. ReportStatus and Release may be repeated until
// they succeed; repeating them after success does no harm.
type Source interface {
	// Run follows the source and reports changes until ctx ends. It may be called again after it
	// failed.
	Run(ctx context.Context, events Events) error
	// Synced reports whether all that is wanted is known. Until then a bundle that Get does not
	// find may be wanted all the same.
	Synced() bool
	// Get returns the bundle as it is wanted now, with the status that was reported last, or nil
	// when nobody wants it. A bundle with a deletionTimestamp is to be removed. The caller does not
	// change what it gets.
	Get(Key) *v1alpha1.OCIBundle
	// List returns all that Get would, without their config.
	List() []*v1alpha1.OCIBundle
	// ReportStatus sets the status of the bundle of that key and UID, replacing the last report. It
	// is no error when the bundle is gone.
	ReportStatus(ctx context.Context, bundle *v1alpha1.OCIBundle,
		status *v1alpha1.OCIBundleStatus) error
	// Release says that nothing is left on the node of the bundle of that key and UID. It is no
	// error when the bundle is gone.
	Release(ctx context.Context, key Key, uid types.UID) error
}
