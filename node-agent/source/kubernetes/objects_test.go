// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/source"
)

var _ lifecycle.Objects = (*Kubernetes)(nil)

// reader is a user who may read one ConfigMap and one Secret of the namespace default, once allow
// is called, and nothing else there.
const reader = "reader-of-two-objects"

// allow lets reader read.
func allow(t *testing.T) {
	t.Helper()
	rule := func(resource, name string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{
			APIGroups: []string{""}, Resources: []string{resource}, ResourceNames: []string{name},
			Verbs: []string{"get", "list", "watch"},
		}
	}
	c, meta := clientOf(t, server), metav1.ObjectMeta{Namespace: "default", Name: reader}
	role := &rbacv1.Role{
		ObjectMeta: meta,
		Rules:      []rbacv1.PolicyRule{rule("configmaps", "settings"), rule("secrets", "keys")},
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: reader},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: reader}},
	}
	if err := c.Create(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Delete(context.Background(), binding)
		_ = c.Delete(context.Background(), role)
	})
}

// watches counts the requests that watch ConfigMaps and Secrets, by their field selector.
type watches struct {
	next http.RoundTripper
	mu   *sync.Mutex
	of   map[string]int
}

func (w watches) RoundTrip(r *http.Request) (*http.Response, error) {
	query := r.URL.Query()
	if query.Get("watch") != "" && !strings.Contains(r.URL.Path, "ocibundles") {
		w.mu.Lock()
		w.of[query.Get("fieldSelector")]++
		w.mu.Unlock()
	}
	return w.next.RoundTrip(r)
}

// TestObjects: the agent watches each ConfigMap and Secret that its bundles name alone and once,
// says why it cannot read them yet, and reports each change to the bundles that refer to it.
func TestObjects(t *testing.T) {
	begin(t)
	ctx, c := t.Context(), admin(t)
	keysRef := corev1.LocalObjectReference{Name: "keys"}
	first, second := newBundle("first", "node-9"), newBundle("second", "node-9")
	for _, b := range []*v1alpha1.OCIBundle{first, second} {
		b.Finalizers = nil
		b.Spec.Volumes = []v1alpha1.Volume{
			{Name: "v", Secret: &corev1.SecretVolumeSource{SecretName: "keys"}},
		}
		b.Spec.Process.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: keysRef, Key: "k"},
		}}}
		createBundle(t, c, b)
	}
	third := newBundle("third", "node-9")
	third.Finalizers = nil
	third.Spec.Process.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "settings"},
	}}}
	createBundle(t, c, third)

	config := as(reader)
	bind(t, reader, "node-9")
	seen := watches{mu: &sync.Mutex{}, of: map[string]int{}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		seen.next = next
		return seen
	})
	k, err := New(Options{Config: config, NodeName: "node-9"})
	if err != nil {
		t.Fatal(err)
	}
	changes := &changes{of: map[string]int{}}
	run(t, k, changes)

	keys := environment.Object{Kind: environment.KindSecret, Name: "keys"}
	settings := environment.Object{Kind: environment.KindConfigMap, Name: "settings"}
	until(t, "that it may not read them", func() bool {
		err := k.Unread("default", []environment.Object{settings, keys})
		return err != nil && strings.Contains(err.Error(), "ConfigMap default/settings is not read yet") &&
			strings.Contains(err.Error(), "forbidden")
	})
	allow(t)
	until(t, "that there are none", func() bool {
		return k.Unread("default", []environment.Object{settings, keys}) == nil
	})
	if _, found := k.Data("default", keys); found {
		t.Error("found a Secret that does not exist")
	}

	// The three forms of a change.
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "keys"},
		Data:       map[string][]byte{"k": []byte("one")},
	}
	configMap := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"},
		Data:       map[string]string{"text": "t"}, BinaryData: map[string][]byte{"raw": {0, 255}},
	}
	if err := c.Create(ctx, configMap); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(context.Background(), configMap) })
	until(t, "the ConfigMap", func() bool {
		files, _ := k.Files("default", settings)
		data, _ := k.Data("default", settings)
		return maps.Equal(files, map[string]string{"text": "t", "raw": "\x00\xff"}) &&
			maps.Equal(data, map[string]string{"text": "t"})
	})
	for _, step := range []struct {
		what string
		do   func() error
		want map[string]string
	}{
		{"created", func() error { return c.Create(ctx, secret) }, map[string]string{"k": "one"}},
		{"updated", func() error {
			secret.Data["k"] = []byte("two")
			return c.Update(ctx, secret)
		}, map[string]string{"k": "two"}},
		{"deleted", func() error { return c.Delete(ctx, secret) }, nil},
	} {
		before := changes.copy()
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		until(t, "the Secret is "+step.what, func() bool {
			data, found := k.Data("default", keys)
			return maps.Equal(data, step.want) && found == (step.want != nil)
		})
		until(t, "that both bundles have changed", func() bool {
			now := changes.copy()
			return now["first"] > before["first"] && now["second"] > before["second"]
		})
		if now := changes.copy(); now["third"] != before["third"] {
			t.Errorf("%s: a bundle was woken that does not refer to the Secret", step.what)
		}
	}
	seen.mu.Lock()
	for selector := range seen.of {
		if selector != "metadata.name=keys" && selector != "metadata.name=settings" {
			t.Errorf("found a watch of %q", selector)
		}
	}
	seen.mu.Unlock()

	// One watch of a Secret, until nobody refers to it.
	if n := k.objects.watching(); n != 2 {
		t.Errorf("found watches of %d objects; want 2", n)
	}
	for i, b := range []*v1alpha1.OCIBundle{first, third, second} {
		if err := c.Delete(ctx, b); err != nil {
			t.Fatal(err)
		}
		want := []int{2, 1, 0}[i]
		until(t, "a watch less", func() bool {
			return k.Get(keyOf(b)) == nil && k.objects.watching() == want
		})
	}
	if err := k.Unread("default", []environment.Object{keys}); err == nil {
		t.Error("knows an object that it does not watch")
	}
}

// TestRevokedObject: an object that was read stays known when the agent may no longer read it, and
// the log says so once.
func TestRevokedObject(t *testing.T) {
	begin(t)
	var log strings.Builder
	key := objectKey{environment.KindSecret, "default", "keys"}
	o := &objects{
		log:     slog.New(slog.NewTextHandler(&log, nil)),
		watched: map[objectKey]*object{key: {}},
	}
	k, refs := &Kubernetes{objects: o}, []environment.Object{{Kind: key.kind, Name: key.name}}
	s := &objectStore{objects: o, key: key, into: o.watched[key]}
	forbidden := fmt.Errorf("failed to list: %w",
		apierrors.NewForbidden(corev1.Resource("secrets"), key.name, nil))

	s.fail(forbidden)
	if err := k.Unread(key.namespace, refs); err == nil || !strings.Contains(err.Error(),
		"Secret default/keys is not read yet: berth-controller has not allowed that yet: ") {
		t.Errorf("found %v", err)
	}
	for want := range 3 {
		if n := strings.Count(log.String(), "Secret default/keys"); n != want {
			t.Errorf("found %d messages; want %d: %s", n, want, log.String())
		}
		s.set(map[string]string{"k": "v"}, nil)
		s.fail(errors.New("connection refused"))
		s.fail(forbidden)
		s.fail(forbidden)
		data, _ := k.Data(key.namespace, refs[0])
		if err := k.Unread(key.namespace, refs); err != nil || data["k"] != "v" {
			t.Errorf("found %v, %v; want what was read", data, err)
		}
	}
}

// bind gives a user the rights of the agent of a node in the node's namespace.
func bind(t *testing.T, user, node string) {
	t.Helper()
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.NodeNamespace(node), Name: user},
		RoleRef: rbacv1.RoleRef{
			APIGroup: rbacv1.GroupName, Kind: "Role", Name: user,
		},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
	}
	role := &rbacv1.Role{ObjectMeta: binding.ObjectMeta, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"ocibundles"},
		Verbs: []string{"get", "list", "watch"},
	}}}
	c := clientOf(t, server)
	if err := c.Create(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
}

// changes counts the changes of each bundle by its Container's name.
type changes struct {
	mu sync.Mutex
	of map[string]int
}

func (c *changes) Changed(key source.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[key.Name]++
}

func (c *changes) Synced() {}

func (c *changes) copy() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.of)
}

// run runs a source until the test ends.
func run(t *testing.T, k *Kubernetes, events source.Events) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx, events) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// watching returns the number of objects that are watched.
func (o *objects) watching() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.watched)
}

// TestImmutableObject: an immutable object is watched no more once it has been read, and stays known
// while an OCIBundle refers to it, also after its deletion.
func TestImmutableObject(t *testing.T) {
	begin(t)
	ctx, c := t.Context(), admin(t)
	b := newBundle("frozen", "node-9")
	b.Finalizers = nil
	b.Spec.Process.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "settings"},
	}}}
	configMap := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"},
		Data:       map[string]string{"k": "one"},
	}
	if err := c.Create(ctx, configMap); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(context.Background(), configMap) })
	createBundle(t, c, b)
	k, err := New(Options{Config: as("reader-of-all", "system:masters"), NodeName: "node-9"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, k, &changes{of: map[string]int{}})
	settings := environment.Object{Kind: environment.KindConfigMap, Name: "settings"}
	key := objectKey{settings.Kind, "default", settings.Name}
	watched := func() bool {
		k.objects.mu.Lock()
		defer k.objects.mu.Unlock()
		have := k.objects.watched[key]
		return have != nil && !have.ended
	}
	has := func(want string) func() bool {
		return func() bool {
			data, _ := k.Data("default", settings)
			return data["k"] == want
		}
	}
	until(t, "the ConfigMap", has("one"))
	configMap.Data["k"], configMap.Immutable = "two", new(true)
	if err := c.Update(ctx, configMap); err != nil {
		t.Fatal(err)
	}
	until(t, "the end of the watch", func() bool { return has("two")() && !watched() })
	if err := c.Delete(ctx, configMap); err != nil {
		t.Fatal(err)
	}
	if !has("two")() {
		t.Error("found that it is forgotten")
	}
	if err := c.Delete(ctx, b); err != nil {
		t.Fatal(err)
	}
	until(t, "that nobody refers to it", func() bool { return k.objects.watching() == 0 })
	if has("two")() {
		t.Error("found what nobody refers to")
	}
}
