// SPDX-License-Identifier: Apache-2.0

package access

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/v1alpha1"
)

// kindAccount is the kind of a ServiceAccount whose tokens the agent may request.
const kindAccount = "ServiceAccount"

// systemNamespace is the namespace of the controller in config/default. The policy
// berth-node-access names it, too.
const systemNamespace = "berth-system"

// named returns the ConfigMaps, Secrets and ServiceAccounts that an OCIBundle names. It leaves out
// names that no object can have: the empty name in resourceNames would allow a list of all objects.
func named(b *v1alpha1.OCIBundle) []environment.Object {
	objects := slices.Concat(environment.References(b.Spec.Process.Env, b.Spec.Process.EnvFrom),
		files.References(b.Spec.Volumes), environment.PullSecrets(&b.Spec))
	if hasTokens(b) {
		objects = append(objects, environment.Object{Kind: kindAccount, Name: b.Spec.ServiceAccountName})
	}
	return slices.DeleteFunc(objects, func(o environment.Object) bool {
		return len(validation.IsDNS1123Subdomain(o.Name)) > 0
	})
}

// hasTokens reports whether volumes of an OCIBundle ask for tokens that the agent may request. It
// may request no token in the namespaces of Berth's own ServiceAccounts.
func hasTokens(b *v1alpha1.OCIBundle) bool {
	namespace := b.Owner().Namespace
	return namespace != v1alpha1.NodesNamespace && namespace != systemNamespace &&
		len(files.Tokens(b.Spec.Volumes)) > 0
}

// keyOf returns the key of the Role for an OCIBundle, or the zero value if it needs none. There is
// none in a namespace of a node, which has no objects of a user.
func keyOf(b *v1alpha1.OCIBundle) client.ObjectKey {
	namespace := b.Owner().Namespace
	if namespace == "" || v1alpha1.IsNodeNamespace(namespace) || len(named(b)) == 0 {
		return client.ObjectKey{}
	}
	return client.ObjectKey{Namespace: namespace, Name: v1alpha1.NodeNamespace(b.Spec.NodeName)}
}

// rulesFor returns the rules of a Role that allow to read the objects that OCIBundles name, and to
// request tokens of the ServiceAccounts. The API server stores no object larger than some 1.5 MB,
// so a Role ends at 50,000 names of usual length: it then refuses the next change, which is logged,
// and what is granted stays.
func rulesFor(bundles []v1alpha1.OCIBundle) []rbacv1.PolicyRule {
	var configMaps, secrets, accounts []string
	for i := range bundles {
		for _, o := range named(&bundles[i]) {
			switch o.Kind {
			case environment.KindConfigMap:
				configMaps = append(configMaps, o.Name)
			case environment.KindSecret:
				secrets = append(secrets, o.Name)
			case kindAccount:
				accounts = append(accounts, o.Name)
			}
		}
	}
	var rules []rbacv1.PolicyRule
	add := func(resource string, names []string, verbs ...string) {
		if len(names) == 0 {
			return
		}
		slices.Sort(names)
		rules = append(rules, rbacv1.PolicyRule{
			APIGroups: []string{""}, Resources: []string{resource},
			ResourceNames: slices.Compact(names), Verbs: verbs,
		})
	}
	add("configmaps", configMaps, "get", "list", "watch")
	add("secrets", secrets, "get", "list", "watch")
	add("serviceaccounts/token", accounts, "create")
	return rules
}
