// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/oauth2"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/apiserver"
)

// tokenSeconds is the validity of a token of the node's ServiceAccount. The agent asks for another
// when four fifths of that are over, as the kubelet does it with the tokens of pods.
const tokenSeconds = 3600

// Identify returns a client configuration with which the agent reaches the API server as its node.
// With a client certificate it is the node already. The token of a pod is that of all nodes: with
// it the agent asks for tokens of its node's ServiceAccount, which the controller creates once the
// NodeAgent is registered.
func Identify(config *rest.Config, node string) (*rest.Config, error) {
	if config.BearerToken == "" && config.BearerTokenFile == "" {
		return config, nil
	}
	scheme := runtime.NewScheme()
	err := errors.Join(v1alpha1.AddToScheme(scheme), authenticationv1.AddToScheme(scheme))
	if err != nil {
		return nil, err
	}
	core, errCore := apiserver.NewClient(config, corev1.SchemeGroupVersion, scheme)
	berth, errBerth := apiserver.NewClient(config, v1alpha1.GroupVersion, scheme)
	if err := errors.Join(errCore, errBerth); err != nil {
		return nil, fmt.Errorf("identity of the node: %w", err)
	}
	own := rest.AnonymousClientConfig(config)
	own.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedTokenSource(&tokens{
		core: core, berth: berth, node: node,
	})))
	return own, nil
}

// tokens is an oauth2.TokenSource of the node's ServiceAccount.
type tokens struct {
	core, berth rest.Interface
	node        string
}

// Token implements oauth2.TokenSource.
func (t *tokens) Token() (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	seconds := int64(tokenSeconds)
	request := &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	}
	began := time.Now()
	err := t.core.Post().Namespace(v1alpha1.NodesNamespace).Resource(
		"serviceaccounts").Name(t.node).SubResource("token").
		Body(request).Do(ctx).Into(request)
	if apierrors.IsNotFound(err) {
		if errRegister := t.register(ctx); errRegister != nil {
			return nil, errRegister
		}
		return nil, fmt.Errorf(
			"the NodeAgent is registered, and berth-controller has not created ServiceAccount %s in %s yet",
			t.node, v1alpha1.NodesNamespace)
	}
	if err != nil {
		return nil, fmt.Errorf("token of ServiceAccount %s in %s: %w", t.node,
			v1alpha1.NodesNamespace, err)
	}
	// By this node's own clock, which may differ from the API server's.
	valid := request.Status.ExpirationTimestamp.Sub(request.CreationTimestamp.Time)
	if request.CreationTimestamp.IsZero() || valid <= 0 || valid > tokenSeconds*time.Second {
		valid = tokenSeconds * time.Second
	}
	return &oauth2.Token{AccessToken: request.Status.Token, Expiry: began.Add(valid * 4 / 5)}, nil
}

// register creates the NodeAgent. All else of it is written with the node's identity.
func (t *tokens) register(ctx context.Context) error {
	agent := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: t.node, Labels: Labels(t.node)}}
	err := t.berth.Post().Resource("nodeagents").Body(agent).Do(ctx).Error()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("register NodeAgent %s: %w", t.node, err)
	}
	return nil
}
