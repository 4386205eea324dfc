// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/restmapper"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/configtest"
)

// manifests returns the objects of a directory of config/.
func manifests(t *testing.T, directory string) []*unstructured.Unstructured {
	t.Helper()
	return configtest.Objects(t, filepath.Join("..", "..", "config", directory))
}

// applier creates objects of any kind.
type applier struct {
	client dynamic.Interface
	mapper apimeta.RESTMapper
}

func newApplier(t *testing.T) *applier {
	t.Helper()
	d, err := discovery.NewDiscoveryClientForConfig(restConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(d)
	if err != nil {
		t.Fatal(err)
	}
	return &applier{dynamicClient(t), restmapper.NewDiscoveryRESTMapper(groups)}
}

func (a *applier) resource(t *testing.T, u *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	kind := u.GroupVersionKind()
	m, err := a.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		t.Fatal(err)
	}
	if m.Scope.Name() == apimeta.RESTScopeNameRoot {
		return a.client.Resource(m.Resource)
	}
	namespace := u.GetNamespace()
	if namespace == "" {
		namespace = "default"
	}
	return a.client.Resource(m.Resource).Namespace(namespace)
}

// install creates the objects of a directory for the rest of the package's tests.
func (a *applier) install(t *testing.T, directory string) {
	t.Helper()
	for _, u := range manifests(t, directory) {
		_, err := a.resource(t, u).Apply(t.Context(), u.GetName(), u,
			metav1.ApplyOptions{FieldManager: "test", Force: true})
		if err != nil {
			t.Fatalf("config/%s: %s %s: %v", directory, u.GetKind(), u.GetName(), err)
		}
	}
}

// TestConfigIsAccepted: a real API server takes every object of config/, strictly.
func TestConfigIsAccepted(t *testing.T) {
	a := newApplier(t)
	a.install(t, "namespace")
	for _, u := range manifests(t, "upgrade") {
		if u.GetKind() != "Namespace" {
			continue
		}
		_, err := a.resource(t, u).Apply(t.Context(), u.GetName(), u,
			metav1.ApplyOptions{FieldManager: "test", Force: true})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, directory := range []string{
		"rbac", "manager", "agent", "policy", "upgrade", "webhook",
		"samples",
	} {
		for _, u := range manifests(t, directory) {
			t.Run(directory+"/"+u.GetKind()+"/"+u.GetName(), func(t *testing.T) {
				_, err := a.resource(t, u).Apply(t.Context(), u.GetName(), u, metav1.ApplyOptions{
					FieldManager: "test", Force: true, DryRun: []string{metav1.DryRunAll},
				})
				if err != nil {
					t.Error(err)
				}
				if _, err := a.resource(t, u).Create(t.Context(), u, dryRun); err != nil &&
					!strings.Contains(err.Error(), "already exists") {
					t.Errorf("strictly: %v", err)
				}
			})
		}
	}
}

// as returns a client that acts as somebody else.
func as(t *testing.T, user rest.ImpersonationConfig) dynamic.Interface {
	t.Helper()
	config := rest.CopyConfig(restConfig(t))
	config.Impersonate = user
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantForbidden tries until the API server refuses with these words: a policy takes effect some
// time after it was created. Where two policies refuse, the API server shows the message of either;
// alternatives are separated by "|".
func wantForbidden(t *testing.T, what, message string, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			continue
		}
		for alternative := range strings.SplitSeq(message, "|") {
			if strings.Contains(err.Error(), alternative) {
				return
			}
		}
	}
	t.Fatalf("%s: got %v, want %q", what, err, message)
}

// nodeNamespace creates the namespace of a node, and gives its agent what berth-controller gives
// it.
func (a *applier) nodeNamespace(t *testing.T, node string) string {
	t.Helper()
	name := v1alpha1.NodeNamespace(node)
	apply := func(apiVersion, kind, namespace, name string, fields map[string]any) {
		u := &unstructured.Unstructured{Object: fields}
		u.SetAPIVersion(apiVersion)
		u.SetKind(kind)
		u.SetNamespace(namespace)
		u.SetName(name)
		u.SetAnnotations(map[string]string{v1alpha1.AnnotationNode: node})
		_, err := a.resource(t, u).Apply(t.Context(), name, u, metav1.ApplyOptions{
			FieldManager: "test",
			Force:        true,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	apply("v1", "Namespace", "", name, map[string]any{})
	for _, role := range []string{"berth-node-heartbeat", "berth-node-bundles"} {
		apply("rbac.authorization.k8s.io/v1", "RoleBinding", name, role, map[string]any{
			"roleRef": map[string]any{
				"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
				"name": role,
			},
			"subjects": []any{
				map[string]any{"kind": "ServiceAccount", "namespace": v1alpha1.NodesNamespace, "name": node},
				map[string]any{
					"apiGroup": "rbac.authorization.k8s.io", "kind": "User",
					"name": "berth:node:" + node,
				},
			},
		})
	}
	return name
}

// TestUnboundTokenIsNoAgent: a token of the DaemonSet that is bound to no node belongs to no agent
// that runs.
func TestUnboundTokenIsNoAgent(t *testing.T) {
	a := newApplier(t)
	for _, directory := range []string{"namespace", "rbac", "policy"} {
		a.install(t, directory)
	}
	unbound := as(t,
		rest.ImpersonationConfig{UserName: "system:serviceaccount:berth-system:berth-agent"})
	wantForbidden(t, "token without a node", "bound to no node", func() error {
		_, err := unbound.Resource(nodeAgents).Create(t.Context(), object(t, "NodeAgent", "one", "{}"),
			dryRun)
		return err
	})
}

// TestPodSecurity: a namespace's level holds for Containers, too.
func TestPodSecurity(t *testing.T) {
	a := newApplier(t)
	a.install(t, "policy")
	for _, level := range []string{"baseline", "restricted"} {
		ns := &unstructured.Unstructured{Object: map[string]any{}}
		ns.SetAPIVersion("v1")
		ns.SetKind("Namespace")
		ns.SetName("level-" + level)
		ns.SetLabels(map[string]string{"pod-security.kubernetes.io/enforce": level})
		_, err := a.resource(t, ns).Apply(t.Context(), ns.GetName(), ns,
			metav1.ApplyOptions{FieldManager: "test"})
		if err != nil {
			t.Fatal(err)
		}
	}
	try := func(level, spec string) error {
		_, err := a.client.Resource(containers).Namespace("level-"+level).Create(t.Context(),
			object(t, "Container", "x", spec), dryRun)
		return err
	}
	const restricted = "image: busybox\nsecurityContext: {runAsNonRoot: true, runAsUser: 1, capabilities: {drop: [ALL]EXTRA}MORE}"
	fill := func(extra, more string) string {
		return strings.NewReplacer("EXTRA", extra, "MORE", more).Replace(restricted)
	}
	for _, tc := range []struct{ level, spec, message string }{
		{"baseline", "image: busybox\nhostPID: true", "host namespaces"},
		{"baseline", "image: busybox\nhostNetwork: true", "host namespaces"},
		{"baseline", "image: busybox\nhostIPC: true", "host namespaces"},
		{"baseline", "image: busybox\nnetworks: [{name: storage}]", "networks of the node by name"},
		{"baseline", "image: busybox\nports: [{containerPort: 80, hostPort: 80}]", "ports of the node"},
		{"baseline", "image: busybox\nvolumes: [{name: v, hostPath: {path: /}}]", "hostPath"},
		{"baseline", "rootfs: {path: /srv}\ncommand: [x]", "files of the node"},
		{"baseline", "image: oci-archive:/etc/shadow", "files of the node"},
		{
			"baseline", "image: busybox\nsecurityContext: {capabilities: {add: [cap_sys_admin]}}",
			"capabilities.add",
		},
		{"baseline", "image: busybox\nsecurityContext: {capabilities: {add: [ALL]}}", "capabilities.add"},
		{
			"baseline", "image: busybox\nsecurityContext: {seccompProfile: {type: Unconfined}}",
			"Unconfined",
		},
		{"baseline", "image: busybox\nallowSocketcall: true", "allowSocketcall"},
		{
			"baseline", "image: busybox\nhostUsers: false\nsecurityContext: {procMount: Unmasked}",
			"procMount Unmasked",
		},
		{
			"baseline", "image: busybox\nsecurityContext: {appArmorProfile: {type: Unconfined}}",
			"appArmorProfile Unconfined",
		},
		{
			"baseline", "image: busybox\nsecurityContext: {seLinuxOptions: {type: spc_t}}",
			"seLinuxOptions",
		},
		{"baseline", "image: busybox\nsecurityContext: {seLinuxOptions: {user: u}}", "seLinuxOptions"},
		{"baseline", "image: busybox\nsecurityContext: {seLinuxOptions: {role: r}}", "seLinuxOptions"},
		{"restricted", fill("", ", seLinuxOptions: {type: spc_t}"), "seLinuxOptions"},
		{"baseline", "image: busybox\nsecurityContext: {privileged: true}", "privileged containers"},
		{
			"baseline", "image: busybox\nulimits: [{name: rtprio, soft: 0, hard: 1}]",
			"ulimits of priorities",
		},
		{"baseline", "image: busybox\ndevices: [{path: /dev/fuse}]", "devices of the node"},
		{"baseline", "image: busybox\ndevices: [{cdi: v.com/c=n}]", "devices of the node"},
		{"restricted", "image: busybox\nhostPID: true", "host namespaces"},
		{"restricted", "image: busybox\nsecurityContext: {capabilities: {drop: [ALL]}}", "runAsNonRoot"},
		{"restricted", "image: busybox\nsecurityContext: {runAsNonRoot: true}", "capabilities.drop"},
		{"restricted", fill(", add: [CHOWN]", ""), "NET_BIND_SERVICE"},
		{"restricted", fill("", ", allowPrivilegeEscalation: true"), "allowPrivilegeEscalation"},
	} {
		wantForbidden(t, tc.level+": "+tc.spec, tc.message, func() error {
			return try(tc.level, tc.spec)
		})
	}
	for _, tc := range []struct{ level, spec string }{
		{"baseline", "image: busybox"},
		{"baseline", "image: busybox\nports: [{containerPort: 80}]"},
		{
			"baseline",
			"image: busybox\nvolumes: [{name: v, emptyDir: {}}]\nsecurityContext: {capabilities: {add: [CHOWN]}}",
		},
		{"restricted", fill("", "")},
		// A claim is allowed: an administrator creates its PersistentVolume, also one of type hostPath.
		{"restricted", fill("", "") + "\nvolumes: [{name: v, persistentVolumeClaim: {claimName: data}}]"},
		{
			"restricted",
			fill("", ", appArmorProfile: {type: Localhost, localhostProfile: x},"+
				" seccompProfile: {type: Localhost, localhostProfile: x}"),
		},
		{"restricted", fill(", add: [NET_BIND_SERVICE]", "")},
		{"restricted", fill("", ", seLinuxOptions: {}")},
		{"baseline", "image: busybox\nsecurityContext: {seLinuxOptions: {type: container_init_t, level: s0}}"},
	} {
		if err := try(tc.level, tc.spec); err != nil {
			t.Errorf("%s: %v", tc.spec, err)
		}
	}

	// What was there before the level was raised can be stopped sooner, and not changed otherwise.
	const ns = "level-raised"
	level := func(level string) {
		t.Helper()
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetAPIVersion("v1")
		u.SetKind("Namespace")
		u.SetName(ns)
		u.SetLabels(map[string]string{"pod-security.kubernetes.io/enforce": level})
		_, err := a.resource(t, u).Apply(t.Context(), ns, u, metav1.ApplyOptions{FieldManager: "test"})
		if err != nil {
			t.Fatal(err)
		}
	}
	level("privileged")
	there := a.client.Resource(containers).Namespace(ns)
	_, err := there.Create(t.Context(), object(t, "Container", "old",
		"image: busybox\nhostPID: true\nhostname: a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	level("baseline")
	// Nothing is stored: a patch that is accepted because the API server does not know the level yet
	// would be none the next time.
	patch := func(spec string) error {
		_, err := there.Patch(t.Context(), "old", types.MergePatchType, []byte(`{"spec":`+spec+`}`),
			dryPatch)
		return err
	}
	for _, spec := range []string{
		`{"hostname":"b"}`, `{"hostname":null}`, `{"command":["x"]}`,
		`{"terminationGracePeriodSeconds":1,"command":["x"]}`,
	} {
		wantForbidden(t, spec, "host namespaces", func() error { return patch(spec) })
	}
	for _, spec := range []string{
		`{"terminationGracePeriodSeconds":1}`,
		`{"terminationGracePeriodSeconds":0}`,
	} {
		if err := patch(spec); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
}
