// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/registration"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/source/kubernetes"
)

// issuer signs client certificates as the cluster's authority does.
type issuer struct {
	ca  tls.Certificate
	key *ecdsa.PrivateKey // of all fake agents
	pem []byte
}

func (c *cluster) newIssuer() (*issuer, error) {
	dir := filepath.Join(c.dir, "pki")
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return &issuer{ca, key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})}, err
}

// identity returns the client configuration of a node's agent, with a certificate, and so a
// connection, of its own.
func (i *issuer) identity(c *cluster, node string) (*rest.Config, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "berth:node:" + node, Organization: []string{"berth:nodes"}},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.ca.Leaf, i.key.Public(),
		i.ca.PrivateKey)
	if err != nil {
		return nil, err
	}
	config := rest.AnonymousClientConfig(c.config)
	config.CertData, config.KeyData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		i.pem
	config.QPS, config.Burst = 50, 200 // as cmd/berth-agent
	return config, nil
}

// fakeAgent makes the requests of a berth-agent to the API server, by the same code. It starts no
// process: it reports that each OCIBundle of its node runs.
type fakeAgent struct {
	name   string
	ctx    context.Context
	source *kubernetes.Kubernetes
}

// startFake starts the fake agent of a node. It goes on until ctx ends.
func startFake(ctx context.Context, c *cluster, i *issuer, name string) error {
	config, err := i.identity(c, name)
	if err != nil {
		return err
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("8"),
		corev1.ResourceMemory: resource.MustParse("32Gi"),
	}
	facts := registration.Facts{Info: v1alpha1.NodeInfo{
		AgentRevision: 2, AgentVersion: "fake",
		Architecture: "amd64", OperatingSystem: "linux",
	}, Capacity: capacity}
	heart, err := registration.New(registration.Options{
		Config: config, Name: name, Facts: facts,
		Handlers: func() []v1alpha1.NodeHandler {
			return []v1alpha1.NodeHandler{{Name: v1alpha1.HandlerNative}}
		},
		Load: func(context.Context) registration.Load { return registration.Load{} },
	})
	if err != nil {
		return err
	}
	f := &fakeAgent{name: name, ctx: ctx}
	if f.source, err = kubernetes.New(kubernetes.Options{Config: config, NodeName: name}); err != nil {
		return err
	}
	go func() { _ = heart.Run(ctx) }()
	go func() {
		for ctx.Err() == nil {
			_ = f.source.Run(ctx, f)
		}
	}()
	return nil
}

// Synced is part of source.Events.
func (f *fakeAgent) Synced() {}

// Changed is part of source.Events.
func (f *fakeAgent) Changed(key source.Key) {
	go func() {
		b := f.source.Get(key)
		if b == nil {
			return
		}
		if b.DeletionTimestamp != nil {
			_ = f.source.Release(f.ctx, key, b.UID)
			return
		}
		if b.Status.Phase != v1alpha1.ContainerRunning {
			_ = f.source.ReportStatus(f.ctx, b, runs(b))
		}
	}()
}

// runs returns an agent's status of a running container.
func runs(b *v1alpha1.OCIBundle) *v1alpha1.OCIBundleStatus {
	yes := func(kind, reason string) metav1.Condition {
		return metav1.Condition{
			Type: kind, Status: metav1.ConditionTrue, Reason: reason,
			ObservedGeneration: b.Generation, LastTransitionTime: metav1.Now(),
		}
	}
	return &v1alpha1.OCIBundleStatus{
		ObservedGeneration: b.Generation,
		Phase:              v1alpha1.ContainerRunning,
		Conditions: []metav1.Condition{
			yes(v1alpha1.ConditionImageReady, v1alpha1.ReasonImagePulled),
			yes(v1alpha1.ConditionRunning, v1alpha1.ReasonStarted),
		},
		RunStatus: v1alpha1.RunStatus{
			ContainerID: fmt.Sprintf("berth://%s", b.UID), PID: 1,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
		},
	}
}
