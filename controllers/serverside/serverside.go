// SPDX-License-Identifier: Apache-2.0

// Package serverside makes the bodies of server-side apply requests that take over nothing of
// others.
package serverside

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// noVersion is a resource version that no object has: the version of an etcd in which nothing was
// ever written. With it server-side apply creates an object, and ends in a conflict where one
// exists.
const noVersion = "1"

// Configuration returns an object in the form of server-side apply: no status, and no field that is
// only there because Go has no absent struct. The request changes the object of that uid alone, or
// creates one if uid is empty. Without either condition, apply would take over an object that
// somebody else has created under the name since the cache was read.
func Configuration(want client.Object, uid types.UID) (*unstructured.Unstructured, error) {
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return nil, fmt.Errorf("turn the object into JSON: %w", err)
	}
	u := &unstructured.Unstructured{Object: object}
	unstructured.RemoveNestedField(u.Object, "status")
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	if uid != "" {
		u.SetUID(uid)
	} else {
		u.SetResourceVersion(noVersion)
	}
	return u, nil
}
