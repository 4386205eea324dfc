// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
)

// The namespaces of Containers: both nodes have Containers in each of them. Those on a node name the
// Secret and the ConfigMap "on-" and the beginning of the node's name.
var tenants = []string{"default", "team"}

const (
	ofStolen  = "on-a"
	ofReached = "on-b"
	ofNobody  = "unnamed"
)

// TestAgentsReadNamedObjectsAlone tries to read ConfigMaps and Secrets, and to get rights on them,
// with each identity of an agent. It may read those that Containers on its node name; all else must
// fail.
func TestAgentsReadNamedObjectsAlone(t *testing.T) {
	a := newApart(t)
	a.tenants(t)
	identities := a.identities(t)
	for _, name := range slices.Sorted(maps.Keys(identities)) {
		t.Run(name, func(t *testing.T) {
			r := newReader(t, identities[name], a.admin)
			if name == "daemon set" {
				r.refused(t, r.named(ofStolen, tenants...))
			} else {
				r.reads(t)
				r.readsNoSecondName(t)
			}
			all := r.attempts(t)
			if len(all) < 60 {
				t.Errorf("there are %d attempts", len(all))
			}
			r.refused(t, all)
			t.Logf("%d attempts", len(all))
		})
	}
	t.Run("other node", func(t *testing.T) {
		r := newReader(t, a.certificate(t, "berth:node:"+reached, "berth:nodes"), a.admin)
		for what, try := range r.named(ofReached, tenants...) {
			eventually(t, func() error {
				if err := try(); err != nil {
					return fmt.Errorf("%s: %w", what, err)
				}
				return nil
			})
		}
		r.refused(t, r.named(ofStolen, tenants...))
	})
	t.Run("controller", func(t *testing.T) { a.controllerGrantsNothingElse(t) })
	t.Run("gone", func(t *testing.T) {
		r := newReader(t, identities["certificate"], a.admin)
		err := a.admin.Delete(t.Context(), &v1alpha1.Container{ObjectMeta: metav1.ObjectMeta{
			Namespace: "team", Name: ofStolen,
		}})
		if err != nil {
			t.Fatal(err)
		}
		bundle := &v1alpha1.OCIBundle{ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.NodeNamespace(stolen), Name: v1alpha1.BundleName("team", ofStolen),
		}}
		eventually(t, func() error {
			err := a.admin.Get(t.Context(), client.ObjectKeyFromObject(bundle), bundle)
			if err != nil || bundle.DeletionTimestamp == nil {
				return fmt.Errorf("the OCIBundle is not being deleted (%w)", err)
			}
			return nil
		})
		if err := r.c.Patch(t.Context(), bundle, client.RawPatch(types.MergePatchType,
			[]byte(`{"metadata":{"finalizers":null}}`))); err != nil {
			t.Fatal(err)
		}
		all := r.named(ofStolen, "team")
		maps.Copy(all, r.tokens(ofStolen, "team"))
		for what, try := range all {
			eventually(t, func() error {
				if err := try(); !apierrors.IsForbidden(err) {
					return fmt.Errorf("%s: found %w; want Forbidden", what, err)
				}
				return nil
			})
		}
		r.succeed(t, r.named(ofStolen, "default"))
		r.succeed(t, r.tokens(ofStolen, "default"))
	})
}

// TestAccessOfAnEndedControllerIsTakenBack: OCIBundles vanish while no controller runs. The next one
// finds what their node may still read.
func TestAccessOfAnEndedControllerIsTakenBack(t *testing.T) {
	a := newApart(t)
	a.tenants(t)
	a.controller.end(t)
	for namespace, o := range map[string]client.Object{
		"team": &v1alpha1.Container{},
		v1alpha1.NodeNamespace(stolen): &v1alpha1.OCIBundle{ObjectMeta: metav1.ObjectMeta{
			Name: v1alpha1.BundleName("team", ofStolen),
		}},
	} {
		o.SetNamespace(namespace)
		if o.GetName() == "" {
			o.SetName(ofStolen)
		}
		if err := errors.Join(a.admin.Patch(t.Context(), o, client.RawPatch(types.MergePatchType,
			[]byte(`{"metadata":{"finalizers":null}}`))), a.admin.Delete(t.Context(), o)); err != nil {
			t.Fatal(err)
		}
	}
	key := client.ObjectKey{Namespace: "team", Name: v1alpha1.NodeNamespace(stolen)}
	if err := a.admin.Get(t.Context(), key, &rbacv1.Role{}); err != nil {
		t.Fatalf("it is gone without a controller: %v", err)
	}
	run(t, a.kubeconfig)
	eventually(t, func() error {
		for _, o := range []client.Object{&rbacv1.Role{}, &rbacv1.RoleBinding{}} {
			if err := a.admin.Get(t.Context(), key, o); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T is there still (%w)", o, err)
			}
		}
		return nil
	})
	key.Namespace = "default"
	if err := a.admin.Get(t.Context(), key, &rbacv1.Role{}); err != nil {
		t.Errorf("of OCIBundles that are there: %v", err)
	}
}

// tenants creates objects and the Containers that name some of them.
func (a *apart) tenants(t *testing.T) {
	t.Helper()
	create := func(o client.Object) {
		if err := a.admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "team", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"},
	}})
	for _, namespace := range append(tenants, metav1.NamespaceSystem) {
		for _, name := range []string{ofStolen, ofReached, ofNobody} {
			meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
			create(&corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"k": "v"}})
			create(&corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}})
			create(&corev1.ServiceAccount{ObjectMeta: meta})
		}
	}
	for _, namespace := range tenants {
		for node, name := range map[string]string{stolen: ofStolen, reached: ofReached} {
			if namespace != "default" {
				create(&v1alpha1.Container{
					ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
					Spec:       v1alpha1.ContainerSpec{Image: "busybox:1", NodeName: node},
				})
			}
			c := &v1alpha1.Container{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
			eventually(t, func() error {
				if err := a.admin.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
					return err
				}
				c.Spec.Volumes = []v1alpha1.Volume{
					{Name: "s", Secret: &corev1.SecretVolumeSource{SecretName: name}},
					{Name: "c", ConfigMap: &corev1.ConfigMapVolumeSource{
						LocalObjectReference: corev1.LocalObjectReference{Name: name},
					}},
					{Name: "t", Projected: &v1alpha1.ProjectedVolumeSource{
						Sources: []v1alpha1.VolumeProjection{{
							ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"},
						}},
					}},
				}
				c.Spec.ServiceAccountName = name
				c.Spec.VolumeMounts = []corev1.VolumeMount{
					{Name: "s", MountPath: "/s"},
					{Name: "c", MountPath: "/c"},
					{Name: "t", MountPath: "/t"},
				}
				return a.admin.Update(t.Context(), c)
			})
			eventually(t, func() error {
				return a.admin.Get(t.Context(), client.ObjectKey{
					Namespace: namespace, Name: v1alpha1.NodeNamespace(node),
				}, &rbacv1.RoleBinding{})
			})
		}
	}
}

// reader reads and writes with the identity of an agent.
type reader struct {
	config *rest.Config
	c      client.WithWatch
	admin  client.Client
}

func newReader(t *testing.T, config *rest.Config, admin client.Client) *reader {
	t.Helper()
	c, err := client.NewWithWatch(config, client.Options{Scheme: admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return &reader{config, c, admin}
}

type requests map[string]func() error

func (r *reader) refused(t *testing.T, all requests) {
	t.Helper()
	for _, what := range slices.Sorted(maps.Keys(all)) {
		immutable := strings.HasSuffix(what, " of its own OCIBundle")
		if err := all[what](); !apierrors.IsForbidden(err) && (!immutable || !apierrors.IsInvalid(err)) {
			t.Errorf("%s: found %v; want Forbidden", what, err)
		}
	}
}

func (r *reader) succeed(t *testing.T, all requests) {
	t.Helper()
	for what, try := range all {
		if err := try(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// list lists objects of a kind by a field selector.
func (r *reader) list(to client.ObjectList, namespace, selector string) func() error {
	return func() error {
		return r.c.List(context.Background(), to.DeepCopyObject().(client.ObjectList),
			selected(namespace, selector))
	}
}

// watch watches objects of a kind by a field selector.
func (r *reader) watch(of client.ObjectList, namespace, selector string) func() error {
	return func() error {
		w, err := r.c.Watch(context.Background(), of.DeepCopyObject().(client.ObjectList),
			selected(namespace, selector))
		if err == nil {
			w.Stop()
		}
		return err
	}
}

func selected(namespace, selector string) *client.ListOptions {
	return &client.ListOptions{
		Namespace: namespace, Raw: &metav1.ListOptions{FieldSelector: selector},
	}
}

// named are the requests for the Secrets and ConfigMaps of a name, as an agent makes them.
func (r *reader) named(name string, namespaces ...string) requests {
	all := requests{}
	for _, namespace := range namespaces {
		for kind, lists := range map[string]client.ObjectList{
			"Secret": &corev1.SecretList{}, "ConfigMap": &corev1.ConfigMapList{},
		} {
			what := fmt.Sprintf("%s %s/%s", kind, namespace, name)
			all["get "+what] = func() error {
				var o client.Object = &corev1.Secret{}
				if kind == "ConfigMap" {
					o = &corev1.ConfigMap{}
				}
				return r.c.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, o)
			}
			all["list "+what] = r.list(lists, namespace, "metadata.name="+name)
			all["watch "+what] = r.watch(lists, namespace, "metadata.name="+name)
		}
	}
	return all
}

// token requests a token of a ServiceAccount.
func (r *reader) token(namespace, name string) func() error {
	return func() error {
		return r.c.SubResource("token").Create(context.Background(), &corev1.ServiceAccount{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		}, &authenticationv1.TokenRequest{})
	}
}

// tokens are requests for tokens of the ServiceAccount of a name.
func (r *reader) tokens(name string, namespaces ...string) requests {
	all := requests{}
	for _, namespace := range namespaces {
		all["token of "+namespace+"/"+name] = r.token(namespace, name)
	}
	return all
}

// reads reads the objects that Containers on the node name, and sees one change.
func (r *reader) reads(t *testing.T) {
	t.Helper()
	all := r.named(ofStolen, tenants...)
	maps.Copy(all, r.tokens(ofStolen, tenants...))
	for what, try := range all {
		// The API server learns of a RoleBinding by a watch of its own.
		eventually(t, func() error {
			if err := try(); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	w, err := r.c.Watch(ctx, &corev1.SecretList{}, selected("default", "metadata.name="+ofStolen))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	value := time.Now().String()
	for _, name := range []string{ofReached, ofNobody, ofStolen} {
		o := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		if err := r.admin.Patch(t.Context(), o, client.RawPatch(types.MergePatchType,
			fmt.Appendf(nil, `{"stringData":{"k":%q}}`, value))); err != nil {
			t.Fatal(err)
		}
	}
	for e := range w.ResultChan() {
		s, ok := e.Object.(*corev1.Secret)
		if !ok || s.Name != ofStolen {
			t.Fatalf("the watch shows %s %+v", e.Type, e.Object)
		}
		if e.Type == watch.Modified && string(s.Data["k"]) == value {
			return
		}
	}
	t.Error("the watch ended before the change")
}

// readsNoSecondName selects two names. The API server decides by one of them, which the agent may
// read, and no object has both.
func (r *reader) readsNoSecondName(t *testing.T) {
	t.Helper()
	both := selected("default", "metadata.name="+ofStolen+",metadata.name="+ofReached)
	list := &corev1.SecretList{}
	if err := r.c.List(t.Context(), list, both); err != nil || len(list.Items) > 0 {
		t.Errorf("list of two names: found %d, %v; want none", len(list.Items), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	seconds := int64(1)
	both.Raw.TimeoutSeconds = &seconds
	w, err := r.c.Watch(ctx, list, both)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		t.Errorf("a watch of two names shows %s %+v", e.Type, e.Object)
	}
}

// attempts are requests for what a Container on the node does not name, and for more rights.
func (r *reader) attempts(t *testing.T) requests {
	t.Helper()
	all := requests{}
	maps.Copy(all, r.named(ofReached, append(tenants, metav1.NamespaceSystem)...))
	maps.Copy(all, r.named(ofNobody, append(tenants, metav1.NamespaceSystem)...))
	maps.Copy(all, r.named(ofStolen, metav1.NamespaceSystem, "berth-system"))
	maps.Copy(all, r.tokens(ofReached, append(tenants, metav1.NamespaceSystem)...))
	maps.Copy(all, r.tokens(ofNobody, append(tenants, metav1.NamespaceSystem)...))
	maps.Copy(all, r.tokens(ofStolen, metav1.NamespaceSystem, "berth-system"))
	maps.Copy(all, r.tokens("default", tenants...))
	all["token of its own ServiceAccount with another name"] = r.token("default", ofStolen+"x")
	own := "metadata.name=" + ofStolen
	for kind, of := range map[string]client.ObjectList{
		"Secrets": &corev1.SecretList{}, "ConfigMaps": &corev1.ConfigMapList{},
	} {
		for what, where := range map[string][2]string{
			"without a selector":        {"default", ""},
			"of all names but one":      {"default", "metadata.name!=" + ofReached},
			"of all names but its own":  {"default", "metadata.name!=" + ofStolen},
			"by namespace":              {"default", "metadata.namespace=default"},
			"of its name everywhere":    {"", own},
			"everywhere":                {"", ""},
			"of kube-system":            {metav1.NamespaceSystem, ""},
			"of the other's name there": {v1alpha1.NodeNamespace(reached), own},
		} {
			all["list "+kind+" "+what] = r.list(of, where[0], where[1])
			all["watch "+kind+" "+what] = r.watch(of, where[0], where[1])
		}
	}
	maps.Copy(all, r.writes())
	maps.Copy(all, r.escalations(t))
	return all
}

// writes are writes of objects that the agent may read.
func (r *reader) writes() requests {
	ctx := context.Background()
	all := requests{}
	meta := metav1.ObjectMeta{Namespace: "default", Name: ofStolen}
	merge := func(body string) client.Patch { return client.RawPatch(types.MergePatchType, []byte(body)) }
	for kind, o := range map[string]client.Object{
		"Secret": &corev1.Secret{ObjectMeta: meta}, "ConfigMap": &corev1.ConfigMap{ObjectMeta: meta},
	} {
		fresh := func() client.Object { return o.DeepCopyObject().(client.Object) }
		all["patch the named "+kind] = func() error { return r.c.Patch(ctx, fresh(), merge(`{"data":null}`)) }
		all["update the named "+kind] = func() error { return r.c.Update(ctx, fresh()) }
		all["delete the named "+kind] = func() error { return r.c.Delete(ctx, fresh()) }
		all["create a "+kind] = func() error {
			o := fresh()
			o.SetName("made")
			return r.c.Create(ctx, o)
		}
		all["delete all of kind "+kind] = func() error {
			return r.c.DeleteAllOf(ctx, fresh(), client.InNamespace("default"))
		}
		all["delete all of the name of kind "+kind] = func() error {
			return r.c.DeleteAllOf(ctx, fresh(), client.InNamespace("default"),
				client.MatchingFields{"metadata.name": ofStolen})
		}
	}
	return all
}

// escalations are requests for more rights.
func (r *reader) escalations(t *testing.T) requests {
	t.Helper()
	ctx := context.Background()
	role := metav1.ObjectMeta{Namespace: "default", Name: v1alpha1.NodeNamespace(stolen)}
	other := metav1.ObjectMeta{Namespace: "default", Name: v1alpha1.NodeNamespace(reached)}
	bundle := metav1.ObjectMeta{
		Namespace: v1alpha1.NodeNamespace(stolen), Name: v1alpha1.BundleName("default", ofStolen),
	}
	container := metav1.ObjectMeta{Namespace: "default", Name: ofStolen}
	patch := func(o client.Object, body string) func() error {
		return func() error {
			return r.c.Patch(ctx, o.DeepCopyObject().(client.Object),
				client.RawPatch(types.MergePatchType, []byte(body)))
		}
	}
	create := func(o client.Object) func() error {
		return func() error { return r.c.Create(ctx, o.DeepCopyObject().(client.Object)) }
	}
	rules := `{"rules":[{"apiGroups":[""],"resources":["secrets"],"verbs":["*"]}]}`
	subject := []rbacv1.Subject{
		{Kind: "User", APIGroup: rbacv1.GroupName, Name: "berth:node:" + stolen},
	}
	env := `{"spec":{"process":{"envFrom":[{"secretRef":{"name":"` + ofReached + `"}}]}}}`
	made := &v1alpha1.OCIBundle{
		ObjectMeta: metav1.ObjectMeta{Namespace: bundle.Namespace, Name: "made"},
		Spec: v1alpha1.OCIBundleSpec{
			NodeName: stolen, RestartPolicy: corev1.RestartPolicyNever,
			ContainerRef: &v1alpha1.ContainerReference{Namespace: "default", Name: "made", UID: "1"},
		},
	}
	made.Spec.Config.Raw = []byte(`{}`)
	as := func(user string, groups ...string) func() error {
		return func() error {
			config := rest.CopyConfig(r.config)
			config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
			c, err := client.New(config, client.Options{Scheme: r.admin.Scheme()})
			if err != nil {
				t.Fatal(err)
			}
			return c.Get(ctx, client.ObjectKey{Namespace: "default", Name: ofReached}, &corev1.Secret{})
		}
	}
	return requests{
		"rules of its own Role":        patch(&rbacv1.Role{ObjectMeta: role}, rules),
		"rules of the other's Role":    patch(&rbacv1.Role{ObjectMeta: other}, rules),
		"subjects of the other's Role": patch(&rbacv1.RoleBinding{ObjectMeta: other}, `{"subjects":null}`),
		"subjects of its own Role":     patch(&rbacv1.RoleBinding{ObjectMeta: role}, `{"subjects":null}`),
		"delete its own Role": func() error {
			return r.c.Delete(ctx, &rbacv1.Role{ObjectMeta: role})
		},
		"get the other's Role": func() error {
			return r.c.Get(ctx, client.ObjectKey{Namespace: "default", Name: other.Name}, &rbacv1.Role{})
		},
		"list Roles":        r.list(&rbacv1.RoleList{}, "default", ""),
		"list RoleBindings": r.list(&rbacv1.RoleBindingList{}, "default", ""),
		"create a Role": create(&rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "berth-node-c"},
		}),
		"bind the other's Role": create(&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "berth-node-c"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: other.Name},
			Subjects:   subject,
		}),
		"bind view": create(&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "berth-node-c"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
			Subjects:   subject,
		}),
		"create an OCIBundle":         create(made),
		"Secret of its own OCIBundle": patch(&v1alpha1.OCIBundle{ObjectMeta: bundle}, env),
		"Container of its own OCIBundle": patch(&v1alpha1.OCIBundle{ObjectMeta: bundle},
			`{"spec":{"containerRef":{"namespace":"kube-system"}}}`),
		"Secret of its Container": patch(&v1alpha1.Container{ObjectMeta: container},
			`{"spec":{"envFrom":[{"secretRef":{"name":"`+ofReached+`"}}]}}`),
		"create a Container": create(&v1alpha1.Container{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "made"},
			Spec:       v1alpha1.ContainerSpec{Image: "busybox", NodeName: stolen},
		}),
		"create a Pod": create(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "made"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
		}),
		"token of the other":        r.token(v1alpha1.NodesNamespace, reached),
		"token of the controller":   r.token("berth-system", "berth-controller"),
		"token of a ServiceAccount": r.token("default", "default"),
		"be the other":              as("berth:node:"+reached, "berth:nodes"),
		"be the controller":         as("system:serviceaccount:berth-system:berth-controller"),
		"be an administrator":       as("admin", "system:masters"),
		"namespace of its own to the tenant": patch(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: "team",
		}}, `{"metadata":{"annotations":{"berth.run/node":"a"}}}`),
	}
}

// controllerGrantsNothingElse tries, under the controller's name, to write Roles and RoleBindings of
// another form than those that it writes. The group system:masters has RBAC refuse nothing, so that
// each refusal is the policy's.
func (a *apart) controllerGrantsNothingElse(t *testing.T) {
	t.Helper()
	config := rest.CopyConfig(a.root)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:berth-system:berth-controller",
		Groups:   []string{"system:masters"},
	}
	c, err := client.New(config, client.Options{Scheme: a.admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	create := func(o client.Object) error { return c.Create(ctx, o, client.DryRunAll) }
	meta := func(changes ...func(*metav1.ObjectMeta)) metav1.ObjectMeta {
		m := metav1.ObjectMeta{
			Namespace: "berth-system", Name: v1alpha1.NodeNamespace(stolen),
			Labels:      map[string]string{v1alpha1.LabelNode: ""},
			Annotations: map[string]string{v1alpha1.AnnotationNode: stolen},
		}
		for _, change := range changes {
			change(&m)
		}
		return m
	}
	role := func(change func(*rbacv1.PolicyRule), changes ...func(*metav1.ObjectMeta)) *rbacv1.Role {
		rule := rbacv1.PolicyRule{
			APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"x"},
			Verbs: []string{"get", "list", "watch"},
		}
		change(&rule)
		return &rbacv1.Role{ObjectMeta: meta(changes...), Rules: []rbacv1.PolicyRule{rule}}
	}
	same := func(*rbacv1.PolicyRule) {}
	tokens := func(r *rbacv1.PolicyRule) {
		r.Resources, r.Verbs = []string{"serviceaccounts/token"}, []string{"create"}
	}
	ofTenant := func(m *metav1.ObjectMeta) { m.Namespace, m.Name = "kube-system", v1alpha1.NodeNamespace(stolen) }
	// In the namespace default there is such a Role.
	binding := func(change func(*rbacv1.RoleBinding)) *rbacv1.RoleBinding {
		b := &rbacv1.RoleBinding{
			ObjectMeta: meta(func(m *metav1.ObjectMeta) { m.Namespace = "default" }),
			RoleRef: rbacv1.RoleRef{
				APIGroup: rbacv1.GroupName, Kind: "Role", Name: v1alpha1.NodeNamespace(stolen),
			},
			Subjects: []rbacv1.Subject{
				{Kind: "ServiceAccount", Namespace: v1alpha1.NodesNamespace, Name: stolen},
				{Kind: "User", APIGroup: rbacv1.GroupName, Name: "berth:node:" + stolen},
			},
		}
		change(b)
		return b
	}
	if err := create(role(same)); err != nil {
		t.Errorf("a Role of the allowed form: %v", err)
	}
	if err := create(role(tokens, ofTenant)); err != nil {
		t.Errorf("a Role for tokens of the allowed form: %v", err)
	}
	if err := create(binding(func(*rbacv1.RoleBinding) {})); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a RoleBinding of the allowed form: found %v; want that it exists", err)
	}
	for _, node := range []string{
		"worker-1", "lease", "ip-10-0-0-1.ec2.internal", "a.b", strings.Repeat("a", 52),
		strings.Repeat("a", 53), strings.Repeat("a", 41) + ".a", strings.Repeat("a", 40) + ".a",
		strings.Repeat("a.", 126) + "a",
	} {
		of := role(same, func(m *metav1.ObjectMeta) {
			m.Name, m.Annotations[v1alpha1.AnnotationNode] = v1alpha1.NodeNamespace(node), node
		})
		if err := create(of); err != nil {
			t.Errorf("a Role of node %s: %v", node, err)
		}
	}
	theirs := metav1.ObjectMeta{Namespace: "default", Name: "berth-node-theirs"}
	if err := errors.Join(a.admin.Create(ctx, &rbacv1.Role{ObjectMeta: theirs}),
		a.admin.Create(ctx, &rbacv1.RoleBinding{ObjectMeta: theirs, RoleRef: rbacv1.RoleRef{
			APIGroup: rbacv1.GroupName, Kind: "Role", Name: theirs.Name,
		}})); err != nil {
		t.Fatal(err)
	}
	subject := func(s rbacv1.Subject) func(*rbacv1.RoleBinding) {
		return func(b *rbacv1.RoleBinding) { b.Subjects = append(b.Subjects, s) }
	}
	err = c.SubResource("token").Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: ofNobody},
	}, &authenticationv1.TokenRequest{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "berth-controller-tokens") {
		t.Errorf("a token for itself: found %v; want that berth-controller-tokens forbids it", err)
	}
	for what, err := range map[string]error{
		"no names":      create(role(func(r *rbacv1.PolicyRule) { r.ResourceNames = nil })),
		"an empty name": create(role(func(r *rbacv1.PolicyRule) { r.ResourceNames = []string{"x", ""} })),
		"tokens of no name": create(role(func(r *rbacv1.PolicyRule) {
			tokens(r)
			r.ResourceNames = nil
		}, ofTenant)),
		"all of ServiceAccounts": create(role(func(r *rbacv1.PolicyRule) {
			tokens(r)
			r.Resources = []string{"serviceaccounts/token", "serviceaccounts"}
		}, ofTenant)),
		"impersonation": create(role(func(r *rbacv1.PolicyRule) {
			r.Resources, r.Verbs = []string{"serviceaccounts"}, []string{"impersonate"}
		}, ofTenant)),
		"another verb of tokens": create(role(func(r *rbacv1.PolicyRule) {
			tokens(r)
			r.Verbs = []string{"create", "*"}
		}, ofTenant)),
		"creation of Secrets":      create(role(func(r *rbacv1.PolicyRule) { r.Verbs = []string{"create"} })),
		"tokens of the controller": create(role(tokens)),
		"tokens of agents": create(role(tokens, func(m *metav1.ObjectMeta) {
			m.Namespace = v1alpha1.NodesNamespace
		})),
		"a verb of writing": create(role(func(r *rbacv1.PolicyRule) {
			r.Resources, r.Verbs = []string{"configmaps"}, []string{"get", "update"}
		})),
		"all verbs":     create(role(func(r *rbacv1.PolicyRule) { r.Verbs = []string{"*"} })),
		"all resources": create(role(func(r *rbacv1.PolicyRule) { r.Resources = []string{"*"} })),
		"another resource": create(role(func(r *rbacv1.PolicyRule) {
			r.Resources = []string{"secrets", "nodes"}
		})),
		"another group": create(role(func(r *rbacv1.PolicyRule) {
			r.APIGroups, r.Resources = []string{"berth.run"}, []string{"ocibundles"}
		})),
		"two groups": create(role(func(r *rbacv1.PolicyRule) { r.APIGroups = []string{"", "apps"} })),
		"a Role among a node's objects": create(role(same, func(m *metav1.ObjectMeta) {
			m.Namespace = v1alpha1.NodeNamespace(stolen)
		})),
		"a Role of another name": create(role(same, func(m *metav1.ObjectMeta) { m.Name = "x" })),
		"a Role of the other's name": create(role(same, func(m *metav1.ObjectMeta) {
			m.Name = v1alpha1.NodeNamespace(reached)
		})),
		"a Role of the other's node": create(role(same, func(m *metav1.ObjectMeta) {
			m.Annotations[v1alpha1.AnnotationNode] = reached
		})),
		"a Role of a node whose name is shorter": create(role(same, func(m *metav1.ObjectMeta) {
			m.Name = v1alpha1.NodeNamespace(stolen) + "-0123456789"
		})),
		"a Role of a node whose name is longer": create(role(same, func(m *metav1.ObjectMeta) {
			m.Annotations[v1alpha1.AnnotationNode] = stolen + ".example.com"
		})),
		"a Role of no node": create(role(same, func(m *metav1.ObjectMeta) { m.Annotations = nil })),
		"somebody else's Role": c.Patch(ctx, &rbacv1.Role{ObjectMeta: theirs},
			client.RawPatch(types.MergePatchType, []byte(
				`{"metadata":{"annotations":{"berth.run/node":"theirs"}}}`))),
		"delete somebody else's Role":        c.Delete(ctx, &rbacv1.Role{ObjectMeta: theirs}),
		"delete somebody else's RoleBinding": c.Delete(ctx, &rbacv1.RoleBinding{ObjectMeta: theirs}),
		"another Role": create(binding(func(b *rbacv1.RoleBinding) {
			b.RoleRef.Name = v1alpha1.NodeNamespace(reached)
		})),
		"a ClusterRole": create(binding(func(b *rbacv1.RoleBinding) {
			b.RoleRef.Kind, b.RoleRef.Name = "ClusterRole", "berth-node-bundles"
		})),
		"a ServiceAccount": create(binding(subject(rbacv1.Subject{
			Kind: "ServiceAccount", Namespace: "default", Name: stolen,
		}))),
		"the other's ServiceAccount": create(binding(subject(rbacv1.Subject{
			Kind: "ServiceAccount", Namespace: v1alpha1.NodesNamespace, Name: reached,
		}))),
		"the other's certificate": create(binding(subject(rbacv1.Subject{
			Kind: "User", APIGroup: rbacv1.GroupName, Name: "berth:node:" + reached,
		}))),
		"all agents": create(binding(subject(rbacv1.Subject{
			Kind: "Group", APIGroup: rbacv1.GroupName, Name: "berth:nodes",
		}))),
		"a RoleBinding of another name": create(binding(func(b *rbacv1.RoleBinding) {
			b.Name = v1alpha1.NodeNamespace(reached)
		})),
		"a RoleBinding of no node": create(binding(func(b *rbacv1.RoleBinding) { b.Annotations = nil })),
		"subjects of its own RoleBinding": c.Patch(ctx, binding(func(*rbacv1.RoleBinding) {}),
			client.RawPatch(types.MergePatchType, []byte(
				`{"subjects":[{"kind":"Group","apiGroup":"rbac.authorization.k8s.io","name":"berth:nodes"}]}`))),
	} {
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "berth-node-access") {
			t.Errorf("%s: found %v; want that berth-node-access forbids it", what, err)
		}
	}
}
