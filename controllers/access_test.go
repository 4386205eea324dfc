// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
)

// reads has a Container use ConfigMaps and Secrets as volumes.
func reads(configMaps, secrets []string) func(*v1alpha1.Container) {
	return func(c *v1alpha1.Container) {
		c.Spec.Volumes, c.Spec.VolumeMounts = nil, nil
		add := func(v v1alpha1.Volume) {
			c.Spec.Volumes = append(c.Spec.Volumes, v)
			c.Spec.VolumeMounts = append(c.Spec.VolumeMounts, corev1.VolumeMount{
				Name: v.Name, MountPath: "/" + v.Name,
			})
		}
		for _, name := range configMaps {
			add(v1alpha1.Volume{Name: "c-" + name, ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: name},
			}})
		}
		for _, name := range secrets {
			add(v1alpha1.Volume{Name: "s-" + name, Secret: &corev1.SecretVolumeSource{
				SecretName: name,
			}})
		}
	}
}

func on(node string) func(*v1alpha1.Container) {
	return func(c *v1alpha1.Container) { c.Spec.NodeName = node }
}

// granted reports how the Role and the RoleBinding of a node in a namespace differ from those that
// let its agent read these objects: "configmaps/NAME" and "secrets/NAME", sorted.
func granted(ctx context.Context, namespace, node string, want ...string) error {
	key := client.ObjectKey{Namespace: namespace, Name: v1alpha1.NodeNamespace(node)}
	role, binding := &rbacv1.Role{}, &rbacv1.RoleBinding{}
	errRole, errBinding := admin.Get(ctx, key, role), admin.Get(ctx, key, binding)
	if len(want) == 0 {
		if apierrors.IsNotFound(errRole) && apierrors.IsNotFound(errBinding) {
			return nil
		}
		return fmt.Errorf("there is a Role (%v) or a RoleBinding (%v)", errRole, errBinding)
	}
	if err := errors.Join(errRole, errBinding); err != nil {
		return err
	}
	var have []string
	for _, rule := range role.Rules {
		if !slices.Equal(rule.Verbs, []string{"get", "list", "watch"}) ||
			!slices.Equal(rule.APIGroups, []string{""}) || len(rule.Resources) != 1 ||
			!slices.IsSorted(rule.ResourceNames) {
			return fmt.Errorf("the Role has the rule %+v", rule)
		}
		for _, name := range rule.ResourceNames {
			have = append(have, rule.Resources[0]+"/"+name)
		}
	}
	if !slices.Equal(have, want) {
		return fmt.Errorf("the Role allows %v; want %v", have, want)
	}
	agents := []rbacv1.Subject{
		{Kind: "ServiceAccount", Namespace: "berth-nodes", Name: node},
		{Kind: "User", APIGroup: rbacv1.GroupName, Name: "berth:node:" + node},
	}
	if !slices.Equal(binding.Subjects, agents) || binding.RoleRef != (rbacv1.RoleRef{
		APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name,
	}) {
		return fmt.Errorf("the RoleBinding gives %+v to %+v", binding.RoleRef, binding.Subjects)
	}
	for _, o := range []client.Object{role, binding} {
		if _, label := o.GetLabels()[v1alpha1.LabelNode]; !label ||
			o.GetAnnotations()[v1alpha1.AnnotationNode] != node {
			return fmt.Errorf("%T has the labels %v and the annotations %v", o, o.GetLabels(),
				o.GetAnnotations())
		}
	}
	return nil
}

func eventuallyGranted(t *testing.T, namespace, node string, want ...string) {
	t.Helper()
	eventually(t, func() error { return granted(t.Context(), namespace, node, want...) })
}

// TestAccessFollowsTheBundles: an agent may read what the OCIBundles of its node name now, also
// those that are being deleted, since their containers may run.
func TestAccessFollowsTheBundles(t *testing.T) {
	hold := make(chan struct{})
	newFakeAgent(t, "node-a", func(a *fakeAgent) { a.hold = hold })
	newFakeAgent(t, "node-b.example.com")
	ns := namespace(t)
	one := sample(ns, "one", reads([]string{"settings"}, []string{"password"}), on("node-a"))
	create(t, one)
	eventuallyGranted(t, ns, "node-a", "configmaps/settings", "secrets/password")
	if err := granted(t.Context(), ns, "node-b.example.com"); err != nil {
		t.Errorf("another node: %v", err)
	}

	two := sample(ns, "two", reads(nil, []string{"key", "password"}), on("node-a"))
	create(t, two)
	eventuallyGranted(t, ns, "node-a", "configmaps/settings", "secrets/key", "secrets/password")

	// Another namespace, and another node.
	other := namespace(t)
	create(t, sample(other, "one", reads(nil, []string{"theirs"}), on("node-a")))
	create(t, sample(ns, "three", reads([]string{"elsewhere"}, nil), on("node-b.example.com")))
	eventuallyGranted(t, other, "node-a", "secrets/theirs")
	eventuallyGranted(t, ns, "node-b.example.com", "configmaps/elsewhere")
	eventuallyGranted(t, ns, "node-a", "configmaps/settings", "secrets/key", "secrets/password")

	edit(t, two, reads(nil, []string{"password"}))
	eventuallyGranted(t, ns, "node-a", "configmaps/settings", "secrets/password")

	for _, c := range []*v1alpha1.Container{one, two} {
		if err := admin.Delete(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		for _, c := range []*v1alpha1.Container{one, two} {
			if b, err := readBundle(t, c); err != nil || b.DeletionTimestamp == nil {
				return fmt.Errorf("OCIBundle %s is not being deleted (%w)", c.Name, err)
			}
		}
		return nil
	})
	// The controller has seen that by the time at which it grants what comes later.
	create(t, sample(ns, "four", reads(nil, []string{"late"}), on("node-a")))
	eventuallyGranted(t, ns, "node-a", "configmaps/settings", "secrets/late", "secrets/password")

	close(hold)
	eventuallyGranted(t, ns, "node-a", "secrets/late")
	for _, name := range []string{"three", "four"} {
		if err := admin.Delete(t.Context(), sample(ns, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventuallyGranted(t, ns, "node-a")
	eventuallyGranted(t, ns, "node-b.example.com")
}

// TestAccessIsWrittenOnce: Containers that share a Secret cost one Role, and a report of an agent
// writes none.
func TestAccessIsWrittenOnce(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	for i := range 20 {
		create(t, sample(ns, fmt.Sprintf("c%d", i), reads(nil, []string{"shared"}), on("node-a")))
	}
	for i := range 20 {
		eventuallyHas(t, sample(ns, fmt.Sprintf("c%d", i)), isReady)
	}
	eventuallyGranted(t, ns, "node-a", "secrets/shared")
	count := writes(t, ns)
	if count["patch roles"] != 1 || count["patch rolebindings"] != 1 {
		t.Errorf("found %v; want one patch of roles and of rolebindings", count)
	}
}

// TestAccessIsPutBack: whatever somebody does to the Role and the RoleBinding, the agent can read
// the same objects afterwards, and no others.
func TestAccessIsPutBack(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	create(t, sample(ns, "c", reads(nil, []string{"password"}), on("node-a")))
	eventuallyGranted(t, ns, "node-a", "secrets/password")
	meta := metav1.ObjectMeta{Namespace: ns, Name: v1alpha1.NodeNamespace("node-a")}
	role := func(change func(*rbacv1.Role)) func(*testing.T) {
		return func(t *testing.T) { edit(t, &rbacv1.Role{ObjectMeta: meta}, change) }
	}
	binding := func(change func(*rbacv1.RoleBinding)) func(*testing.T) {
		return func(t *testing.T) { edit(t, &rbacv1.RoleBinding{ObjectMeta: meta}, change) }
	}
	remove := func(o client.Object) func(*testing.T) {
		return func(t *testing.T) {
			if err := admin.Delete(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, do := range map[string]func(*testing.T){
		"names": role(func(r *rbacv1.Role) {
			r.Rules[0].ResourceNames = append(r.Rules[0].ResourceNames, "other")
		}),
		"no names": role(func(r *rbacv1.Role) { r.Rules[0].ResourceNames = nil }),
		"verbs":    role(func(r *rbacv1.Role) { r.Rules[0].Verbs = []string{"*"} }),
		"another rule": role(func(r *rbacv1.Role) {
			r.Rules = append(r.Rules, rbacv1.PolicyRule{
				APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"},
			})
		}),
		"no rules":                 role(func(r *rbacv1.Role) { r.Rules = nil }),
		"label of the Role":        role(func(r *rbacv1.Role) { r.Labels = nil }),
		"annotation of the Role":   role(func(r *rbacv1.Role) { r.Annotations = nil }),
		"no Role":                  remove(&rbacv1.Role{ObjectMeta: meta}),
		"label of the RoleBinding": binding(func(b *rbacv1.RoleBinding) { b.Labels = nil }),
		"annotation of the RoleBinding": binding(func(b *rbacv1.RoleBinding) {
			b.Annotations[v1alpha1.AnnotationNode] = "node-b"
		}),
		"another's": binding(func(b *rbacv1.RoleBinding) { b.Subjects[0].Name = "node-b" }),
		"one more": binding(func(b *rbacv1.RoleBinding) {
			b.Subjects = append(b.Subjects, rbacv1.Subject{
				APIGroup: rbacv1.GroupName, Kind: "Group", Name: "system:authenticated",
			})
		}),
		"nobody":         binding(func(b *rbacv1.RoleBinding) { b.Subjects = nil }),
		"no RoleBinding": remove(&rbacv1.RoleBinding{ObjectMeta: meta}),
		"of another Role": func(t *testing.T) {
			wrong := &rbacv1.RoleBinding{}
			if err := admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: meta.Name},
				wrong); err != nil {
				t.Fatal(err)
			}
			remove(wrong.DeepCopy())(t)
			wrong.ResourceVersion, wrong.UID = "", ""
			wrong.RoleRef = rbacv1.RoleRef{
				APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin",
			}
			// The controller may be faster. Then there is nothing to correct.
			if err := admin.Create(t.Context(), wrong); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			do(t)
			eventuallyGranted(t, ns, "node-a", "secrets/password")
		})
	}
}

// TestAccessNobodyNeedsIsTakenBack: a Role and a RoleBinding that no OCIBundle needs are deleted.
// A controller that ended before it could delete them has left such ones.
func TestAccessNobodyNeedsIsTakenBack(t *testing.T) {
	ns := namespace(t)
	meta := metav1.ObjectMeta{
		Namespace: ns, Name: v1alpha1.NodeNamespace("node-gone"),
		Labels:      map[string]string{v1alpha1.LabelNode: ""},
		Annotations: map[string]string{v1alpha1.AnnotationNode: "node-gone"},
	}
	create(t, &rbacv1.Role{ObjectMeta: meta})
	create(t, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{
		APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name,
	}})
	eventuallyGranted(t, ns, "node-gone")
}

// TestForeignRoleIsLeftAlone: an object of somebody else that has the name of ours is not changed,
// and an event says so.
func TestForeignRoleIsLeftAlone(t *testing.T) {
	newFakeAgent(t, "node-a")
	for name, foreign := range map[string]func(metav1.ObjectMeta) client.Object{
		"Role": func(m metav1.ObjectMeta) client.Object {
			return &rbacv1.Role{ObjectMeta: m, Rules: []rbacv1.PolicyRule{{
				APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"},
			}}}
		},
		"RoleBinding": func(m metav1.ObjectMeta) client.Object {
			return &rbacv1.RoleBinding{ObjectMeta: m, RoleRef: rbacv1.RoleRef{
				APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view",
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t)
			theirs := foreign(metav1.ObjectMeta{Namespace: ns, Name: v1alpha1.NodeNamespace("node-a")})
			create(t, theirs)
			version := theirs.GetResourceVersion()
			create(t, sample(ns, "c", reads(nil, []string{"password"}), on("node-a")))
			eventuallyEvent(t, theirs, "NotCreatedByBerth")
			if err := admin.Get(t.Context(), client.ObjectKeyFromObject(theirs), theirs); err != nil ||
				theirs.GetResourceVersion() != version {
				t.Errorf("it was changed (%v): %+v", err, theirs)
			}
			if err := admin.Delete(t.Context(), theirs); err != nil {
				t.Fatal(err)
			}
			eventuallyGranted(t, ns, "node-a", "secrets/password")
		})
	}
}

// TestNoAccessInATerminatingNamespace: the controller does not repeat writes that the API server
// refuses until the namespace is gone.
func TestNoAccessInATerminatingNamespace(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	create(t, sample(ns, "c", reads(nil, []string{"password"}), on("node-a")))
	eventuallyGranted(t, ns, "node-a", "secrets/password")
	if err := admin.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: ns,
	}}); err != nil {
		t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Namespace: ns, Name: v1alpha1.NodeNamespace("node-a")}
	for _, o := range []client.Object{
		&rbacv1.RoleBinding{ObjectMeta: meta},
		&rbacv1.Role{ObjectMeta: meta},
	} {
		if err := admin.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	refused := func() int {
		return len(auditOf(t, func(e auditEvent) bool {
			return e.ObjectRef.Namespace == ns && strings.HasPrefix(e.ObjectRef.Resource, "role") &&
				e.User.Username == "berth-controller" && e.Response.Code == 403
		}))
	}
	eventually(t, func() error {
		if refused() == 0 {
			return errors.New("the API server has refused no write of a Role or RoleBinding yet")
		}
		return nil
	})
	// A retry after milliseconds would come before all this.
	other := namespace(t)
	for i := range 5 {
		c := sample(other, fmt.Sprintf("c%d", i), reads(nil, []string{"password"}), on("node-a"))
		create(t, c)
		eventuallyHas(t, c, isReady)
	}
	if n := refused(); n > 4 { // one for each event
		t.Errorf("it has tried %d times", n)
	}
}

// TestControllerReadsNoSecret: the controller may read ConfigMaps and Secrets, since it could not
// grant that otherwise. It reads none, and its cache cannot.
func TestControllerReadsNoSecret(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	meta := metav1.ObjectMeta{Namespace: ns, Name: "named"}
	create(t, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"k": "v"}})
	create(t, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}})
	c := sample(ns, "c", reads([]string{"named"}, []string{"named"}), on("node-a"))
	create(t, c)
	eventuallyHas(t, c, isReady)
	eventuallyGranted(t, ns, "node-a", "configmaps/named", "secrets/named")

	// The audit log has the reads of all users, also of the controller.
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(c), &corev1.Secret{
		ObjectMeta: meta,
	}); !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	isRead := func(e auditEvent) bool {
		return slices.Contains([]string{"get", "list", "watch"}, e.Verb) &&
			slices.Contains([]string{"secrets", "configmaps"}, e.ObjectRef.Resource)
	}
	eventually(t, func() error {
		if len(auditOf(t, isRead)) == 0 {
			return errors.New("the audit log has no reads")
		}
		return nil
	})
	for _, e := range auditOf(t, isRead) {
		own := e.ObjectRef.Namespace == "berth-system" &&
			e.ObjectRef.Name == "berth-controller-webhook" && e.Verb == "get"
		if e.User.Username == "berth-controller" && !own {
			t.Errorf("the controller reads: %+v", e)
		}
	}

	for _, o := range []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}} {
		err := cached.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "named"}, o)
		var notCached *cache.ErrResourceNotCached
		if !errors.As(err, &notCached) {
			t.Errorf("%T by the cache: found %v; want that it is not cached", o, err)
		}
	}
	for _, list := range []client.ObjectList{&corev1.SecretList{}, &corev1.ConfigMapList{}} {
		err := cached.List(t.Context(), list)
		var notCached *cache.ErrResourceNotCached
		if !errors.As(err, &notCached) {
			t.Errorf("%T by the cache: found %v; want that it is not cached", list, err)
		}
	}
}

// auditEvent is a request that the API server has served.
type auditEvent struct {
	Verb      string
	User      struct{ Username string }
	ObjectRef struct{ Resource, Subresource, Namespace, Name string }
	Response  struct{ Code int } `json:"responseStatus"`
}

// auditOf returns the requests in the audit log for which keep returns true.
func auditOf(t *testing.T, keep func(auditEvent) bool) []auditEvent {
	t.Helper()
	log, err := os.Open(auditLog)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var out []auditEvent
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return out // the last line may be incomplete
		}
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		if keep(e) {
			out = append(out, e)
		}
	}
}
