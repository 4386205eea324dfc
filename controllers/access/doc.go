// SPDX-License-Identifier: Apache-2.0

// Package access lets the agent of a node read the ConfigMaps and Secrets that the node's
// OCIBundles name, and request tokens of the ServiceAccounts that their volumes ask tokens of, and
// no others. A Secret or a token never enters an OCIBundle; the agent gets it itself.
//
// For each pair of a node and a namespace with Containers on it, a Role in that namespace lists the
// names, and a RoleBinding gives it to the agent's identities. Both have the name of the node's own
// namespace. RBAC lets the holder of a name get the object, and list and watch it by the field
// selector metadata.name=NAME; it allows no list of all. An OCIBundle counts until it is gone,
// since its container may run, and start again, until then.
//
// The controller itself reads no ConfigMap, and no Secret but its own, and requests no token.
package access
