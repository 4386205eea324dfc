// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/apiserver"
	"github.com/berth-run/berth/node-agent/source"
)

// tokens are the tokens of ServiceAccounts that volumes of the node's OCIBundles ask for.
// Containers that ask for the same have the same one. A token is in memory, and in the files of the
// volumes; an agent that starts asks for new ones.
type tokens struct {
	client rest.Interface
	node   string
	log    *slog.Logger
	clock  clock.Clock

	mu   sync.Mutex
	wg   sync.WaitGroup // of the goroutines that renew
	held map[tokenKey]*token
	// named are the tokens that each OCIBundle asks for.
	named map[source.Key][]tokenKey
}

// tokenKey is all that a request for a token says.
type tokenKey struct {
	namespace, account, audience string
	seconds                      int64
}

func keyOfToken(namespace, account string, p *corev1.ServiceAccountTokenProjection) tokenKey {
	seconds := int64(files.DefaultTokenSeconds)
	if p.ExpirationSeconds != nil {
		seconds = *p.ExpirationSeconds
	}
	return tokenKey{namespace, account, p.Audience, seconds}
}

// token is the last token that the API server has issued.
type token struct {
	stop  context.CancelFunc
	users map[source.Key]bool
	// value is empty until there is one. err is the error of the last attempt.
	value   string
	expires time.Time
	err     error
}

func newTokens(config *rest.Config, node string, log *slog.Logger) (*tokens, error) {
	scheme := runtime.NewScheme()
	if err := authenticationv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	c, err := apiserver.NewClient(config, corev1.SchemeGroupVersion, scheme)
	if err != nil {
		return nil, err
	}
	return &tokens{
		client: c, node: node, log: log, clock: clock.RealClock{}, held: map[tokenKey]*token{},
		named: map[source.Key][]tokenKey{},
	}, nil
}

// follow renews the tokens that an OCIBundle asks for now, and no longer those that it asked for
// before. changed is called with the OCIBundle's key when there is a new one, or a first one cannot
// be had. After the end of ctx nothing is renewed any more.
func (t *tokens) follow(ctx context.Context, b *v1alpha1.OCIBundle, changed func(source.Key)) {
	var now []tokenKey
	for _, p := range files.Tokens(b.Spec.Volumes) {
		k := keyOfToken(b.Owner().Namespace, b.Spec.ServiceAccountName, p)
		if !slices.Contains(now, k) {
			now = append(now, k)
		}
	}
	key := receivedKey(b)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range now {
		have := t.held[k]
		if have == nil {
			renewing, stop := context.WithCancel(ctx)
			have = &token{stop: stop, users: map[source.Key]bool{}}
			t.held[k] = have
			t.wg.Go(func() { t.renew(renewing, k, have, changed) })
		}
		have.users[key] = true
	}
	t.leave(key, now)
	if len(now) > 0 {
		t.named[key] = now
	}
}

// forget no longer renews what an OCIBundle that is gone asked for.
func (t *tokens) forget(key source.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leave(key, nil)
}

// leave drops the tokens that an OCIBundle asked for and does not now, unless others do. t.mu is
// held.
func (t *tokens) leave(key source.Key, now []tokenKey) {
	for _, k := range t.named[key] {
		have := t.held[k]
		if slices.Contains(now, k) || have == nil {
			continue
		}
		delete(have.users, key)
		if len(have.users) == 0 {
			have.stop()
			delete(t.held, k)
		}
	}
	delete(t.named, key)
}

// renew asks for a token, and for the next one before that expires, until ctx ends.
func (t *tokens) renew(ctx context.Context, key tokenKey, into *token, changed func(source.Key)) {
	pause := firstAttempt
	for ctx.Err() == nil {
		var next time.Duration
		asked := t.clock.Now() // by this node's own clock, which may differ from the API server's
		value, life, err := t.request(ctx, key)
		if err == nil {
			pause, next = firstAttempt, renewal(life)
		} else {
			next = wait.Jitter(pause, 0.5)
			pause = min(2*pause, lastAttempt)
		}
		if ctx.Err() != nil {
			return
		}
		t.note(key, into, value, asked.Add(life), err, changed)
		t.sleepUntil(ctx, t.clock.Now().Add(next))
	}
}

// sleepUntil waits for a time, or the end of ctx. A timer stands still while the machine is
// suspended, and the API server's time goes on, so it looks at the clock each minute.
func (t *tokens) sleepUntil(ctx context.Context, at time.Time) {
	for now := t.clock.Now(); ctx.Err() == nil && !passed(now, at); now = t.clock.Now() {
		select {
		case <-ctx.Done():
		case <-t.clock.After(min(at.Sub(now), time.Minute)):
		}
	}
}

// passed reports whether a time has passed by the monotonic clock, which nobody sets, or by the
// wall clock, which goes on while the machine is suspended.
func passed(now, at time.Time) bool {
	return !now.Before(at) || !now.Round(0).Before(at.Round(0))
}

// maxTokenAge is the time after which also a token that is valid for longer is renewed, as by the
// kubelet.
const maxTokenAge = 24 * time.Hour

// renewal returns the time after which a token is renewed: four fifths of its life, and up to a
// tenth of that earlier, so that tokens of one moment are renewed one by one.
func renewal(life time.Duration) time.Duration {
	at := min(life*4/5, maxTokenAge)
	return at - rand.N(max(at/10, 1)) //nolint:gosec // no secret
}

// request asks the API server for a token. It is bound to the Node of this name, and so of no more
// use when that is deleted, if there is one: a node of Berth needs no kubelet.
func (t *tokens) request(ctx context.Context, key tokenKey) (string, time.Duration, error) {
	r, err := t.create(ctx, key, &authenticationv1.BoundObjectReference{
		APIVersion: "v1", Kind: "Node", Name: t.node,
	})
	if noNode(err) {
		r, err = t.create(ctx, key, nil)
	}
	if err != nil {
		return "", 0, fmt.Errorf("token of ServiceAccount %s in %s: %w", key.account, key.namespace, err)
	}
	life := r.Status.ExpirationTimestamp.Sub(r.CreationTimestamp.Time)
	if most := time.Duration(key.seconds) * time.Second; r.CreationTimestamp.IsZero() || life <= 0 ||
		life > most {
		life = most
	}
	return r.Status.Token, life, nil
}

// noNode reports whether a token cannot be bound since there is no such Node, or since the API
// server, which is older than 1.31, binds none to a Node.
func noNode(err error) bool {
	status, ok := err.(apierrors.APIStatus) //nolint:errorlint // the client returns it as it is
	return apierrors.IsBadRequest(err) || ok && apierrors.IsNotFound(err) &&
		status.Status().Details != nil && status.Status().Details.Kind == "nodes"
}

func (t *tokens) create(ctx context.Context, key tokenKey,
	bound *authenticationv1.BoundObjectReference,
) (*authenticationv1.TokenRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: new(key.seconds), BoundObjectRef: bound,
	}}
	if key.audience != "" {
		r.Spec.Audiences = []string{key.audience}
	}
	return r, t.client.Post().Namespace(key.namespace).Resource("serviceaccounts").
		Name(key.account).SubResource("token").Body(r).Do(ctx).Into(r)
}

// note keeps a token, or why there is none, and reports the OCIBundles that ask for it. An earlier
// token stays.
func (t *tokens) note(key tokenKey, into *token, value string, expires time.Time, err error,
	changed func(source.Key),
) {
	t.mu.Lock()
	news := err == nil || into.value == "" && (into.err == nil || into.err.Error() != err.Error())
	failed := err != nil && into.err == nil && into.value != ""
	into.err = err
	if err == nil {
		into.value, into.expires = value, expires
	}
	users := slices.Collect(maps.Keys(into.users))
	t.mu.Unlock()
	if failed {
		t.log.Warn("a token is not renewed; containers keep the last one", "namespace", key.namespace,
			"serviceAccount", key.account, "error", err)
	}
	if news {
		for _, user := range users {
			changed(user)
		}
	}
}

// Token is part of lifecycle.Tokens.
func (k *Kubernetes) Token(namespace, account string, p *corev1.ServiceAccountTokenProjection) (
	string, error,
) {
	t, key := k.tokens, keyOfToken(namespace, account, p)
	t.mu.Lock()
	defer t.mu.Unlock()
	have := t.held[key]
	switch {
	case have == nil || have.value == "" && have.err == nil:
		return "", fmt.Errorf("token of ServiceAccount %s in %s: %w", account, namespace,
			source.ErrNotAsked)
	case have.value != "" && !passed(t.clock.Now(), have.expires):
		return have.value, nil
	case apierrors.IsForbidden(have.err):
		return "", fmt.Errorf("berth-controller has not allowed that yet: %w", have.err)
	}
	return "", cmp.Or(have.err, fmt.Errorf("the token of ServiceAccount %s has expired", account))
}
