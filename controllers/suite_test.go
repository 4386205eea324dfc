// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers"
	"github.com/berth-run/berth/internal/leaktest"
)

// grace is the node monitor's grace period in these tests, long enough for a busy machine to renew
// a Lease in time.
const grace = 15 * time.Second

// patience is the time that a state may take to come about before the test fails.
const patience = 3 * time.Minute

var (
	// admin is a client that acts for people and agents.
	admin client.Client
	// adminWatch is the same, and watches.
	adminWatch client.WithWatch
	// auditLog is the file in which the API server records each write.
	auditLog string
	// cached is the manager's client, which reads from the informer cache that the reconcilers use.
	cached client.Client
	// live is the manager's reader past the cache.
	live client.Reader
	// adminConfig is for clients of one's own.
	adminConfig *rest.Config
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(suite{m})) }

// suite is the tests, with the API server and the manager that they share.
type suite struct{ tests *testing.M }

func (s suite) Run() int {
	code, err := runSuite(s.tests)
	if err != nil {
		fmt.Fprintln(os.Stderr, "controllers:", err)
		code = 1
	}
	return code
}

// runSuite starts a real API server, and the manager with the permissions of config/rbac and no
// others.
func runSuite(m *testing.M) (code int, err error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return 1, errors.New(
			"KUBEBUILDER_ASSETS is not set: it names the directory of etcd and kube-apiserver that hack/controlplane/build.sh makes and prints; `make test` does both")
	}
	level := slog.LevelError
	if os.Getenv("BERTH_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr,
		&slog.HandlerOptions{Level: level})))

	env := &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join("..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
		CRDInstallOptions:     envtest.CRDInstallOptions{MaxTime: 5 * time.Minute},
	}
	dir, err := os.MkdirTemp("", "berth-controllers-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	policy := filepath.Join(dir, "policy.yaml")
	auditLog = filepath.Join(dir, "audit.log")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return 1, err
	}
	env.ControlPlane.GetAPIServer().Configure().Set("audit-policy-file", policy).Set("audit-log-path",
		auditLog).
		// there is no kube-proxy: a Service is reached by its endpoints
		Set("enable-aggregator-routing", "true")
	adminConfig, err = env.Start()
	if err != nil {
		return 1, fmt.Errorf("start the control plane: %w", err)
	}
	defer func() { err = errors.Join(err, env.Stop()) }()
	adminConfig.QPS = -1
	scheme, err := controllers.Scheme()
	if err != nil {
		return 1, err
	}
	adminWatch, err = client.NewWithWatch(adminConfig, client.Options{Scheme: scheme})
	if err != nil {
		return 1, err
	}
	admin = adminWatch
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, name := range []string{v1alpha1.NodesNamespace, "berth-system"} {
		if err := admin.Create(ctx,
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return 1, err
		}
	}
	user, err := env.AddUser(envtest.User{Name: "berth-controller"}, nil)
	if err != nil {
		return 1, err
	}
	if err := grant(ctx, "berth-controller"); err != nil {
		return 1, err
	}
	cfg := user.Config()
	cfg.QPS = -1
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:  scheme,
		Cache:   controllers.CacheOptions(),
		Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		return 1, err
	}
	webhook, err := installWebhook(ctx)
	if err != nil {
		return 1, err
	}
	options := controllers.Options{
		NodeMonitorGracePeriod: grace, RequestTimeout: time.Second, Compile: compileAsVersion,
		Revision: revisionOfVersion, Webhook: webhook,
	}
	if err := controllers.SetupWithManager(ctx, mgr, options); err != nil {
		return 1, err
	}
	cached, live = mgr.GetClient(), mgr.GetAPIReader()
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	go finishNamespaces(ctx)
	code = m.Run()
	cancel()
	return code, <-ended
}

// finishNamespaces finishes the deletion of nodes' namespaces, as kube-controller-manager does.
func finishNamespaces(ctx context.Context) {
	for ctx.Err() == nil {
		list := &corev1.NamespaceList{}
		if err := admin.List(ctx, list, client.HasLabels{v1alpha1.LabelNode}); err == nil {
			for i := range list.Items {
				if ns := &list.Items[i]; ns.DeletionTimestamp != nil {
					in := client.InNamespace(ns.Name)
					_ = admin.DeleteAllOf(ctx, &rbacv1.RoleBinding{}, in)
					_ = admin.DeleteAllOf(ctx, &coordinationv1.Lease{}, in)
					_ = admin.DeleteAllOf(ctx, &v1alpha1.OCIBundle{}, in)
					left := &v1alpha1.OCIBundleList{}
					if err := admin.List(ctx, left, in); err == nil && len(left.Items) == 0 {
						ns.Spec.Finalizers = nil
						_ = admin.SubResource("finalize").Update(ctx, ns)
					}
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// auditPolicy logs writes of namespaced objects and reads of ConfigMaps and Secrets, when they are
// done.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: Metadata
  verbs: [get, list, watch]
  resources: [{group: "", resources: [configmaps, secrets]}]
- level: None
`

// writes counts the writes in a namespace, and of the OCIBundles of its Containers, that the API
// server has accepted, by "verb resource/subresource".
func writes(t *testing.T, namespace string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, e := range auditOf(t, func(e auditEvent) bool {
		return !slices.Contains([]string{"get", "list", "watch"}, e.Verb) && e.Response.Code < 300
	}) {
		of := e.ObjectRef.Namespace == namespace || e.ObjectRef.Resource == "ocibundles" &&
			strings.HasPrefix(e.ObjectRef.Name, namespace+".")
		if of {
			what := e.Verb + " " + e.ObjectRef.Resource
			if e.ObjectRef.Subresource != "" {
				what += "/" + e.ObjectRef.Subresource
			}
			count[what]++
		}
	}
	return count
}

// grant gives the user the rights of config/rbac/role.yaml.
func grant(ctx context.Context, user string) error {
	document, err := os.ReadFile(filepath.Join("..", "config", "rbac", "role.yaml"))
	if err != nil {
		return err
	}
	subject := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}}
	for part := range strings.SplitSeq(string(document), "\n---\n") {
		kind := metav1.TypeMeta{}
		if err := yaml.Unmarshal([]byte(part), &kind); err != nil {
			return err
		}
		switch kind.Kind {
		case "ClusterRole":
			role := &rbacv1.ClusterRole{}
			if err := yaml.UnmarshalStrict([]byte(part), role); err != nil {
				return err
			}
			binding := &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: role.Name}, Subjects: subject,
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			}
			if err := errors.Join(admin.Create(ctx, role), admin.Create(ctx, binding)); err != nil {
				return err
			}
		case "Role":
			role := &rbacv1.Role{}
			if err := yaml.UnmarshalStrict([]byte(part), role); err != nil {
				return err
			}
			binding := &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: role.Name, Namespace: role.Namespace}, Subjects: subject,
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
			}
			if err := errors.Join(admin.Create(ctx, role), admin.Create(ctx, binding)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("config/rbac/role.yaml: found kind %q; known: ClusterRole, Role", kind.Kind)
		}
	}
	return nil
}

// eventually waits until check reports no difference from the expected state.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not so after %s: %v", patience, err)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// namespace makes one for the test, and at its end deletes the Containers in it and waits until
// they are gone.
func namespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := admin.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := admin.DeleteAllOf(ctx, &v1alpha1.Container{}, client.InNamespace(ns.Name)); err != nil {
			t.Error(err)
		}
		eventually(t, func() error {
			left := &v1alpha1.ContainerList{}
			if err := admin.List(ctx, left, client.InNamespace(ns.Name)); err != nil {
				return err
			}
			if n := len(left.Items); n > 0 {
				return fmt.Errorf("%d Containers are left", n)
			}
			return nil
		})
	})
	return ns.Name
}

// sample returns a Container that compiles.
func sample(namespace, name string, changes ...func(*v1alpha1.Container)) *v1alpha1.Container {
	c := &v1alpha1.Container{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.ContainerSpec{
			Image:   "docker.io/library/busybox:1.36",
			Command: []string{"sleep", "inf"},
		},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func create(t *testing.T, o client.Object) {
	t.Helper()
	if err := admin.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// edit changes an object as `kubectl edit` does.
func edit[T client.Object](t *testing.T, o T, change func(T)) {
	t.Helper()
	eventually(t, func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change(o)
		return admin.Update(t.Context(), o)
	})
}

// read returns the Container as it is now.
func read(t *testing.T, c *v1alpha1.Container) (*v1alpha1.Container, error) {
	t.Helper()
	now := &v1alpha1.Container{}
	return now, admin.Get(t.Context(), client.ObjectKeyFromObject(c), now)
}

// readBundle returns its OCIBundle as it is now, wherever that is.
func readBundle(t *testing.T, c *v1alpha1.Container) (*v1alpha1.OCIBundle, error) {
	t.Helper()
	all, err := readBundles(t.Context(), c)
	if err != nil {
		return &v1alpha1.OCIBundle{}, err
	}
	switch len(all) {
	case 0:
		return &v1alpha1.OCIBundle{}, apierrors.NewNotFound(schema.GroupResource{Resource: "ocibundles"},
			c.Name)
	case 1:
		return &all[0], nil
	}
	return &v1alpha1.OCIBundle{}, fmt.Errorf("%s has %d OCIBundles", c.Name, len(all))
}

// readBundles returns all OCIBundles of Containers of that name.
func readBundles(ctx context.Context, c *v1alpha1.Container) ([]v1alpha1.OCIBundle, error) {
	list := &v1alpha1.OCIBundleList{}
	err := admin.List(ctx, list)
	return slices.DeleteFunc(list.Items, func(b v1alpha1.OCIBundle) bool {
		owner := b.Owner()
		return (owner.Namespace != c.Namespace || owner.Name != c.Name) &&
			client.ObjectKeyFromObject(&b) != client.ObjectKeyFromObject(c)
	}), err
}

// theBundle returns its OCIBundle, which has to be there.
func theBundle(t *testing.T, c *v1alpha1.Container) *v1alpha1.OCIBundle {
	t.Helper()
	b, err := readBundle(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// want is an expected condition; an empty field is not looked at.
type want struct {
	kind     string
	status   metav1.ConditionStatus
	reason   string
	contains string
}

// eventuallyHas waits until the Container has all of these conditions, of its present generation.
func eventuallyHas(t *testing.T, c *v1alpha1.Container, wants ...want) *v1alpha1.Container {
	t.Helper()
	var now *v1alpha1.Container
	eventually(t, func() (err error) {
		if now, err = read(t, c); err != nil {
			return err
		}
		return has(now, wants...)
	})
	return now
}

func has(c *v1alpha1.Container, wants ...want) error {
	if c.Status.ObservedGeneration != c.Generation {
		return fmt.Errorf("observedGeneration is %d of %d", c.Status.ObservedGeneration, c.Generation)
	}
	for _, w := range wants {
		got := meta.FindStatusCondition(c.Status.Conditions, w.kind)
		switch {
		case got == nil && w.status == "":
			continue
		case got == nil:
			return fmt.Errorf("there is no condition %s", w.kind)
		case got.Status != w.status, w.reason != "" && got.Reason != w.reason,
			!strings.Contains(got.Message, w.contains):
			return fmt.Errorf("%s is %s %s %q; wanted %+v", w.kind, got.Status, got.Reason, got.Message, w)
		case got.ObservedGeneration != c.Generation:
			return fmt.Errorf("%s is of generation %d; the Container's is %d", w.kind,
				got.ObservedGeneration, c.Generation)
		}
	}
	return nil
}

// eventuallyEvent waits for an event about the object.
func eventuallyEvent(t *testing.T, o client.Object, reasons ...string) {
	t.Helper()
	eventually(t, func() error {
		list := &eventsv1.EventList{}
		err := admin.List(t.Context(), list,
			client.InNamespace(cmp(o.GetNamespace(), metav1.NamespaceDefault)))
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, e := range list.Items {
			if e.Regarding.UID == o.GetUID() {
				seen[e.Reason] = true
			}
		}
		for _, r := range reasons {
			if !seen[r] {
				return fmt.Errorf("no event %s about %s; there are %v", r, o.GetName(), seen)
			}
		}
		return nil
	})
}

func cmp(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// fakeAgent plays the agent of one node: it says so, keeps its Lease fresh, answers each OCIBundle
// as answer says, and lets those go that are deleted. There is no process behind it.
type fakeAgent struct {
	t    *testing.T
	name string
	ctx  context.Context
	stop context.CancelFunc
	done chan struct{}

	// Settings, made before start.
	labels   map[string]string
	taints   []corev1.Taint
	handlers []string
	revision int32
	cpu      string
	memory   string
	cordoned bool
	// answer is the status of an OCIBundle; nil runs it.
	answer func(*v1alpha1.OCIBundle) v1alpha1.OCIBundleStatus
	// hold keeps the finalizer of OCIBundles that are being deleted until it is closed; nil lets go
	// at once.
	hold chan struct{}
}

func newFakeAgent(t *testing.T, name string, settings ...func(*fakeAgent)) *fakeAgent {
	t.Helper()
	a := &fakeAgent{
		t: t, name: name, handlers: []string{v1alpha1.HandlerNative},
		revision: v1alpha1.AgentRevision, cpu: "4", memory: "8Gi", answer: runs,
	}
	for _, set := range settings {
		set(a)
	}
	agent := &v1alpha1.NodeAgent{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: a.labels},
		Spec:       v1alpha1.NodeAgentSpec{Taints: a.taints, Unschedulable: a.cordoned},
	}
	create(t, agent)
	agent.Status = v1alpha1.NodeAgentStatus{
		NodeInfo:           v1alpha1.NodeInfo{AgentRevision: a.revision},
		ObservedGeneration: agent.Generation,
		Allocatable: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse(a.cpu),
			corev1.ResourceMemory: resource.MustParse(a.memory),
		},
		Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "AgentReady",
			Message: "plays", LastTransitionTime: metav1.Now(),
		}},
	}
	for _, h := range a.handlers {
		agent.Status.Handlers = append(agent.Status.Handlers, v1alpha1.NodeHandler{Name: h})
	}
	if err := admin.Status().Update(t.Context(), agent); err != nil {
		t.Fatal(err)
	}
	// The controller creates the namespace; that of an agent of this name in an earlier test may
	// have to go first.
	eventually(t, func() error {
		lease := a.lease()
		lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: ptr.To(metav1.NowMicro())}
		if err := admin.Create(t.Context(), lease); !apierrors.IsAlreadyExists(err) {
			return err
		}
		return nil
	})
	a.start()
	t.Cleanup(a.remove)
	return a
}

// start begins, or begins again after halt.
func (a *fakeAgent) start() {
	a.ctx, a.stop = context.WithCancel(context.Background())
	a.done = make(chan struct{})
	go a.work()
}

// halt ends the agent: no heartbeat, no answer.
func (a *fakeAgent) halt() {
	a.stop()
	<-a.done
}

// remove takes the node away, once it has let go of all its OCIBundles.
func (a *fakeAgent) remove() {
	ctx := context.Background()
	eventually(a.t, func() error {
		left := &v1alpha1.OCIBundleList{}
		err := admin.List(ctx, left, client.MatchingFields{v1alpha1.OCIBundleNodeNameField: a.name})
		if err != nil {
			return err
		}
		if len(left.Items) > 0 {
			return fmt.Errorf("%d OCIBundles are left on node %s", len(left.Items), a.name)
		}
		return nil
	})
	a.halt()
	for _, o := range []client.Object{
		&v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: a.name}},
		a.lease(),
	} {
		// Its Lease may have gone with its namespace.
		if err := admin.Delete(ctx, o); client.IgnoreNotFound(err) != nil {
			a.t.Error(err)
		}
	}
}

func (a *fakeAgent) work() {
	defer close(a.done)
	var beat time.Time
	for a.ctx.Err() == nil {
		if time.Since(beat) > time.Second {
			beat = time.Now()
			a.heartbeat()
		}
		list := &v1alpha1.OCIBundleList{}
		err := admin.List(a.ctx, list, client.MatchingFields{v1alpha1.OCIBundleNodeNameField: a.name})
		if err == nil {
			for i := range list.Items {
				a.serve(&list.Items[i])
			}
		}
		select {
		case <-a.ctx.Done():
		case <-time.After(30 * time.Millisecond):
		}
	}
}

func (a *fakeAgent) heartbeat() {
	patch := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`,
		metav1.NowMicro().UTC().Format(metav1.RFC3339Micro))
	err := admin.Patch(a.ctx, a.lease(), client.RawPatch("application/merge-patch+json", patch))
	if apierrors.IsNotFound(err) {
		lease := a.lease()
		lease.Spec = coordinationv1.LeaseSpec{
			HolderIdentity: &a.name,
			RenewTime:      ptr.To(metav1.NowMicro()),
		}
		_ = admin.Create(a.ctx, lease) // it may be refused while the namespace is being deleted
		return
	}
	a.complain(err)
}

// lease is its heartbeat.
func (a *fakeAgent) lease() *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.NodeNamespace(a.name), Name: a.name,
			Labels: map[string]string{v1alpha1.LabelNode: ""},
		},
	}
}

// complain reports what is not to be expected of an API server that is shared with others.
func (a *fakeAgent) complain(err error) {
	if err != nil && a.ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		a.t.Errorf("fake agent %s: %v", a.name, err)
	}
}

func (a *fakeAgent) serve(b *v1alpha1.OCIBundle) {
	if b.IsFormer() == (a.revision >= 2) {
		return // an agent reads in its node's namespace, or an older one elsewhere
	}
	if b.DeletionTimestamp != nil {
		if a.hold != nil {
			select {
			case <-a.hold:
			default:
				return
			}
		}
		if controllerutil.RemoveFinalizer(b, v1alpha1.OCIBundleFinalizer) {
			a.complain(admin.Update(a.ctx, b))
		}
		return
	}
	if b.Status.ObservedGeneration == b.Generation {
		return
	}
	b.Status = a.answer(b)
	b.Status.ObservedGeneration = b.Generation
	a.complain(admin.Status().Update(a.ctx, b))
}

// say writes the status of an OCIBundle as it is to be from now on.
func (a *fakeAgent) say(c *v1alpha1.Container, st v1alpha1.OCIBundleStatus) {
	a.t.Helper()
	eventually(a.t, func() error {
		b, err := readBundle(a.t, c)
		if err != nil {
			return err
		}
		b.Status = st
		b.Status.ObservedGeneration = b.Generation
		return admin.Status().Update(a.ctx, b)
	})
}

func condition(kind string, status metav1.ConditionStatus, reason,
	message string,
) metav1.Condition {
	return metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message,
		LastTransitionTime: metav1.Now(),
	}
}

// runs returns the status of an OCIBundle whose process runs.
func runs(*v1alpha1.OCIBundle) v1alpha1.OCIBundleStatus {
	return v1alpha1.OCIBundleStatus{
		Phase: v1alpha1.ContainerRunning,
		Conditions: []metav1.Condition{
			condition(v1alpha1.ConditionImageReady, metav1.ConditionTrue, v1alpha1.ReasonImagePulled,
				"pulled"),
			condition(v1alpha1.ConditionRunning, metav1.ConditionTrue, v1alpha1.ReasonStarted,
				"runs as process 4711"),
		},
		RunStatus: v1alpha1.RunStatus{
			ContainerID: "berth://x",
			ImageID:     "docker.io/library/busybox@sha256:0",
			PID:         4711,
			State: corev1.ContainerState{
				Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()},
			},
			LogPath: "/var/log/berth/x/0.log",
		},
	}
}
