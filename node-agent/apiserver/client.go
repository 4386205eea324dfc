// SPDX-License-Identifier: Apache-2.0

// Package apiserver connects the agent to the API server of its cluster.
//
// It uses the REST client of client-go with the few kinds that the agent sends and receives. The
// clients of controller-runtime link every kind of Kubernetes: they doubled the size of the program
// and the memory that its pages take.
package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// NewClient returns a client for the resources of one group and version, whose bodies have the
// kinds of scheme. It sends no request, so that the agent starts without an API server.
func NewClient(config *rest.Config, version schema.GroupVersion,
	scheme *runtime.Scheme,
) (rest.Interface, error) {
	c := rest.CopyConfig(config)
	c.GroupVersion = &version
	c.APIPath = "/apis"
	if version.Group == "" {
		c.APIPath = "/api"
	}
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientFor(c)
}
