// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/registration"
	"github.com/berth-run/berth/node-agent/source"
)

// TestDaemonSetBecomesItsNode has a token of the DaemonSet's ServiceAccount, as the kubelet of a
// node gets it for the pod, and nothing else: the agent registers the node, gets the identity of
// the node when the controller has made one, and gets it again after that has gone.
func TestDaemonSetBecomesItsNode(t *testing.T) {
	begin(t)
	ctx, cancel := context.WithCancel(context.Background())
	c := admin(t)
	for _, directory := range []string{"namespace", "rbac", "policy"} {
		install(t, filepath.Join("../../../config", directory))
	}
	const name = "node-kubelet"
	config := daemonSetOn(t, c, name)
	own, err := registration.Identify(config, name)
	if err != nil {
		t.Fatal(err)
	}
	b := newBundle("of-kubelet", name)
	b.Finalizers = nil

	k, err := New(Options{Config: own, NodeName: name})
	if err != nil {
		t.Fatal(err)
	}
	h := heard{make(chan source.Key, 100), make(chan struct{})}
	done := make(chan error, 2)
	go func() { done <- k.Run(ctx, h) }()
	facts, err := registration.Read("/", "v0")
	if err != nil {
		t.Fatal(err)
	}
	a, err := registration.New(registration.Options{
		Config: own, Name: name, Facts: facts,
		Load: func(context.Context) registration.Load {
			return registration.Load{}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- a.Run(ctx) }()

	// Without an identity of its own it registers, and says nothing else.
	agent := &v1alpha1.NodeAgent{}
	until(t, "the NodeAgent", func() bool {
		return c.Get(ctx, client.ObjectKey{Name: name}, agent) == nil
	})
	if agent.Labels[corev1.LabelHostname] != name || agent.Status.ObservedGeneration != -1 {
		t.Errorf("found %+v", agent)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: v1alpha1.NodesNamespace,
		Name:      name,
	}}
	createBundle(t, c, b)
	if err := c.Create(ctx, account); err != nil {
		t.Fatal(err)
	}
	lease := &coordinationv1.Lease{}
	renewed := func(after time.Time) func() bool {
		return func() bool {
			err := c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.NodeNamespace(name), Name: name}, lease)
			return err == nil && lease.Spec.RenewTime.After(after)
		}
	}
	until(t, "the Lease", renewed(time.Time{}))
	<-h.synced
	if err := k.ReportStatus(ctx, k.Get(keyOf(b)), &v1alpha1.OCIBundleStatus{
		ObservedGeneration: 1,
		Phase:              v1alpha1.ContainerRunning,
	}); err != nil {
		t.Error(err)
	}

	// Tokens are of no use after their ServiceAccount. The agent asks for one of the next.
	if err := c.Delete(ctx, account); err != nil {
		t.Fatal(err)
	}
	account.ResourceVersion, account.UID = "", ""
	if err := c.Create(ctx, account); err != nil {
		t.Fatal(err)
	}
	until(t, "the next token", renewed(time.Now().Add(time.Second)))
	// The Lease may have been renewed with the one before, which the API server accepts for ten
	// seconds since it has seen it first. Who is refused once has the next.
	until(t, "a report with the next token", func() bool {
		return k.ReportStatus(ctx, k.Get(keyOf(b)), &v1alpha1.OCIBundleStatus{
			ObservedGeneration: 1,
			Phase:              v1alpha1.ContainerPending,
		}) == nil
	})

	// With the token of the pod, nothing else is to be had.
	bare, err := client.New(config, client.Options{Scheme: c.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(account string, change func(*authenticationv1.TokenRequestSpec)) error {
		seconds := int64(3600)
		r := &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
		}
		change(&r.Spec)
		return bare.SubResource("token").Create(ctx,
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
				Namespace: v1alpha1.NodesNamespace,
				Name:      account,
			}}, r)
	}
	same := func(*authenticationv1.TokenRequestSpec) {}
	other := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: v1alpha1.NodesNamespace,
		Name:      "node-other",
	}}
	if err := c.Create(ctx, other); err != nil {
		t.Fatal(err)
	}
	if err := ask(name, same); err != nil {
		t.Errorf("its own: %v", err)
	}
	until(t, "the policies", func() bool {
		err := ask("node-other", same)
		return err != nil && strings.Contains(err.Error(), "of its own node")
	})
	for want, err := range map[string]error{
		"of its own node": ask("node-other", same),
		"one hour at most": ask(name, func(s *authenticationv1.TokenRequestSpec) {
			long := int64(86400)
			s.ExpirationSeconds = &long
		}),
		"cannot list resource": bare.List(ctx, &v1alpha1.OCIBundleList{}),
		"cannot get resource":  bare.Get(ctx, client.ObjectKey{Name: name}, &v1alpha1.NodeAgent{}),
		"cannot patch resource": bare.Status().Patch(ctx, agent.DeepCopy(),
			client.RawPatch("application/merge-patch+json", []byte(`{"status":{"containers":1}}`))),
		"its own node, " +
			name: bare.Create(ctx, &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "node-other"}}),
		"cannot create resource ": bare.Create(ctx,
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
				Namespace: v1alpha1.NodesNamespace,
				Name:      "made",
			}}),
	} {
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("found %v; want %q", err, want)
		}
	}
	cancel()
	if err := errors.Join(<-done, <-done); err != nil {
		t.Error(err)
	}
}

// daemonSetOn returns how a pod of the DaemonSet on that node reaches the API server: by a token
// that is bound to the pod.
func daemonSetOn(t *testing.T, c client.Client, name string) *rest.Config {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: "agent-" + name},
		Spec: corev1.PodSpec{
			NodeName: name, ServiceAccountName: "berth-agent",
			Containers: []corev1.Container{{Name: "agent", Image: "x"}},
		},
	}
	for _, o := range []client.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, pod} {
		if err := c.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod",
			Name: pod.Name, UID: pod.UID,
		},
	}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: "berth-system",
		Name:      "berth-agent",
	}}
	if err := clientOf(t, server).SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(server)
	config.BearerToken = request.Status.Token
	return config
}
