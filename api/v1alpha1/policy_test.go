// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const mergePatch = "application/merge-patch+json"

var (
	dryPatch = metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}
	leases   = schema.GroupVersionResource{
		Group: "coordination.k8s.io", Version: "v1",
		Resource: "leases",
	}
)

// agentsOf returns the two identities that the agent of a node may have.
func agentsOf(node string) map[string]rest.ImpersonationConfig {
	return map[string]rest.ImpersonationConfig{
		"certificate": {UserName: "berth:node:" + node, Groups: []string{
			"berth:nodes",
			"system:authenticated",
		}},
		"service account": {
			UserName: "system:serviceaccount:berth-nodes:" + node,
			Groups: []string{
				"system:serviceaccounts", "system:serviceaccounts:berth-nodes",
				"system:authenticated",
			},
		},
	}
}

// held returns an OCIBundle with all that others keep in its metadata.
func held(t *testing.T, namespace, name, node string) *unstructured.Unstructured {
	t.Helper()
	u := object(t, "OCIBundle", name, strings.Replace(bundleSpec, "NODE", node, 1)+
		"containerRef: {namespace: default, name: "+name+", uid: a-b}\n")
	u.SetLabels(map[string]string{"berth.run/container": name, "team": "a"})
	u.SetAnnotations(map[string]string{"berth.run/runtime-class": "kata", "note": "a"})
	u.SetFinalizers([]string{"example.com/other", "berth.run/node-agent"})
	u.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: "berth.run/v1alpha1", Kind: "Container",
		Name: name, UID: "a-b", Controller: new(true),
	}})
	t.Cleanup(func() {
		_, _ = as(t, controllerUser()).Resource(bundles).Namespace(namespace).Patch(t.Context(), name,
			mergePatch, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	})
	return create(t, bundles, namespace, u)
}

// metadataAttempts are merge patches of what is not an agent's in the metadata of an object.
func metadataAttempts() []string {
	return []string{
		`{"metadata":{"labels":{"node-restriction.kubernetes.io/tenant":"b"}}}`,
		`{"metadata":{"labels":{"team":"b"}}}`,
		`{"metadata":{"labels":{"team":null}}}`,
		`{"metadata":{"labels":null}}`,
		`{"metadata":{"annotations":{"note":"b"}}}`,
		`{"metadata":{"annotations":{"more":"b"}}}`,
		`{"metadata":{"annotations":null}}`,
		`{"metadata":{"ownerReferences":null}}`,
		`{"metadata":{"ownerReferences":[{"apiVersion":"berth.run/v1alpha1","kind":"Container","name":"x","uid":"c-d","controller":true}]}}`,
		`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"c-d"}]}}`,
		`{"metadata":{"finalizers":["berth.run/node-agent"]}}`,
		`{"metadata":{"finalizers":["example.com/other","berth.run/node-agent","example.com/more"]}}`,
		`{"metadata":{"finalizers":null}}`,
	}
}

// TestAgentTouchesNothingOfOthers: with the token of an agent, what others say in the objects of
// its own node cannot be changed, so that it draws no Container to the node that was not meant for
// it.
func TestAgentTouchesNothingOfOthers(t *testing.T) {
	a := newApplier(t)
	for _, directory := range []string{"namespace", "rbac", "policy"} {
		a.install(t, directory)
	}
	namespace := a.nodeNamespace(t, "three")
	held(t, namespace, "held", "three")
	held(t, namespace, "leaving", "three")
	err := as(t, controllerUser()).Resource(bundles).Namespace(namespace).Delete(t.Context(),
		"leaving", metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node := object(t, "NodeAgent", "three",
		"unschedulable: true\ntaints: [{key: a, effect: NoSchedule}]")
	node.SetLabels(map[string]string{"team": "a", "kubernetes.io/hostname": "three"})
	node.SetAnnotations(map[string]string{"note": "a"})
	node.SetFinalizers([]string{"example.com/other"})
	node.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: "v1", Kind: "ConfigMap", Name: "x",
		UID: "a-b",
	}})
	t.Cleanup(func() {
		_, _ = dynamicClient(t).Resource(nodeAgents).Patch(t.Context(), "three", mergePatch,
			[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	})
	create(t, nodeAgents, "", node)

	for name, user := range agentsOf("three") {
		t.Run(name, func(t *testing.T) {
			agent := as(t, user)
			bundle := func(name, body string) error {
				_, err := agent.Resource(bundles).Namespace(namespace).Patch(t.Context(), name, mergePatch,
					[]byte(body), dryPatch)
				return err
			}
			nodeAgent := func(body string) error {
				_, err := agent.Resource(nodeAgents).Patch(t.Context(), "three", mergePatch, []byte(body),
					dryPatch)
				return err
			}
			for _, body := range metadataAttempts() {
				wantForbidden(t, "OCIBundle: "+body, "an agent may|only berth-controller may change",
					func() error {
						return bundle("held", body)
					})
				wantForbidden(t, "NodeAgent: "+body, "an agent may", func() error { return nodeAgent(body) })
			}
			for _, body := range []string{
				`{"spec":{"nodeName":"four"}}`, `{"spec":{"config":{"process":{"args":["sh"]}}}}`,
				`{"spec":{"containerRef":{"uid":"c-d"}}}`,
				`{"spec":{"image":{"reference":"other"}}}`, `{"spec":{"restartPolicy":"Never"}}`,
				`{"spec":{"volumes":[{"name":"v","hostPath":{"path":"/"}}]}}`,
			} {
				if err := bundle("held", body); err == nil {
					t.Errorf("OCIBundle: %s was taken", body)
				}
			}
			wantForbidden(t, "its finalizer while nobody deletes", "that is being deleted", func() error {
				return bundle("held", `{"metadata":{"finalizers":["example.com/other"]}}`)
			})
			wantForbidden(t, "another's finalizer of what is being deleted", "and no other", func() error {
				return bundle("leaving", `{"metadata":{"finalizers":["berth.run/node-agent"]}}`)
			})
			if err := bundle("leaving", `{"metadata":{"finalizers":["example.com/other"]}}`); err != nil {
				t.Errorf("its own finalizer of what is being deleted: %v", err)
			}

			for _, body := range []string{
				`{"spec":{"taints":null}}`, `{"spec":{"taints":[]}}`, `{"spec":{"unschedulable":false}}`,
				`{"spec":{"unschedulable":null}}`, `{"spec":null}`,
				`{"spec":{"taints":[{"key":"a","effect":"NoExecute"}]}}`,
			} {
				wantForbidden(t, "NodeAgent: "+body, "may not change the spec", func() error {
					return nodeAgent(body)
				})
			}
			for _, body := range []string{
				`{"metadata":{"labels":{"kubernetes.io/hostname":"four"}}}`,
				`{"metadata":{"labels":{"kubernetes.io/hostname":null}}}`,
			} {
				wantForbidden(t, "NodeAgent: "+body, "to the name of its node, three", func() error {
					return nodeAgent(body)
				})
			}
			if err := nodeAgent(
				`{"metadata":{"labels":{"kubernetes.io/os":"linux","kubernetes.io/arch":"arm64"}}}`); err != nil {
				t.Errorf("the labels that are its own: %v", err)
			}
			if err := agent.Resource(nodeAgents).Delete(t.Context(), "three",
				metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
				t.Error("it may delete its NodeAgent")
			}
		})
	}

	// An agent that registers for the first time says no more either.
	a.nodeNamespace(t, "new")
	for name, user := range agentsOf("new") {
		t.Run("new, "+name, func(t *testing.T) {
			agent := as(t, user)
			register := func(spec string, change func(*unstructured.Unstructured)) error {
				u := object(t, "NodeAgent", "new", spec)
				u.SetLabels(map[string]string{
					"kubernetes.io/hostname": "new", "kubernetes.io/os": "linux",
					"kubernetes.io/arch": "amd64",
				})
				change(u)
				_, err := agent.Resource(nodeAgents).Create(t.Context(), u, dryRun)
				return err
			}
			for what, change := range map[string]func(*unstructured.Unstructured){
				"label": func(u *unstructured.Unstructured) {
					u.SetLabels(map[string]string{"node-restriction.kubernetes.io/tenant": "b"})
				},
				"hostname": func(u *unstructured.Unstructured) {
					u.SetLabels(map[string]string{"kubernetes.io/hostname": "other"})
				},
				"annotation": func(u *unstructured.Unstructured) {
					u.SetAnnotations(map[string]string{"a": "b"})
				},
				"finalizer": func(u *unstructured.Unstructured) {
					u.SetFinalizers([]string{"example.com/other"})
				},
				"owner": func(u *unstructured.Unstructured) {
					u.SetOwnerReferences(node.GetOwnerReferences())
				},
				"another's name": func(u *unstructured.Unstructured) { u.SetName("other") },
			} {
				wantForbidden(t, "registers with "+what, "an agent may", func() error {
					return register("{}", change)
				})
			}
			same := func(*unstructured.Unstructured) {}
			wantForbidden(t, "registers with taints", "may not change the spec", func() error {
				return register("taints: [{key: a, effect: NoSchedule}]", same)
			})
			if err := register("{}", same); err != nil {
				t.Errorf("registers: %v", err)
			}
			lease := func(namespace string, owners ...metav1.OwnerReference) error {
				u := &unstructured.Unstructured{
					Object: map[string]any{"spec": map[string]any{"holderIdentity": "new"}},
				}
				u.SetAPIVersion("coordination.k8s.io/v1")
				u.SetKind("Lease")
				u.SetName("new")
				u.SetOwnerReferences(owners)
				_, err := agent.Resource(leases).Namespace(namespace).Create(t.Context(), u, dryRun)
				return err
			}
			owner := metav1.OwnerReference{
				APIVersion: "berth.run/v1alpha1", Kind: "NodeAgent", Name: "new",
				UID: "a-b",
			}
			if err := lease("berth-node-new", owner); err != nil {
				t.Errorf("its Lease: %v", err)
			}
			owner.Name = "other"
			wantForbidden(t, "a Lease of another's", "as the owner", func() error {
				return lease("berth-node-new", owner)
			})
			if err := lease("default"); err == nil {
				t.Error("it may write a Lease in another namespace")
			}
		})
	}
}

// grant gives a group every verb on resources of an API group.
func (a *applier) grant(t *testing.T, group, apiGroup string, resources ...any) {
	t.Helper()
	for _, u := range []*unstructured.Unstructured{
		{Object: map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
			"metadata": map[string]any{"name": group},
			"rules": []any{map[string]any{
				"apiGroups": []any{apiGroup}, "resources": resources,
				"verbs": []any{"*"},
			}},
		}},
		{Object: map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
			"metadata": map[string]any{"name": group},
			"roleRef": map[string]any{
				"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
				"name": group,
			},
			"subjects": []any{map[string]any{
				"apiGroup": "rbac.authorization.k8s.io", "kind": "Group",
				"name": group,
			}},
		}},
	} {
		_, err := a.resource(t, u).Apply(t.Context(), group, u, metav1.ApplyOptions{FieldManager: "test"})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestOnlyTheControllerWritesOCIBundles: an OCIBundle is a way past Pod Security, so that no role
// is enough to write one.
func TestOnlyTheControllerWritesOCIBundles(t *testing.T) {
	a := newApplier(t)
	for _, directory := range []string{"namespace", "rbac", "policy"} {
		a.install(t, directory)
	}
	held(t, "default", "pair", "three")
	a.grant(t, "tenants", "berth.run", "*")
	tenant := func(name string) dynamic.Interface {
		return as(t, rest.ImpersonationConfig{UserName: name, Groups: []string{
			"tenants",
			"system:authenticated",
		}})
	}
	patch := func(c dynamic.Interface, body string) error {
		_, err := c.Resource(bundles).Namespace("default").Patch(t.Context(), "pair", mergePatch,
			[]byte(body), dryPatch)
		return err
	}
	compileOne := func(c dynamic.Interface) error {
		_, err := c.Resource(bundles).Namespace("default").Create(t.Context(),
			object(t, "OCIBundle", "made", strings.Replace(bundleSpec, "NODE", "three", 1)), dryRun)
		return err
	}
	const unlabelled = `{"metadata":{"labels":{"berth.run/container":null}}}`
	type attempt struct{ body, message string }
	specs := []attempt{
		{`{"spec":{"config":{"process":{"args":["sh"]}}}}`, "change its Container"},
		{`{"spec":{"restartPolicy":"Never"}}`, "change its Container"},
		{`{"spec":{"volumes":[{"name":"v","hostPath":{"path":"/"}}]}}`, "change its Container"},
	}
	metadata := []attempt{
		{`{"metadata":{"ownerReferences":null}}`, "owner references"},
		{`{"metadata":{"labels":{"berth.run/container":"other"}}}`, "begin with berth.run/"},
		{unlabelled, "begin with berth.run/"},
		{`{"metadata":{"annotations":{"berth.run/runtime-class":"other"}}}`, "begin with berth.run/"},
		{`{"metadata":{"annotations":{"berth.run/more":"other"}}}`, "begin with berth.run/"},
		{`{"metadata":{"annotations":null}}`, "begin with berth.run/"},
	}
	for _, tc := range []struct {
		name           string
		client         dynamic.Interface
		refused, taken []attempt
	}{
		{"system:masters", dynamicClient(t), specs, metadata},
		{"a role with berth.run/*", tenant("tenant"), append(specs, metadata...), nil},
		{
			"another service account", tenant("system:serviceaccount:default:berth-controller"),
			append(specs, metadata...), nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantForbidden(t, "create", "create a Container", func() error { return compileOne(tc.client) })
			for _, try := range tc.refused {
				wantForbidden(t, try.body, try.message, func() error { return patch(tc.client, try.body) })
			}
			for _, try := range append(tc.taken, attempt{body: `{"metadata":{"labels":{"team":"b"}}}`},
				attempt{body: `{"metadata":{"annotations":{"note":null}}}`},
				attempt{body: `{"metadata":{"finalizers":["example.com/other"]}}`}) {
				if err := patch(tc.client, try.body); err != nil {
					t.Errorf("%s: %v", try.body, err)
				}
			}
			err := tc.client.Resource(bundles).Namespace("default").Delete(t.Context(), "pair",
				metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
			if err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
	controller := as(t, controllerUser())
	if err := compileOne(controller); err != nil {
		t.Errorf("the controller: %v", err)
	}
	for _, body := range []string{
		`{"spec":{"restartPolicy":"Never"}}`,
		`{"metadata":{"ownerReferences":null}}`, unlabelled,
	} {
		if err := patch(controller, body); err != nil {
			t.Errorf("the controller: %s: %v", body, err)
		}
	}
	for _, name := range []string{
		"system:kube-controller-manager",
		"system:serviceaccount:kube-system:generic-garbage-collector",
	} {
		collector := tenant(name)
		if err := patch(collector, `{"metadata":{"ownerReferences":null}}`); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := patch(collector, `{"spec":{"restartPolicy":"Never"}}`); err == nil {
			t.Errorf("%s may change the spec", name)
		}
	}
}

// TestOnlyReadersOfOCIBundlesNameTheNodeOfANamespace: who may create namespaces, and nothing else,
// prepares none that the agent of a node would be given.
func TestOnlyReadersOfOCIBundlesNameTheNodeOfANamespace(t *testing.T) {
	a := newApplier(t)
	a.install(t, "policy")
	a.grant(t, "owners-of-namespaces", "", "namespaces", "namespaces/status", "namespaces/finalize")
	a.grant(t, "readers", "berth.run", "ocibundles")
	namespaces := schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	of := func(groups ...string) dynamic.ResourceInterface {
		return as(t, rest.ImpersonationConfig{
			UserName: "somebody",
			Groups:   append(groups, "system:authenticated"),
		}).Resource(namespaces)
	}
	plain := func(node string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
		u.SetName("berth-node-owned")
		if node != "" {
			u.SetAnnotations(map[string]string{"berth.run/node": node})
		}
		return u
	}
	const message = "may set the annotation berth.run/node"
	owner := of("owners-of-namespaces")
	wantForbidden(t, "create", message, func() error {
		_, err := owner.Create(t.Context(), plain("owned"), dryRun)
		return err
	})
	if _, err := owner.Create(t.Context(), plain(""), metav1.CreateOptions{}); err != nil {
		t.Fatalf("a namespace without the annotation: %v", err)
	}
	patch := func(c dynamic.ResourceInterface, node string, sub ...string) error {
		_, err := c.Patch(t.Context(), "berth-node-owned", mergePatch,
			[]byte(`{"metadata":{"annotations":{"berth.run/node":`+node+`}}}`), dryPatch, sub...)
		return err
	}
	for what, try := range map[string]func() error{
		"patch":  func() error { return patch(owner, `"owned"`) },
		"status": func() error { return patch(owner, `"owned"`, "status") },
		"finalize": func() error {
			_, err := owner.Update(t.Context(), plain("owned"),
				metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}, "finalize")
			return err
		},
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: %v", what, err)
		}
	}
	reader := of("owners-of-namespaces", "readers")
	if err := patch(reader, `"owned"`); err != nil {
		t.Errorf("who reads all OCIBundles: %v", err)
	}
	_, err := reader.Patch(t.Context(), "berth-node-owned", mergePatch,
		[]byte(`{"metadata":{"annotations":{"berth.run/node":"owned"}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"null", `"other"`} {
		if err := patch(owner, node); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("change to %s: %v", node, err)
		}
	}
	if _, err := owner.Patch(t.Context(), "berth-node-owned", mergePatch,
		[]byte(`{"metadata":{"labels":{"a":"b"}}}`), dryPatch); err != nil {
		t.Errorf("a label: %v", err)
	}
}

// TestNamespaceWithoutALabelIsRestricted: without a label on the namespace, users who may create
// Containers get no more rights by an installation.
func TestNamespaceWithoutALabelIsRestricted(t *testing.T) {
	a := newApplier(t)
	for _, directory := range []string{"namespace", "policy"} {
		a.install(t, directory)
	}
	namespace := func(name string, labels map[string]string) dynamic.ResourceInterface {
		ns := &unstructured.Unstructured{Object: map[string]any{}}
		ns.SetAPIVersion("v1")
		ns.SetKind("Namespace")
		ns.SetName(name)
		ns.SetLabels(labels)
		_, err := a.resource(t, ns).Apply(t.Context(), name, ns,
			metav1.ApplyOptions{FieldManager: "test"})
		if err != nil {
			t.Fatal(err)
		}
		return dynamicClient(t).Resource(containers).Namespace(name)
	}
	const enforce = "pod-security.kubernetes.io/enforce"
	plain := namespace("no-label", nil)
	privileged := namespace("opted-out", map[string]string{enforce: "privileged"})
	baseline := namespace("base", map[string]string{enforce: "baseline"})
	for _, tc := range []struct{ spec, message string }{
		{"image: busybox", "runAsNonRoot"},
		{"image: busybox\nhostPID: true", "host namespaces"},
		{"image: busybox\nvolumes: [{name: v, hostPath: {path: /}}]", "hostPath"},
		{"archive: {path: /a.tar}", "files of the node"},
		{"rootfs: {path: /srv}\ncommand: [x]", "files of the node"},
		{"image: oci-archive:/a.tar", "files of the node"},
		{"image: docker-archive:/a.tar", "files of the node"},
		{"image: oci:/a", "files of the node"},
		{"image: x\nvolumes: [{name: v, image: {reference: 'oci-archive:/a.tar'}}]", "files of the node"},
		{"image: x\nvolumes: [{name: v, emptyDir: {}}, {name: w, image: {reference: 'oci:/a'}}]", "files of the node"},
	} {
		wantForbidden(t, tc.spec, tc.message, func() error {
			_, err := plain.Create(t.Context(), object(t, "Container", "x", tc.spec), dryRun)
			return err
		})
		if tc.message != "runAsNonRoot" {
			wantForbidden(t, "baseline: "+tc.spec, tc.message, func() error {
				_, err := baseline.Create(t.Context(), object(t, "Container", "x", tc.spec), dryRun)
				return err
			})
		}
		_, err := privileged.Create(t.Context(), object(t, "Container", "x", tc.spec), dryRun)
		if err != nil {
			t.Errorf("opted out: %s: %v", tc.spec, err)
		}
	}
	wantForbidden(t, "words", "in namespace no-label since it has no label "+enforce, func() error {
		_, err := plain.Create(t.Context(), object(t, "Container", "x", "image: busybox"), dryRun)
		return err
	})
	const restricted = "image: busybox\nsecurityContext: {runAsNonRoot: true, runAsUser: 1, capabilities: {drop: [ALL]}}"
	_, err := plain.Create(t.Context(), object(t, "Container", "x", restricted), dryRun)
	if err != nil {
		t.Errorf("a restricted Container: %v", err)
	}

	// What was created before, by the policy of an older version or under another label, can be
	// held, labelled and deleted.
	create(t, containers, "opted-out", object(t, "Container", "older",
		"image: busybox\nhostPID: true"))
	privileged = namespace("opted-out", nil)
	patch := func(body string) error {
		_, err := privileged.Patch(t.Context(), "older", mergePatch, []byte(body), dryPatch)
		return err
	}
	wantForbidden(t, "spec", "host namespaces", func() error {
		return patch(`{"spec":{"hostIPC":true}}`)
	})
	for _, body := range []string{
		`{"metadata":{"finalizers":["berth.run/container"]}}`,
		`{"metadata":{"labels":{"a":"b"}}}`,
	} {
		if err := patch(body); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}
