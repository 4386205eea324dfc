// SPDX-License-Identifier: Apache-2.0

// Package change says what it takes to bring a running container from one bundle spec to another:
// nothing, an update of the running container, or a new container in its place.
//
//	set := change.Classify(&running.Spec, &desired.Spec)
//	switch set.Kind {
//	case change.Live: // change.Resources(&desired.Spec, set.Limits()) is for the runtime
//	case change.Replace: // set.Fields says because of which fields
//	}
//
// The package is pure. It must not know how a container is updated or replaced, nor by whom.
package change
