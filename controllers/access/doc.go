// SPDX-License-Identifier: Apache-2.0

// Package access lets the agent of a node read the ConfigMaps and Secrets that the node's
// OCIBundles name, and no others. A Secret never enters an OCIBundle; the agent reads it itself.
//
// For each pair of a node and a namespace with Containers on it, a Role in that namespace lists the
// names, and a RoleBinding gives it to the agent's identities. Both have the name of the node's own
// namespace. RBAC lets the holder of a name get the object, and list and watch it by the field
// selector metadata.name=NAME; it allows no list of all. An OCIBundle counts until it is gone,
// since its container may run, and start again, until then.
//
// The controller itself reads no ConfigMap, and no Secret but its own.
package access
