// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers"
	"github.com/berth-run/berth/internal/configtest"
)

// The node whose agent is stolen, and the one that it must not reach. The name of the latter is no
// namespace's.
const (
	stolen  = "a"
	reached = "b.example.com"
)

// apart is a cluster with the roles and policies of config/, a controller, and a Container on each
// of two nodes.
type apart struct {
	env        *envtest.Environment
	root       *rest.Config
	admin      client.Client
	controller *controller
	kubeconfig string
}

// identities returns the three identities that the agent of the node stolen has, by name.
func (a *apart) identities(t *testing.T) map[string]*rest.Config {
	t.Helper()
	return map[string]*rest.Config{
		"certificate":     a.certificate(t, "berth:node:"+stolen, "berth:nodes"),
		"service account": a.token(t, v1alpha1.NodesNamespace, stolen, nil),
		"daemon set":      a.daemonSet(t, stolen),
	}
}

// TestNodesAreApart tries to read, list, watch and write objects of another node with each identity
// of an agent. All attempts must fail, and the agent's own work must succeed.
func TestNodesAreApart(t *testing.T) {
	a := newApart(t)
	ownNS, otherNS := v1alpha1.NodeNamespace(stolen), v1alpha1.NodeNamespace(reached)
	own, other := v1alpha1.BundleName("default", "on-a"), v1alpha1.BundleName("default", "on-b")
	identities := a.identities(t)
	for _, name := range slices.Sorted(maps.Keys(identities)) {
		t.Run(name, func(t *testing.T) {
			all := attempts(t, identities[name], otherNS, other, ownNS, own)
			if len(all) < 55 {
				t.Errorf("there are %d attempts", len(all))
			}
			for _, what := range slices.Sorted(maps.Keys(all)) {
				err := all[what]()
				if immutable := strings.HasSuffix(what, " of its own OCIBundle") &&
					apierrors.IsInvalid(err); !apierrors.IsForbidden(err) && !immutable {
					t.Errorf("%s: found %v; want Forbidden", what, err)
				}
			}
			t.Logf("%d attempts", len(all))
		})
	}
	for _, name := range []string{"certificate", "service account"} {
		t.Run("own work, "+name, func(t *testing.T) { a.ownWork(t, identities[name], ownNS, own) })
	}

	// The controller's own rights over namespaces, RoleBindings and Leases end with those of nodes.
	t.Run("controller", func(t *testing.T) {
		c, err := client.New(a.certificate(t, "system:serviceaccount:berth-system:berth-controller"),
			client.Options{Scheme: a.admin.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		theirs := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default",
			Name:      "theirs",
		}}
		if err := a.admin.Create(t.Context(), theirs.DeepCopy()); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"delete a Lease": c.Delete(t.Context(), theirs),
			"create": c.Create(t.Context(),
				&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}}),
			"create, unmarked": c.Create(t.Context(),
				&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "berth-node-c"}}),
			"delete": c.Delete(t.Context(),
				&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}),
			"bind": c.Create(t.Context(), &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"},
				RoleRef: rbacv1.RoleRef{
					APIGroup: rbacv1.GroupName, Kind: "ClusterRole",
					Name: "berth-node-bundles",
				},
			}),
			"unbind": c.Delete(t.Context(),
				&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{
					Namespace: v1alpha1.NodesNamespace,
					Name:      "berth-agent-token",
				}}),
		} {
			if !apierrors.IsForbidden(err) {
				t.Errorf("%s: found %v; want Forbidden", what, err)
			}
		}
	})

	// The attempts find what is to be found: with the roles of agents before revision 2, all
	// OCIBundles can be read.
	t.Run("config/upgrade", func(t *testing.T) {
		a.install(t, "upgrade")
		all := attempts(t, identities["certificate"], otherNS, other, ownNS, own)
		for _, what := range []string{
			"get OCIBundle", "list OCIBundles there", "list all OCIBundles",
			"watch all OCIBundles", "get NodeAgent",
		} {
			eventually(t, all[what])
		}
	})
}

// attempts are requests of an agent for another node's objects.
func attempts(t *testing.T, config *rest.Config, otherNS, other, ownNS,
	own string,
) map[string]func() error {
	t.Helper()
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	berth := func(resource string) schema.GroupVersionResource {
		return v1alpha1.GroupVersion.WithResource(resource)
	}
	core := func(resource string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Version: "v1", Resource: resource}
	}
	bundles, agents, containers := berth("ocibundles"), berth("nodeagents"), berth("containers")
	leases := schema.GroupVersionResource{
		Group: "coordination.k8s.io", Version: "v1",
		Resource: "leases",
	}
	bindings := rbacv1.SchemeGroupVersion.WithResource("rolebindings")
	in := func(r schema.GroupVersionResource, namespace string) dynamic.ResourceInterface {
		if namespace == "" {
			return c.Resource(r)
		}
		return c.Resource(r).Namespace(namespace)
	}
	get := func(r schema.GroupVersionResource, namespace, name string, sub ...string) func() error {
		return func() error {
			_, err := in(r, namespace).Get(ctx, name, metav1.GetOptions{}, sub...)
			return err
		}
	}
	list := func(r schema.GroupVersionResource, namespace, fields string) func() error {
		return func() error {
			_, err := in(r, namespace).List(ctx, metav1.ListOptions{FieldSelector: fields})
			return err
		}
	}
	watch := func(r schema.GroupVersionResource, namespace, fields string) func() error {
		return func() error {
			w, err := in(r, namespace).Watch(ctx, metav1.ListOptions{FieldSelector: fields})
			if err == nil {
				w.Stop()
			}
			return err
		}
	}
	patch := func(r schema.GroupVersionResource, namespace, name, body string,
		sub ...string,
	) func() error {
		return func() error {
			_, err := in(r, namespace).Patch(ctx, name, types.MergePatchType, []byte(body),
				metav1.PatchOptions{}, sub...)
			return err
		}
	}
	remove := func(r schema.GroupVersionResource, namespace, name string) func() error {
		return func() error { return in(r, namespace).Delete(ctx, name, metav1.DeleteOptions{}) }
	}
	make := func(r schema.GroupVersionResource, namespace, kind, name, content string,
		sub ...string,
	) func() error {
		return func() error {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte("{"+content+"}"), &u.Object); err != nil {
				t.Fatal(err)
			}
			u.SetGroupVersionKind(r.GroupVersion().WithKind(kind))
			if kind == "TokenRequest" {
				u.SetGroupVersionKind(authenticationv1.SchemeGroupVersion.WithKind(kind))
			}
			u.SetName(name)
			_, err := in(r, namespace).Create(ctx, u, metav1.CreateOptions{}, sub...)
			return err
		}
	}
	apply := func(r schema.GroupVersionResource, namespace, kind, name, content string) func() error {
		return func() error {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte("{"+content+"}"), &u.Object); err != nil {
				t.Fatal(err)
			}
			u.SetGroupVersionKind(r.GroupVersion().WithKind(kind))
			u.SetName(name)
			_, err := in(r, namespace).Apply(ctx, name, u, metav1.ApplyOptions{
				FieldManager: "thief",
				Force:        true,
			})
			return err
		}
	}
	impersonate := func(user string, groups ...string) func() error {
		return func() error {
			as := rest.CopyConfig(config)
			as.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
			c, err := dynamic.NewForConfig(as)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Resource(bundles).Namespace(otherNS).List(ctx, metav1.ListOptions{})
			return err
		}
	}
	const spec = `spec: {nodeName: a, restartPolicy: Always, terminationGracePeriodSeconds: 0, config: {ociVersion: 1.3.0}}`
	account := v1alpha1.NodesNamespace
	return map[string]func() error{
		"get OCIBundle":                     get(bundles, otherNS, other),
		"get status of OCIBundle":           get(bundles, otherNS, other, "status"),
		"list OCIBundles there":             list(bundles, otherNS, ""),
		"list all OCIBundles":               list(bundles, "", ""),
		"list all OCIBundles of the other":  list(bundles, "", "spec.nodeName="+reached),
		"list all OCIBundles of its own":    list(bundles, "", "spec.nodeName="+stolen),
		"list all OCIBundles by namespace":  list(bundles, "", "metadata.namespace="+otherNS),
		"list OCIBundles of tenants":        list(bundles, "default", ""),
		"list OCIBundles in berth-system":   list(bundles, "berth-system", ""),
		"watch OCIBundles there":            watch(bundles, otherNS, ""),
		"watch one OCIBundle there":         watch(bundles, otherNS, "metadata.name="+other),
		"watch all OCIBundles":              watch(bundles, "", ""),
		"watch all OCIBundles of the other": watch(bundles, "", "spec.nodeName="+reached),
		"watch all OCIBundles of its own":   watch(bundles, "", "spec.nodeName="+stolen),
		"watch OCIBundles of tenants":       watch(bundles, "default", ""),
		"get NodeAgent":                     get(agents, "", reached),
		"get status of NodeAgent":           get(agents, "", reached, "status"),
		"list NodeAgents":                   list(agents, "", ""),
		"watch NodeAgents":                  watch(agents, "", ""),
		"watch one NodeAgent":               watch(agents, "", "metadata.name="+reached),
		"get Lease":                         get(leases, otherNS, reached),
		"list Leases there":                 list(leases, otherNS, ""),
		"list all Leases":                   list(leases, "", ""),
		"watch Leases there":                watch(leases, otherNS, ""),
		"get Container":                     get(containers, "default", "on-b"),
		"list all Containers":               list(containers, "", ""),
		"watch all Containers":              watch(containers, "", ""),
		"list SeccompProfiles":              list(berth("seccompprofiles"), "", ""),
		"watch SeccompProfiles":             watch(berth("seccompprofiles"), "", ""),
		"get ServiceAccount":                get(core("serviceaccounts"), account, reached),
		"list ServiceAccounts":              list(core("serviceaccounts"), account, ""),
		"list Secrets there":                list(core("secrets"), otherNS, ""),
		"list all Secrets":                  list(core("secrets"), "", ""),
		"watch all Secrets":                 watch(core("secrets"), "", ""),
		"list ConfigMaps there":             list(core("configmaps"), otherNS, ""),
		"list Pods":                         list(core("pods"), "", ""),
		"get Node":                          get(core("nodes"), "", reached),
		"list Events":                       list(core("events"), "", ""),
		"get namespace":                     get(core("namespaces"), "", otherNS),
		"list namespaces":                   list(core("namespaces"), "", ""),
		"list RoleBindings there":           list(bindings, otherNS, ""),
		"status of OCIBundle": patch(bundles, otherNS, other,
			`{"status":{"phase":"Failed"}}`, "status"),
		"finalizer of OCIBundle": patch(bundles, otherNS, other,
			`{"metadata":{"finalizers":null}}`),
		"spec of OCIBundle": patch(bundles, otherNS, other,
			`{"spec":{"config":{"process":{"args":["sh"]}}}}`),
		"label of OCIBundle": patch(bundles, otherNS, other,
			`{"metadata":{"labels":{"a":"b"}}}`),
		"apply OCIBundle":             apply(bundles, otherNS, "OCIBundle", other, spec),
		"create OCIBundle there":      make(bundles, otherNS, "OCIBundle", "made", spec),
		"create OCIBundle of its own": make(bundles, ownNS, "OCIBundle", "made", spec),
		"delete OCIBundle":            remove(bundles, otherNS, other),
		"delete OCIBundle of its own": remove(bundles, ownNS, own),
		"spec of its own OCIBundle": patch(bundles, ownNS, own,
			`{"spec":{"config":{"process":{"args":["sh"]}}}}`),
		"node of its own OCIBundle": patch(bundles, ownNS, own, `{"spec":{"nodeName":"`+
			reached+`"}}`),
		"Container of its own OCIBundle": patch(bundles, ownNS, own,
			`{"spec":{"containerRef":{"name":"on-b"}}}`),
		"finalizer of its own OCIBundle": patch(bundles, ownNS, own,
			`{"metadata":{"finalizers":null}}`),
		"owner of its own OCIBundle": patch(bundles, ownNS, own,
			`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"1"}]}}`),
		"label of its own OCIBundle": patch(bundles, ownNS, own,
			`{"metadata":{"labels":{"berth.run/container":"on-b"}}}`),
		"status of NodeAgent": patch(agents, "", reached,
			`{"status":{"containers":0}}`, "status"),
		"label of NodeAgent": patch(agents, "", reached,
			`{"metadata":{"labels":{"kubernetes.io/hostname":"a"}}}`),
		"taints of NodeAgent": patch(agents, "", reached,
			`{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","effect":"NoExecute"}]}}`),
		"apply NodeAgent": apply(agents, "", "NodeAgent", reached,
			`metadata: {labels: {kubernetes.io/os: linux}}`),
		"register NodeAgent of another": make(agents, "", "NodeAgent", "c", ""),
		"delete NodeAgent":              remove(agents, "", reached),
		"delete its own NodeAgent":      remove(agents, "", stolen),
		"taints of its own NodeAgent": patch(agents, "", stolen,
			`{"spec":{"taints":[{"key":"k","effect":"NoExecute"}]}}`),
		"label of its own NodeAgent": patch(agents, "", stolen,
			`{"metadata":{"labels":{"node-restriction.kubernetes.io/tenant":"b"}}}`),
		"heartbeat": patch(leases, otherNS, reached,
			`{"spec":{"holderIdentity":"a"}}`),
		"create Lease there":                   make(leases, otherNS, "Lease", stolen, ""),
		"create Lease of the other in its own": make(leases, ownNS, "Lease", reached, ""),
		"create Lease where they once were": make(leases, v1alpha1.FormerLeaseNamespace, "Lease",
			reached, ""),
		"create Lease among kubelets'": make(leases, "kube-node-lease", "Lease", reached, ""),
		"delete Lease":                 remove(leases, otherNS, reached),
		"token of the other": make(core("serviceaccounts"), account, "TokenRequest",
			reached, "", "token"),
		"token of the controller": make(core("serviceaccounts"), "berth-system",
			"TokenRequest", "berth-controller", "", "token"),
		"token of the DaemonSet": make(core("serviceaccounts"), "berth-system",
			"TokenRequest", "berth-agent", "", "token"),
		"create ServiceAccount": make(core("serviceaccounts"), account, "ServiceAccount",
			"c", ""),
		"delete ServiceAccount": remove(core("serviceaccounts"), account, reached),
		"bind itself there": make(bindings, otherNS, "RoleBinding", "x",
			`roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: berth-node-bundles}`),
		"bind itself everywhere": make(rbacv1.SchemeGroupVersion.WithResource(
			"clusterrolebindings"), "", "ClusterRoleBinding", "x",
			`roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}`),
		"be the other by its certificate's name": impersonate("berth:node:"+reached, "berth:nodes"),
		"be the other's ServiceAccount": impersonate("system:serviceaccount:" + account + ":" +
			reached),
		"be the controller": impersonate("system:serviceaccount:berth-system:berth-controller"),
		"create namespace":  make(core("namespaces"), "", "Namespace", "berth-node-c", ""),
		"delete namespace":  remove(core("namespaces"), "", otherNS),
		"name of its own namespace": patch(core("namespaces"), "", ownNS,
			`{"metadata":{"annotations":{"berth.run/node":"`+reached+`"}}}`),
		"create Container": make(containers, "default", "Container", "made",
			`spec: {image: busybox}`),
		"spec of Container": patch(containers, "default", "on-b", `{"spec":{"nodeName":"a"}}`),
		"create SeccompProfile": make(berth("seccompprofiles"), "", "SeccompProfile", "sha256-"+
			strings.Repeat("0", 64), `spec: {profile: "{}"}`),
		"ask for a certificate of the other": make(schema.GroupVersionResource{
			Group: "certificates.k8s.io", Version: "v1", Resource: "certificatesigningrequests",
		}, "",
			"CertificateSigningRequest", "x",
			`spec: {signerName: kubernetes.io/kube-apiserver-client, request: "", usages: [client auth]}`),
	}
}

// ownWork performs every request that an agent makes with the identity of its node.
func (a *apart) ownWork(t *testing.T, config *rest.Config, ownNS, own string) {
	t.Helper()
	config = rest.CopyConfig(config)
	c, err := client.NewWithWatch(config, client.Options{Scheme: a.admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	b := &v1alpha1.OCIBundle{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: ownNS, Name: own}, b); err != nil {
		t.Fatalf("get: %v", err)
	}
	list := &v1alpha1.OCIBundleList{}
	if err := c.List(ctx, list, client.InNamespace(ownNS),
		client.MatchingFields{"metadata.namespace": ownNS}); err != nil || len(list.Items) != 1 {
		t.Errorf("list: %d, %v", len(list.Items), err)
	}
	w, err := c.Watch(ctx, list, client.InNamespace(ownNS),
		client.MatchingFields{"metadata.namespace": ownNS})
	if err != nil {
		t.Errorf("watch: %v", err)
	} else {
		w.Stop()
	}
	if err := c.Get(ctx, client.ObjectKey{Name: "sha256-" + strings.TrimPrefix(b.Spec.SeccompProfile,
		"sha256:")}, &v1alpha1.SeccompProfile{}); err != nil {
		t.Errorf("the seccomp profile: %v", err)
	}
	if err := c.Status().Patch(ctx, b, client.RawPatch(types.MergePatchType,
		[]byte(`{"status":{"observedGeneration":1,"phase":"Running"}}`))); err != nil {
		t.Errorf("status: %v", err)
	}
	applied := func(content string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(content), &u.Object); err != nil {
			t.Fatal(err)
		}
		return u
	}
	agent := "apiVersion: berth.run/v1alpha1\nkind: NodeAgent\nmetadata: {name: a"
	if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(applied(agent+
		", labels: {kubernetes.io/hostname: a}}")), client.FieldOwner("berth-agent"),
		client.ForceOwnership); err != nil {
		t.Errorf("NodeAgent: %v", err)
	}
	if err := c.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(applied(agent+
		"}\nstatus: {observedGeneration: 1, containers: 1, nodeInfo: {agentRevision: 2}}")),
		client.FieldOwner("berth-agent"), client.ForceOwnership); err != nil {
		t.Errorf("status of NodeAgent: %v", err)
	}
	lease := applied(
		"apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: a, namespace: " + ownNS + "}")
	if err := c.Create(ctx, lease); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Errorf("create Lease: %v", err)
	}
	if err := errors.Join(c.Get(ctx, client.ObjectKeyFromObject(lease), lease),
		c.Update(ctx, lease)); err != nil {
		t.Errorf("renew Lease: %v", err)
	}
	// It lets go of what is deleted; the controller makes it again for the next identity.
	if err := a.admin.Delete(ctx, b); err != nil {
		t.Fatal(err)
	}
	if err := c.Patch(ctx, b, client.RawPatch(types.MergePatchType,
		[]byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Errorf("finalizer: %v", err)
	}
	eventually(t, func() error {
		next := &v1alpha1.OCIBundle{}
		if err := a.admin.Get(ctx, client.ObjectKeyFromObject(b), next); err != nil {
			return err
		}
		if next.UID == b.UID {
			return errors.New("it is the old one")
		}
		return nil
	})
}

func newApart(t *testing.T) *apart {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Fatal("KUBEBUILDER_ASSETS is not set: it names the directory of etcd and kube-apiserver that hack/controlplane/build.sh makes and prints; `make test` does both")
	}
	a := &apart{env: &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join("..", "..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
		CRDInstallOptions:     envtest.CRDInstallOptions{MaxTime: 5 * time.Minute},
	}}
	var err error
	if a.root, err = a.env.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.env.Stop(); err != nil {
			t.Error(err)
		}
	})
	scheme, err := controllers.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	if a.admin, err = client.New(a.root, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	for _, directory := range []string{"namespace", "rbac", "policy"} {
		a.install(t, directory)
	}
	privileged := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	label := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`)
	if err := a.admin.Patch(t.Context(), privileged, client.RawPatch(types.MergePatchType,
		label)); err != nil {
		t.Fatal(err)
	}
	a.kubeconfig = kubeconfigOf(t, a.env,
		envtest.User{Name: "system:serviceaccount:berth-system:berth-controller"})
	a.controller = run(t, a.kubeconfig)
	for node, name := range map[string]string{stolen: "on-a", reached: "on-b"} {
		agent := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: node}}
		if err := a.admin.Create(t.Context(), agent); err != nil {
			t.Fatal(err)
		}
		agent.Status.NodeInfo.AgentRevision = v1alpha1.AgentRevision
		agent.Status.Handlers = []v1alpha1.NodeHandler{{Name: v1alpha1.HandlerNative}}
		if err := a.admin.Status().Update(t.Context(), agent); err != nil {
			t.Fatal(err)
		}
		c := &v1alpha1.Container{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: v1alpha1.ContainerSpec{
				Image: "busybox:1", NodeName: node,
				Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "of-" + name}},
			},
		}
		if err := a.admin.Create(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			key := client.ObjectKey{
				Namespace: v1alpha1.NodeNamespace(node),
				Name:      v1alpha1.BundleName("default", name),
			}
			return errors.Join(a.admin.Get(t.Context(), key, &v1alpha1.OCIBundle{}),
				a.admin.Get(t.Context(), client.ObjectKey{Namespace: key.Namespace, Name: "berth-node-bundles"},
					&rbacv1.RoleBinding{}))
		})
	}
	return a
}

// install applies a directory of config/, and waits until its policies are in force.
func (a *apart) install(t *testing.T, directory string) {
	t.Helper()
	for _, u := range configtest.Objects(t, filepath.Join("..", "..", "config", directory)) {
		err := a.admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u),
			client.FieldOwner("test"), client.ForceOwnership)
		if err != nil {
			t.Fatalf("config/%s: %s %s: %v", directory, u.GetKind(), u.GetName(), err)
		}
	}
	if directory != "policy" {
		return
	}
	for user, try := range map[string]func(client.Client) error{
		"berth:node:probe": func(c client.Client) error {
			return c.Create(t.Context(), &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "other"}},
				client.DryRunAll)
		},
		"system:serviceaccount:berth-system:berth-agent": func(c client.Client) error {
			probe := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
				Namespace: "berth-system",
				Name:      "berth-agent",
			}}
			return c.SubResource("token").Create(t.Context(), probe, &authenticationv1.TokenRequest{})
		},
	} {
		as := rest.CopyConfig(a.root)
		as.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}}
		c, err := client.New(as, client.Options{Scheme: a.admin.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if err := try(c); !apierrors.IsForbidden(err) {
				return fmt.Errorf("the policies are not in force (%v)", err)
			}
			return nil
		})
	}
}

// certificate returns the configuration of a user with a client certificate.
func (a *apart) certificate(t *testing.T, name string, groups ...string) *rest.Config {
	t.Helper()
	user, err := a.env.AddUser(envtest.User{Name: name, Groups: groups}, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := user.Config()
	config.QPS = -1
	return config
}

// token returns the configuration of a ServiceAccount with a token that is bound to a pod.
func (a *apart) token(t *testing.T, namespace, name string, pod *corev1.Pod) *rest.Config {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			APIVersion: "v1",
			Kind:       "Pod", Name: pod.Name, UID: pod.UID,
		}
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := a.admin.SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(a.root)
	config.BearerToken, config.QPS = request.Status.Token, -1
	return config
}

// daemonSet returns the configuration of the DaemonSet's pod on a node.
func (a *apart) daemonSet(t *testing.T, node string) *rest.Config {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: "agent"},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "berth-agent",
			Containers: []corev1.Container{{Name: "agent", Image: "x"}},
		},
	}
	err := errors.Join(a.admin.Create(t.Context(),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}), a.admin.Create(t.Context(), pod))
	if err != nil {
		t.Fatal(err)
	}
	config := a.token(t, "berth-system", "berth-agent", pod)
	return config
}
