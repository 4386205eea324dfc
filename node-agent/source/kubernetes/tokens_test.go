// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/source"
)

var _ lifecycle.Tokens = (*Kubernetes)(nil)

// tokenVolume returns a volume with a token for somebody else than the API server.
func tokenVolume() (v1alpha1.Volume, *corev1.ServiceAccountTokenProjection) {
	p := &corev1.ServiceAccountTokenProjection{
		Path: "token", Audience: "vault", ExpirationSeconds: new(int64(600)),
	}
	return v1alpha1.Volume{Name: "t", Projected: &v1alpha1.ProjectedVolumeSource{
		Sources: []v1alpha1.VolumeProjection{{ServiceAccountToken: p}},
	}}, p
}

// robot creates a ServiceAccount, and lets a user request its tokens.
func robot(t *testing.T, c client.Client, user string) *rbacv1.RoleBinding {
	t.Helper()
	meta := metav1.ObjectMeta{Namespace: "default", Name: "robot"}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
	}
	for _, o := range []client.Object{
		&corev1.ServiceAccount{ObjectMeta: meta},
		&rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"},
			ResourceNames: []string{"robot"}, Verbs: []string{"create"},
		}}}, binding,
	} {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Delete(context.Background(), o) })
	}
	return binding
}

// TestTokens: the agent gets a token of the ServiceAccount that a bundle names, for its audience and
// as long as it asks for, bound to the Node if there is one, and renews it in time. Until it may,
// and once a token that it cannot renew has expired, there is none.
func TestTokens(t *testing.T) {
	begin(t)
	const node, user = "node-tokens", "requester-of-tokens"
	ctx, root := t.Context(), clientOf(t, server)
	volume, projection := tokenVolume()
	b := newBundle("robots", node)
	b.Finalizers, b.Spec.ServiceAccountName = nil, "robot"
	b.Spec.Volumes = []v1alpha1.Volume{volume}
	createBundle(t, admin(t), b)
	bind(t, user, node)
	k, err := New(Options{Config: as(user), NodeName: node})
	if err != nil {
		t.Fatal(err)
	}
	clock := clocktesting.NewFakeClock(time.Now())
	k.tokens.clock = clock
	changes := &changes{of: map[string]int{}}
	run(t, k, changes)
	token := func() (string, error) { return k.Token("default", "robot", projection) }
	// stepUntil lets time pass until the token is as it should be, but none while the API server is
	// asked: a slow answer would find a token that has expired.
	stepUntil := func(what string, step time.Duration, ok func(string, error) bool) (value string) {
		t.Helper()
		until(t, what, func() bool {
			var err error
			value, err = token()
			if ok(value, err) {
				return true
			}
			if clock.HasWaiters() {
				clock.Step(step)
			}
			return false
		})
		return value
	}
	stepUntil("that it may not", time.Second, func(_ string, err error) bool {
		return err != nil && strings.Contains(err.Error(), "berth-controller has not allowed that yet") &&
			strings.Contains(err.Error(), "forbidden")
	})
	if changes.copy()["robots"] == 0 {
		t.Error("the bundle was not woken to say so")
	}
	binding := robot(t, root, user)
	// review returns what the API server says of a token.
	review := func(value string, audiences ...string) authenticationv1.TokenReviewStatus {
		t.Helper()
		r := &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: value, Audiences: audiences},
		}
		if err := root.Create(ctx, r); err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	const nodeKey = "authentication.kubernetes.io/node-name"
	good := func(_ string, err error) bool { return err == nil }
	first := stepUntil("the first token", time.Second, good)
	r := review(first, "vault")
	if !r.Authenticated || r.User.Username != "system:serviceaccount:default:robot" {
		t.Errorf("found %+v; want the ServiceAccount", r)
	}
	if len(r.User.Extra[nodeKey]) > 0 {
		t.Errorf("found %v; want no Node, since there is none", r.User.Extra)
	}
	if r := review(first); r.Authenticated {
		t.Errorf("found %+v; want that the API server is not the audience", r)
	}
	if _, err := k.Token("default", "other", projection); err == nil {
		t.Error("found a token of another ServiceAccount")
	}

	machine := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if err := root.Create(ctx, machine); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Delete(context.Background(), machine) })
	until(t, "the time of the renewal", clock.HasWaiters)
	clock.Step(420 * time.Second) // less than four fifths, and a tenth of that
	if again, err := token(); again != first || err != nil {
		t.Errorf("found another token, or %v, after 7 minutes; want the first", err)
	}
	woken := changes.copy()["robots"]
	clock.Step(61 * time.Second)
	second := stepUntil("the second token", 0, func(value string, err error) bool {
		return err == nil && value != first
	})
	until(t, "that the bundle is woken", func() bool { return changes.copy()["robots"] > woken })
	r = review(second, "vault")
	if !r.Authenticated || len(r.User.Extra[nodeKey]) != 1 || r.User.Extra[nodeKey][0] != node {
		t.Errorf("found %+v; want that it is bound to the Node", r)
	}

	// What is not renewed is kept for as long as it is valid.
	if err := root.Delete(ctx, binding); err != nil {
		t.Fatal(err)
	}
	until(t, "that it may no longer", func() bool {
		other := clientOf(t, as(user))
		return other.SubResource("token").Create(ctx, &corev1.ServiceAccount{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"},
		}, &authenticationv1.TokenRequest{}) != nil
	})
	until(t, "the time of the next renewal", clock.HasWaiters)
	clock.Step(550 * time.Second)
	if value, err := token(); value != second || err != nil {
		t.Errorf("found %q, %v; want the last one", value, err)
	}
	stepUntil("that it has expired", 10*time.Second, func(_ string, err error) bool {
		return err != nil && strings.Contains(err.Error(), "forbidden")
	})
	if err := admin(t).Delete(ctx, b); err != nil {
		t.Fatal(err)
	}
	until(t, "that nobody asks for it", func() bool {
		k.tokens.mu.Lock()
		defer k.tokens.mu.Unlock()
		return len(k.tokens.held)+len(k.tokens.named) == 0
	})
}

// TestTokenWhileTheAPIServerIsAway: a token is not there while the API server does not answer, and
// is once it does.
func TestTokenWhileTheAPIServerIsAway(t *testing.T) {
	begin(t)
	var answers bool
	peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answers || !strings.HasSuffix(r.URL.Path, "/serviceaccounts/robot/token") {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest",` +
			`"status":{"token":"secret-value","expirationTimestamp":"2100-01-01T00:00:00Z"}}`))
	}))
	defer peer.Close()
	tokens, err := newTokens(&rest.Config{
		Host: peer.URL, Transport: &http.Transport{DisableKeepAlives: true},
	}, "n", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, projection := tokenVolume()
	key := keyOfToken("default", "robot", projection)
	if _, _, err := tokens.request(t.Context(), key); err == nil ||
		!strings.Contains(err.Error(), "token of ServiceAccount robot in default: ") {
		t.Errorf("found %v; want an error with the name", err)
	}
	answers = true
	value, life, err := tokens.request(t.Context(), key)
	if err != nil || value != "secret-value" || life != 600*time.Second {
		t.Errorf("found %q for %s, %v; want one that lives no longer than it was asked for", value, life, err)
	}
}

// suspended is a clock whose timers do not count a time that has gone by, as of a machine that was
// suspended.
type suspended struct {
	*clocktesting.FakeClock
	slept atomic.Int64
}

func (s *suspended) Now() time.Time { return s.FakeClock.Now().Add(time.Duration(s.slept.Load())) }

// TestTokenAfterASuspension: a token that has expired while the machine was suspended is not given
// to a container, and renewed within a minute.
func TestTokenAfterASuspension(t *testing.T) {
	begin(t)
	var issued atomic.Int64
	peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest",`+
			`"status":{"token":"token-%d"}}`, issued.Add(1))
	}))
	defer peer.Close()
	tokens, err := newTokens(&rest.Config{
		Host: peer.URL, Transport: &http.Transport{DisableKeepAlives: true},
	}, "n", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	clock := &suspended{FakeClock: clocktesting.NewFakeClock(time.Now())}
	tokens.clock = clock
	volume, projection := tokenVolume()
	b := newBundle("robots", "n")
	b.Spec.ServiceAccountName, b.Spec.Volumes = "robot", []v1alpha1.Volume{volume}
	ctx, cancel := context.WithCancel(t.Context())
	defer tokens.wg.Wait()
	defer cancel()
	tokens.follow(ctx, b, func(source.Key) {})
	k := &Kubernetes{tokens: tokens}
	token := func() string {
		value, _ := k.Token(b.Owner().Namespace, "robot", projection)
		return value
	}
	until(t, "the first token", func() bool { return token() == "token-1" && clock.HasWaiters() })
	clock.slept.Store(int64(time.Hour))
	if value := token(); value != "" {
		t.Errorf("found %s; want none, since it has expired", value)
	}
	clock.Step(time.Minute)
	until(t, "the second token", func() bool { return token() == "token-2" })
}

// TestRenewal: a token is renewed before it expires, at the latest after a day, and tokens of one
// moment are not all renewed at another.
func TestRenewal(t *testing.T) {
	begin(t)
	seen := map[time.Duration]bool{}
	for range 100 {
		at := renewal(time.Hour)
		if at > 48*time.Minute || at < 43*time.Minute {
			t.Errorf("found %s for an hour", at)
		}
		seen[at] = true
		if at := renewal(1000 * time.Hour); at > 24*time.Hour || at < 21*time.Hour {
			t.Errorf("found %s for weeks", at)
		}
	}
	if len(seen) < 10 {
		t.Errorf("found %d times; want many", len(seen))
	}
	if renewal(0) != 0 {
		t.Error("found a time for a token without life")
	}
}
