// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// A node has a namespace of its own, so that RBAC, which knows no field of an object, can keep its
// agent from reading what is another node's. It holds the OCIBundles of the node and the agent's
// Lease.

// NodesNamespace holds the ServiceAccounts of the agents, each of which has the name of its node.
// In one namespace they are one group, which gives them what is not of a single node by one
// binding.
const NodesNamespace = "berth-nodes"

// FormerLeaseNamespace holds the Leases of agents before revision 2.
const FormerLeaseNamespace = "berth-node-lease"

// AnnotationNode on a namespace, Role or RoleBinding is the node that it is of. On a Container it
// is the node in whose namespace its OCIBundle is, or is about to be.
const AnnotationNode = "berth.run/node"

// LabelNode marks namespaces, Roles, RoleBindings, ServiceAccounts and Leases of nodes. Its value
// is empty: a node's name may be longer than a label's value.
const LabelNode = "berth.run/node"

const nodeNamespacePrefix = "berth-node-"

// NodeNamespace returns the namespace of a node: berth-node-NAME. A name that is no part of a
// namespace's name, since it is too long or has dots, is shortened and has a hash at its end.
// AnnotationNode of the namespace is the whole name.
func NodeNamespace(node string) string {
	plain := nodeNamespacePrefix + node
	if !strings.Contains(node, ".") && len(plain) <= validation.DNS1123LabelMaxLength &&
		plain != FormerLeaseNamespace {
		return plain
	}
	return shorten(strings.ReplaceAll(plain, ".", "-"), node, validation.DNS1123LabelMaxLength)
}

// IsNodeNamespace reports whether a name is one that only namespaces of nodes have.
func IsNodeNamespace(name string) bool { return strings.HasPrefix(name, nodeNamespacePrefix) }

// NodeUser returns the user of an agent that has a client certificate.
func NodeUser(node string) string { return "berth:node:" + node }

// BundleName returns the name of a Container's OCIBundle in the namespace of its node:
// NAMESPACE.NAME. One that is too long is shortened and has a hash at its end.
func BundleName(namespace, name string) string {
	whole := namespace + "." + name // a namespace has no dot, so no two Containers have the same
	if len(whole) <= validation.DNS1123SubdomainMaxLength {
		return whole
	}
	return shorten(whole, whole, validation.DNS1123SubdomainMaxLength)
}

// shorten cuts readable so that it fits into limit with a hash of whole behind it.
func shorten(readable, whole string, limit int) string {
	suffix := fmt.Sprintf("-%.5x", sha256.Sum256([]byte(whole)))
	if most := limit - len(suffix); len(readable) > most {
		readable = strings.TrimRight(readable[:most], "-.")
	}
	return readable + suffix
}
