// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source"
)

// keepAccepted keeps to the spec that was accepted for this generation, if the source has another
// one for it now: a generation is compiled once, and a source that has compiled it again is another
// version of Berth, not an edit. It reports whether desired.json is to be written again.
func (in *Input) keepAccepted(dir bundle.Dir, offer *lastOffer) bool {
	r := in.Record
	if in.Desired == nil || r.Hash == in.Hash {
		return false
	}
	accepted := r.accepted(dir)
	if accepted == nil || accepted.UID != in.Desired.UID ||
		accepted.Generation != in.Desired.Generation {
		return false
	}
	if in.Refused == "" {
		in.Newer = offer.of(accepted, in.Desired)
	}
	in.keep(&accepted.Spec)
	// An agent may have accepted it that did not record what the Container says of the process.
	return accepted.Annotations[source.AnnotationRun] == "" &&
		in.Desired.Annotations[source.AnnotationRun] != ""
}

// keepRun keeps the accepted spec of the running container, if the source compiles and the edit
// only says where and how it is run. If the edit changes values that a running container can get,
// only those are applied.
func (in *Input) keepRun(dir bundle.Dir) {
	digest := in.Desired.Annotations[source.AnnotationRun]
	if digest == "" {
		return
	}
	accepted := in.Record.accepted(dir)
	if accepted == nil || accepted.UID != in.Desired.UID ||
		accepted.Spec.Handler != in.Desired.Spec.Handler {
		return
	}
	if accepted.Annotations[source.AnnotationRun] != digest {
		fixed := in.Desired.Annotations[source.AnnotationFixed]
		if fixed == "" || accepted.Annotations[source.AnnotationFixed] != fixed {
			return
		}
		if spec, err := change.Carry(&accepted.Spec, &in.Desired.Spec); err == nil {
			in.keep(spec)
		}
		return
	}
	spec := in.Desired.Spec
	spec.Config, spec.Process, spec.Volumes = accepted.Spec.Config, accepted.Spec.Process,
		accepted.Spec.Volumes
	spec.SubPaths, spec.Security = accepted.Spec.SubPaths, accepted.Spec.Security
	spec.UserNamespace, spec.HostUsers = accepted.Spec.UserNamespace, accepted.Spec.HostUsers
	spec.Network = accepted.Spec.Network
	spec.Names, spec.Devices, spec.AllDevices = accepted.Spec.Names, accepted.Spec.Devices,
		accepted.Spec.AllDevices
	if spec.Image != nil && accepted.Spec.Image != nil {
		spec.Image = &v1alpha1.BundleImage{
			Reference:   accepted.Spec.Image.Reference,
			PullPolicy:  spec.Image.PullPolicy,
			PullSecrets: spec.Image.PullSecrets,
		}
	}
	in.keep(&spec)
}

// goOn lets the container of a bundle that is refused go on as the spec says that was accepted
// before.
func (in *Input) goOn(dir bundle.Dir) {
	accepted := in.Record.accepted(dir)
	// A newer agent may have accepted what this one cannot read.
	if accepted != nil && accepted.UID == in.Desired.UID && tooOld(accepted) == "" {
		grace := in.Desired.Spec.TerminationGracePeriodSeconds // every agent knows how to end it
		in.keep(&accepted.Spec)
		in.Desired.Spec.TerminationGracePeriodSeconds = grace
		in.GoesOn = true
	}
}

// keep replaces the desired spec by the one that was accepted earlier.
func (in *Input) keep(spec *v1alpha1.OCIBundleSpec) {
	kept := in.Desired.DeepCopy()
	kept.Spec = *spec
	in.Desired = kept
	in.rehash()
}
