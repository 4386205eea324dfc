// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/configtest"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/registration"
	"github.com/berth-run/berth/node-agent/source"
)

// server is a real kube-apiserver with Berth's CRDs.
var server *rest.Config

func TestMain(m *testing.M) { os.Exit(leaktest.Run(suite{m})) }

// suite is the tests, with the API server that they share.
type suite struct{ tests *testing.M }

// Run starts the API server, runs the tests and stops it. Then connections of clients end, too.
func (s suite) Run() int {
	code, err := func() (int, error) {
		if os.Getenv("KUBEBUILDER_ASSETS") == "" {
			return 1, errors.New(
				"KUBEBUILDER_ASSETS is not set: run make test, or export KUBEBUILDER_ASSETS=$(hack/controlplane/build.sh)")
		}
		env := &envtest.Environment{
			CRDDirectoryPaths:     []string{"../../../config/crd/bases"},
			ErrorIfCRDPathMissing: true,
			CRDInstallOptions:     envtest.CRDInstallOptions{MaxTime: 5 * time.Minute},
		}
		var err error
		if server, err = env.Start(); err != nil {
			return 1, err
		}
		return s.tests.Run(), env.Stop()
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// admin returns a client with the controller's name, since nobody else may create OCIBundles where a
// test has installed the policies.
func admin(t *testing.T) client.Client {
	t.Helper()
	return clientOf(t, as("system:serviceaccount:berth-system:berth-controller", "system:masters"))
}

func clientOf(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme),
		coordinationv1.AddToScheme(scheme), rbacv1.AddToScheme(scheme),
		authenticationv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// begin begins a test. When it has ended, no connection is left that client-go would keep for the
// next client. Its cache of transports holds them weakly, and a connection lasts longer than a
// transport that was collected: begin holds them, too.
func begin(t *testing.T) {
	t.Helper()
	var transports []http.RoundTripper
	for _, config := range []*rest.Config{server, rest.AnonymousClientConfig(server)} {
		transport, err := rest.TransportFor(config)
		if err != nil {
			t.Fatal(err)
		}
		transports = append(transports, transport)
	}
	leaktest.Check(t, func() {
		for _, transport := range transports {
			utilnet.CloseIdleConnectionsFor(transport)
		}
	})
}

// as returns a client of somebody else.
func as(user string, groups ...string) *rest.Config {
	config := rest.CopyConfig(server)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return config
}

// newBundle returns the OCIBundle of Container NAME in namespace default.
func newBundle(name, nodeName string) *v1alpha1.OCIBundle {
	b := &v1alpha1.OCIBundle{}
	b.Namespace, b.Name = v1alpha1.NodeNamespace(nodeName), v1alpha1.BundleName("default", name)
	b.Spec.ContainerRef = &v1alpha1.ContainerReference{
		Namespace: "default", Name: name,
		UID: "uid-of-" + types.UID(name),
	}
	b.Finalizers = []string{"example.com/other", v1alpha1.OCIBundleFinalizer}
	b.Spec.NodeName = nodeName
	b.Spec.RestartPolicy = corev1.RestartPolicyAlways
	b.Spec.Config.Raw = []byte(`{"ociVersion":"1.3.0"}`)
	return b
}

// keyOf returns the key by which the agent knows an OCIBundle.
func keyOf(b *v1alpha1.OCIBundle) source.Key {
	return source.Key{Namespace: b.Spec.ContainerRef.Namespace, Name: b.Spec.ContainerRef.Name}
}

// createBundle creates an OCIBundle and the namespace of its node.
func createBundle(t *testing.T, c client.Client, b *v1alpha1.OCIBundle) {
	t.Helper()
	nodeNamespace(t, c, b.Spec.NodeName)
	if err := c.Create(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// nodeNamespace creates what the controller gives a node.
func nodeNamespace(t *testing.T, c client.Client, node string) {
	t.Helper()
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: namespace, Name: name,
			Annotations: map[string]string{v1alpha1.AnnotationNode: node},
		}
	}
	binding := func(role string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{
			ObjectMeta: meta(v1alpha1.NodeNamespace(node), role),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{
				{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "berth:node:" + node},
				{Kind: rbacv1.ServiceAccountKind, Namespace: v1alpha1.NodesNamespace, Name: node},
			},
		}
	}
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: meta("", v1alpha1.NodeNamespace(node))},
		binding("berth-node-heartbeat"), binding("berth-node-bundles"),
	} {
		if err := c.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
}

type heard struct {
	changed chan source.Key
	synced  chan struct{}
}

func (h heard) Changed(k source.Key) { h.changed <- k }
func (h heard) Synced()              { close(h.synced) }

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// start runs the source of a node until the test ends.
func start(t *testing.T, node string) (*Kubernetes, heard) {
	t.Helper()
	k, err := New(Options{Config: server, NodeName: node})
	if err != nil {
		t.Fatal(err)
	}
	h := heard{make(chan source.Key, 100), make(chan struct{})}
	run(t, k, h)
	return k, h
}

func TestSource(t *testing.T) {
	begin(t)
	ctx, cancel := context.WithCancel(context.Background())
	c := admin(t)
	mine, other := newBundle("mine", "node-1"), newBundle("other", "node-2")
	for _, b := range []*v1alpha1.OCIBundle{mine, other} {
		createBundle(t, c, b)
	}
	k, err := New(Options{Config: server, NodeName: "node-1"})
	if err != nil {
		t.Fatal(err)
	}
	h := heard{make(chan source.Key, 100), make(chan struct{})}
	if k.Synced() || k.Get(source.Key{Namespace: "default", Name: "mine"}) != nil {
		t.Error("knows something before Run")
	}
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx, h) }()
	<-h.synced
	key, at := keyOf(mine), client.ObjectKeyFromObject(mine)
	if got := k.List(); len(got) != 1 || got[0].Name != "mine" {
		t.Fatalf("found %v; want the one of this node alone", got)
	}
	if first := <-h.changed; first != key {
		t.Fatalf("found %v", first)
	}

	// A status replaces all of the one before.
	status := &v1alpha1.OCIBundleStatus{ObservedGeneration: 1, Phase: v1alpha1.ContainerRunning}
	status.PID, status.RestartCount = 42, 3
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: "Running", Status: "True",
		Reason: "Started",
	})
	if err := k.ReportStatus(ctx, k.Get(key), status); err != nil {
		t.Fatal(err)
	}
	until(t, "the status in the cache", func() bool { return k.Get(key).Status.PID == 42 })
	if err := k.ReportStatus(ctx, k.Get(key), &v1alpha1.OCIBundleStatus{
		ObservedGeneration: 1,
		Phase:              v1alpha1.ContainerPending,
	}); err != nil {
		t.Fatal(err)
	}
	now := &v1alpha1.OCIBundle{}
	if err := c.Get(ctx, at, now); err != nil || now.Status.PID != 0 ||
		len(now.Status.Conditions) != 0 || now.Status.Phase != v1alpha1.ContainerPending {
		t.Fatalf("found %+v, %v; want nothing of the earlier status", now.Status, err)
	}
	// One for a bundle of the same name that is gone changes nothing, and is no error; nor is one
	// for no bundle at all.
	stale := now.DeepCopy()
	stale.UID = "another"
	if err := k.ReportStatus(ctx, stale, status); err != nil {
		t.Error(err)
	}
	stale.Name = "nobody"
	if err := k.ReportStatus(ctx, stale, status); err != nil {
		t.Error(err)
	}
	if err := c.Get(ctx, at, now); err != nil || now.Status.PID != 0 {
		t.Errorf("found %+v, %v", now.Status, err)
	}

	// Release removes our finalizer, and only that, and only of what is deleted and is the same.
	if err := k.Release(ctx, key, mine.UID); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(ctx, at, now); err != nil || len(now.Finalizers) != 2 {
		t.Fatalf("found finalizers %v, %v of what is not deleted", now.Finalizers, err)
	}
	if err := c.Delete(ctx, mine); err != nil {
		t.Fatal(err)
	}
	until(t, "the deletion in the cache", func() bool { return k.Get(key).DeletionTimestamp != nil })
	if err := k.Release(ctx, key, "another"); err != nil {
		t.Fatal(err)
	}
	if err := k.Release(ctx, key, mine.UID); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(ctx, at, now); err != nil || len(now.Finalizers) != 1 ||
		now.Finalizers[0] != "example.com/other" {
		t.Fatalf("found finalizers %v, %v", now.Finalizers, err)
	}
	now.Finalizers = nil
	if err := c.Update(ctx, now); err != nil {
		t.Fatal(err)
	}
	until(t, "gone from the cache", func() bool { return k.Get(key) == nil })
	if err := k.Release(ctx, key, mine.UID); err != nil {
		t.Errorf("release of what is gone: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestStatusOfOthersIsSeen: a status written by somebody else is a change; the agent's own is not.
func TestStatusOfOthersIsSeen(t *testing.T) {
	begin(t)
	c := admin(t)
	b := newBundle("falsified", "node-5")
	b.Finalizers = nil
	createBundle(t, c, b)
	t.Cleanup(func() { _ = c.Delete(context.Background(), b) })
	k, h := start(t, "node-5")
	<-h.synced
	key, at := keyOf(b), client.ObjectKeyFromObject(b)
	<-h.changed // it is there
	said := func(phase v1alpha1.ContainerPhase) *v1alpha1.OCIBundleStatus {
		return &v1alpha1.OCIBundleStatus{ObservedGeneration: 1, Phase: phase}
	}
	for range 20 {
		for _, phase := range []v1alpha1.ContainerPhase{
			v1alpha1.ContainerPending,
			v1alpha1.ContainerRunning,
		} {
			if err := k.ReportStatus(t.Context(), k.Get(key), said(phase)); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "the last status in the cache", func() bool {
		now := &v1alpha1.OCIBundle{}
		return c.Get(t.Context(), at, now) == nil && k.Get(key).ResourceVersion == now.ResourceVersion
	})
	if n := len(h.changed); n != 0 {
		t.Errorf("found %d changes for the agent's own writes", n)
	}
	now := &v1alpha1.OCIBundle{}
	if err := c.Get(t.Context(), at, now); err != nil {
		t.Fatal(err)
	}
	now.Status.Phase = v1alpha1.ContainerSucceeded
	if err := c.Status().Update(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-h.changed:
		if got != key || k.Get(key).Status.Phase != v1alpha1.ContainerSucceeded {
			t.Errorf("found %v, %+v", got, k.Get(key).Status)
		}
	case <-time.After(3 * time.Minute):
		t.Fatal("the status of somebody else is no change")
	}
	// A label of somebody else is none of the agent's business.
	now.Labels = map[string]string{"a": "b"}
	if err := c.Update(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	until(t, "the label in the cache", func() bool { return k.Get(key).Labels["a"] == "b" })
	if n := len(h.changed); n != 0 {
		t.Errorf("found %d changes for a label", n)
	}
}

// TestNodeAgent is here for the API server: package registration's object and heartbeat.
func TestNodeAgent(t *testing.T) {
	begin(t)
	ctx, cancel := context.WithCancel(context.Background())
	c := admin(t)
	nodeNamespace(t, c, "node-1")
	facts, err := registration.Read("/", "v0")
	if err != nil {
		t.Fatal(err)
	}
	load := make(chan registration.Load, 1)
	load <- registration.Load{Ready: errors.New("the test is not ready")}
	a, err := registration.New(registration.Options{
		Config: server, Name: "node-1", Facts: facts, Handlers: func() []v1alpha1.NodeHandler {
			return []v1alpha1.NodeHandler{{Name: "berth", Seccomp: true}}
		},
		Load: func(context.Context) registration.Load { l := <-load; load <- l; return l },
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	agent, lease := &v1alpha1.NodeAgent{}, &coordinationv1.Lease{}
	ready := func(want metav1.ConditionStatus) func() bool {
		return func() bool {
			err := c.Get(ctx, client.ObjectKey{Name: "node-1"}, agent)
			if err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			cond := meta.FindStatusCondition(agent.Status.Conditions, v1alpha1.ConditionReady)
			return cond != nil && cond.Status == want
		}
	}
	until(t, "Ready=False", ready(metav1.ConditionFalse))
	if agent.Labels[corev1.LabelHostname] != "node-1" || agent.Labels[corev1.LabelArchStable] == "" ||
		agent.Status.NodeInfo.AgentVersion != "v0" ||
		len(agent.Status.Handlers) != 1 || agent.Status.Capacity.Cpu().IsZero() {
		t.Errorf("found %+v", agent)
	}
	until(t, "the Lease", func() bool {
		return c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.NodeNamespace("node-1"), Name: "node-1"},
			lease) == nil
	})
	if *lease.Spec.LeaseDurationSeconds != 40 || lease.Spec.RenewTime == nil ||
		lease.OwnerReferences[0].UID != agent.UID {
		t.Errorf("found %+v", lease)
	}
	// What an administrator says of the node stays when the status changes.
	agent.Spec.Unschedulable = true
	agent.Labels["zone"] = "a"
	if err := c.Update(ctx, agent); err != nil {
		t.Fatal(err)
	}
	<-load
	load <- registration.Load{Containers: 2}
	until(t, "Ready=True", ready(metav1.ConditionTrue))
	if !agent.Spec.Unschedulable || agent.Labels["zone"] != "a" || agent.Status.Containers != 2 {
		t.Errorf("found %+v", agent)
	}
	until(t, "the generation", func() bool {
		return ready(metav1.ConditionTrue)() && agent.Status.ObservedGeneration == agent.Generation
	})
	// A NodeAgent that was deleted by mistake is registered again before its node counts as gone:
	// the controller deletes the Lease.
	was := agent.UID
	if err := errors.Join(c.Delete(ctx, agent), c.Delete(ctx, lease)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	until(t, "the NodeAgent again", func() bool {
		return ready(metav1.ConditionTrue)() && agent.UID != was
	})
	if took := time.Since(began); took > registration.LeaseSeconds*time.Second {
		t.Errorf("it was registered again after %s", took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestHeartbeatBeforeTheNamespace holds that a node whose namespace does not exist yet costs the
// API server little: of thousands that are new at the same time, the controller serves one after
// the other.
func TestHeartbeatBeforeTheNamespace(t *testing.T) {
	begin(t)
	ctx, cancel := context.WithCancel(context.Background())
	c := admin(t)
	counted := rest.CopyConfig(server)
	var mu sync.Mutex
	var applied int
	var waits []time.Time
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			if r.Method == http.MethodPatch {
				applied++
			} else if r.Method == http.MethodGet {
				waits = append(waits, time.Now())
			}
			mu.Unlock()
			return next.RoundTrip(r)
		})
	})
	a, err := registration.New(registration.Options{
		Config: counted, Name: "node-new",
		Load: func(context.Context) registration.Load {
			return registration.Load{}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	until(t, "four tries to read the Lease", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(waits) >= 4
	})
	mu.Lock()
	if took := waits[3].Sub(waits[0]); took < 6*time.Second {
		t.Errorf("four tries took %s; wanted pauses of 1, 2 and 4 s", took)
	}
	if applied != 2 {
		t.Errorf("the NodeAgent was applied %d times; wanted it registered once, with its status",
			applied)
	}
	mu.Unlock()
	nodeNamespace(t, c, "node-new")
	until(t, "the Lease", func() bool {
		key := client.ObjectKey{Namespace: v1alpha1.NodeNamespace("node-new"), Name: "node-new"}
		return c.Get(ctx, key, &coordinationv1.Lease{}) == nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (r roundTrip) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }

// TestHeartbeatOfAnAgentAheadOfTheCRDs: an agent that was upgraded before the CRDs cannot write its
// status, and is not lost for that.
func TestHeartbeatOfAnAgentAheadOfTheCRDs(t *testing.T) {
	begin(t)
	c := admin(t)
	nodeNamespace(t, c, "node-old")
	const field = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/nodeInfo/properties/agentRevision"
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{
		Group: "apiextensions.k8s.io", Version: "v1",
		Kind: "CustomResourceDefinition",
	})
	crd.SetName("nodeagents.berth.run")
	if err := c.Patch(t.Context(), crd, client.RawPatch(types.JSONPatchType,
		fmt.Appendf(nil, `[{"op": "remove", "path": %q}]`, field))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		back := fmt.Appendf(nil,
			`[{"op": "add", "path": %q, "value": {"type": "integer", "format": "int32"}}]`, field)
		err := c.Patch(context.Background(), crd, client.RawPatch(types.JSONPatchType, back))
		if err != nil {
			t.Error(err)
		}
	})
	status := []byte(
		`{"apiVersion": "berth.run/v1alpha1", "kind": "NodeAgent", "metadata": {"name": "node-old"}, "status": {"observedGeneration": 1, "containers": 0, "nodeInfo": {"agentRevision": 1}}}`)
	plain := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "node-old"}}
	if err := c.Create(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	until(t, "the older CRD", func() bool {
		err := c.Status().Patch(t.Context(), plain.DeepCopy(), client.RawPatch(types.ApplyPatchType,
			status), client.FieldOwner("test"), client.ForceOwnership)
		return err != nil && strings.Contains(err.Error(), "field not declared in schema")
	})

	facts, err := registration.Read("/", "v0")
	if err != nil {
		t.Fatal(err)
	}
	log := &safeLog{}
	a, err := registration.New(registration.Options{
		Config: server, Name: "node-old", Facts: facts, Load: func(context.Context) registration.Load {
			return registration.Load{}
		},
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	until(t, "the Lease", func() bool {
		return c.Get(ctx, client.ObjectKey{
			Namespace: v1alpha1.NodeNamespace("node-old"),
			Name:      "node-old",
		}, &coordinationv1.Lease{}) == nil
	})
	until(t, "the reason", func() bool {
		return strings.Contains(log.String(), "kubectl apply -k config/crd")
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// safeLog is a log that is read while it is written.
type safeLog struct {
	mu sync.Mutex
	strings.Builder
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.String()
}

// TestAgentWorksUnderItsPolicy: RBAC and the policies of config/ permit every write of this agent.
func TestAgentWorksUnderItsPolicy(t *testing.T) {
	begin(t)
	ctx, cancel := context.WithCancel(context.Background())
	c := admin(t)
	for _, directory := range []string{"namespace", "rbac", "policy"} {
		install(t, filepath.Join("../../../config", directory))
	}
	mine, other := newBundle("policy-mine", "node-7"), newBundle("policy-other", "node-8")
	for _, b := range []*v1alpha1.OCIBundle{mine, other} {
		createBundle(t, c, b)
	}
	t.Cleanup(func() {
		for _, b := range []*v1alpha1.OCIBundle{mine, other} {
			_ = c.Patch(context.Background(), b, client.RawPatch(types.MergePatchType,
				[]byte(`{"metadata":{"finalizers":null}}`)))
			_ = c.Delete(context.Background(), b)
		}
	})
	agent := as("berth:node:node-7", "berth:nodes", "system:authenticated")
	k, err := New(Options{Config: agent, NodeName: "node-7"})
	if err != nil {
		t.Fatal(err)
	}
	h := heard{make(chan source.Key, 100), make(chan struct{})}
	done := make(chan error, 2)
	go func() { done <- k.Run(ctx, h) }()
	<-h.synced
	// The policies are in force once they refuse something.
	direct, err := client.New(agent, client.Options{Scheme: c.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the policies", func() bool {
		err := direct.Create(ctx, &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "node-8"}},
			client.DryRunAll)
		return err != nil && strings.Contains(err.Error(), "ValidatingAdmissionPolicy")
	})
	if err := k.ReportStatus(ctx, other,
		&v1alpha1.OCIBundleStatus{ObservedGeneration: 1}); err != nil {
		t.Errorf("what is not in its namespace is gone for the agent; found %v", err)
	}

	if err := k.ReportStatus(ctx, k.Get(keyOf(mine)), &v1alpha1.OCIBundleStatus{
		ObservedGeneration: 1,
		Phase:              v1alpha1.ContainerRunning,
	}); err != nil {
		t.Errorf("report: %v", err)
	}
	if err := c.Delete(ctx, mine); err != nil {
		t.Fatal(err)
	}
	if err := k.Release(ctx, keyOf(mine), mine.UID); err != nil {
		t.Errorf("release: %v", err)
	}

	facts, err := registration.Read("/", "v0")
	if err != nil {
		t.Fatal(err)
	}
	register := func() func() {
		ctx, stop := context.WithCancel(ctx)
		a, err := registration.New(registration.Options{
			Config: agent, Name: "node-7", Facts: facts, ApplyEvery: 2 * time.Second,
			Load: func(context.Context) registration.Load { return registration.Load{} },
		})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		return func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	now, lease := &v1alpha1.NodeAgent{}, &coordinationv1.Lease{}
	written := func() bool {
		return c.Get(ctx, client.ObjectKey{Name: "node-7"}, now) == nil &&
			meta.IsStatusConditionTrue(now.Status.Conditions, v1alpha1.ConditionReady) &&
			now.Labels[corev1.LabelHostname] == "node-7" &&
			c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.NodeNamespace("node-7"), Name: "node-7"},
				lease) == nil
	}
	stop := register()
	until(t, "NodeAgent and Lease", written)
	stop()
	// The next agent finds what an administrator has done in between.
	now.Spec.Unschedulable = true
	now.Labels = map[string]string{"zone": "a"}
	now.Annotations = map[string]string{"a": "b"}
	if err := c.Update(ctx, now); err != nil {
		t.Fatal(err)
	}
	stop = register()
	until(t, "its labels beside those of the administrator", func() bool {
		return written() && now.Spec.Unschedulable && now.Labels["zone"] == "a" &&
			now.Annotations["a"] == "b" &&
			now.Status.ObservedGeneration == now.Generation
	})
	// What somebody else writes into its status, or takes of its labels, is corrected.
	if err := c.Patch(ctx, now.DeepCopy(), client.RawPatch(types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"kubernetes.io/hostname":null}}}`))); err != nil {
		t.Fatal(err)
	}
	falsified := []byte(`{"status":{"containers":99,"allocatable":{"cpu":"4k"}}}`)
	if err := c.Status().Patch(ctx, now.DeepCopy(), client.RawPatch(types.MergePatchType,
		falsified)); err != nil {
		t.Fatal(err)
	}
	until(t, "the status corrected", func() bool {
		return written() && now.Status.Containers == 0 &&
			now.Status.Allocatable.Cpu().Cmp(*now.Status.Capacity.Cpu()) == 0
	})
	stop()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// install applies the manifests of a directory.
func install(t *testing.T, dir string) {
	t.Helper()
	c, err := client.New(server, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range configtest.Objects(t, dir) {
		if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u),
			client.FieldOwner("test"), client.ForceOwnership); err != nil {
			t.Fatalf("%s: %s %s: %v", dir, u.GetKind(), u.GetName(), err)
		}
	}
}
