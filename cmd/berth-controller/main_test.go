// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers"
)

// asMain in the environment makes the test binary be the program.
const asMain = "BERTH_CONTROLLER_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestBadFlagsAreNamed(t *testing.T) {
	cases := map[string]struct {
		args []string
		want string
	}{
		"grace": {
			[]string{"--node-monitor-grace-period", "10ms"},
			"--node-monitor-grace-period: found 10ms; allowed: 1s or more",
		},
		"workers": {[]string{"--workers", "0"}, "--workers: found 0; allowed: 1 or more"},
		"format":  {[]string{"--log-format", "xml"}, `--log-format: found "xml"; allowed: json, text`},
		"level": {
			[]string{"--log-level", "loud"},
			`--log-level: found "loud"; allowed: debug, info, warn, error`,
		},
		"webhook": {
			[]string{"--webhook-bind-address", "9443"},
			`--webhook-bind-address: found "9443"; allowed: 0, :PORT, HOST:PORT`,
		},
		"kubeconfig": {[]string{"--kubeconfig", "/does/not/exist"}, "/does/not/exist"},
		"argument":   {[]string{"surplus"}, "surplus"},
		"flag":       {[]string{"--no-such"}, "--no-such"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cmd := command(new(bytes.Buffer))
			cmd.SetArgs(c.args)
			cmd.SetOut(new(bytes.Buffer))
			err := cmd.ExecuteContext(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("found %v; wanted %q", err, c.want)
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, c := range []struct{ arg, want string }{
		{"--help", "berth-controller --kubeconfig ~/.kube/config"},
		{"--help", "--leader-elect"},
		{"--version", "berth-controller "},
	} {
		out := &bytes.Buffer{}
		cmd := command(new(bytes.Buffer))
		cmd.SetArgs([]string{c.arg})
		cmd.SetOut(out)
		if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s prints (%v)\n%s", c.arg, err, out)
		}
	}
}

// TestLeader runs two controllers as a cluster would: one leads and works, and on SIGTERM it gives
// the Lease back, so that the other takes over at once.
func TestLeader(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Fatal("KUBEBUILDER_ASSETS is not set: it names the directory of etcd and kube-apiserver that hack/controlplane/build.sh makes and prints; `make test` does both")
	}
	env := &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join("..", "..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
		CRDInstallOptions:     envtest.CRDInstallOptions{MaxTime: 5 * time.Minute},
	}
	cfg, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	scheme, err := controllers.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"berth-system", v1alpha1.NodesNamespace} {
		if err := c.Create(t.Context(),
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	kubeconfig := kubeconfigOf(t, env, envtest.User{Name: "admin", Groups: []string{"system:masters"}})

	refusesOlderCRDs(t, c, kubeconfig)

	first := run(t, kubeconfig)
	installWebhook(t, c, first.webhook)
	holder := ""
	eventually(t, func() error {
		if err := first.get("/readyz"); err != nil {
			return err
		}
		return first.get("/healthz")
	})
	eventually(t, func() (err error) { holder, err = leader(t, c); return err })
	// It works: it says of a Container, with its reason, that there is no node.
	hello := &v1alpha1.Container{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hello"},
		Spec:       v1alpha1.ContainerSpec{Image: "busybox:1"},
	}
	if err := c.Create(t.Context(), hello); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(hello), hello); err != nil {
			return err
		}
		if hello.Status.ObservedGeneration != hello.Generation {
			return fmt.Errorf("nobody has looked at it")
		}
		return nil
	})

	second := run(t, kubeconfig)
	eventually(t, func() error { return second.get("/readyz") })
	if now, err := leader(t, c); err != nil || now != holder {
		t.Errorf("the second has taken the Lease of the first: %s, %s (%v)", holder, now, err)
	}
	// Which of the two the API server asks is the Service's choice.
	var serial string
	eventually(t, func() (err error) { serial, err = first.certificate(); return err })
	eventually(t, func() error {
		if other, err := second.certificate(); err != nil || other != serial {
			return fmt.Errorf("the second serves certificate %q (%v); the first %s", other, err, serial)
		}
		return nil
	})
	first.end(t)
	eventually(t, func() error {
		now, err := leader(t, c)
		if err == nil && now == holder {
			err = fmt.Errorf("the Lease is still that of the first")
		}
		return err
	})
	second.end(t)
	if now, err := leader(t, c); err == nil {
		t.Errorf("the Lease was not given back: %s holds it", now)
	}
}

// refusesOlderCRDs: a controller that was upgraded before the CRDs says so and ends, before it
// touches anything.
func refusesOlderCRDs(t *testing.T, c client.Client, kubeconfig string) {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{
		Group: "apiextensions.k8s.io", Version: "v1",
		Kind: "CustomResourceDefinition",
	})
	u.SetName("ocibundles.berth.run")
	const field = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/minAgentRevision"
	patch := func(format string) {
		t.Helper()
		err := c.Patch(t.Context(), u.DeepCopy(), client.RawPatch(types.JSONPatchType,
			fmt.Appendf(nil, format, field)))
		if err != nil {
			t.Fatal(err)
		}
	}
	patch(`[{"op": "remove", "path": %q}]`)
	ahead := run(t, kubeconfig)
	err := ahead.wait()
	patch(`[{"op": "add", "path": %q, "value": {"type": "integer", "format": "int32"}}]`)
	log := fmt.Sprint(ahead.cmd.Stderr)
	if ahead.cmd.ProcessState.ExitCode() != 1 ||
		strings.Count(log, "CRD ocibundles.berth.run: found no field spec.minAgentRevision") != 1 ||
		!strings.Contains(log, "kubectl apply --server-side -k config/crd") {
		t.Errorf("it ended with %v, and said:\n%s", err, log)
	}
	if _, err := leader(t, c); !apierrors.IsNotFound(err) {
		t.Errorf("it took the Lease (%v)", err)
	}
}

func leader(t *testing.T, c client.Client) (string, error) {
	t.Helper()
	lease := &coordinationv1.Lease{}
	err := c.Get(t.Context(), client.ObjectKey{
		Namespace: "berth-system",
		Name:      "berth-controller",
	}, lease)
	if err != nil {
		return "", err
	}
	if id := lease.Spec.HolderIdentity; id != nil && *id != "" {
		return *id, nil
	}
	return "", fmt.Errorf("nobody holds the Lease")
}

// controller is a process of this program: the test binary itself, as main.
type controller struct {
	probe, webhook string
	cmd            *exec.Cmd
}

func run(t *testing.T, kubeconfig string) *controller {
	t.Helper()
	free := freeAddresses(t, 2)
	r := &controller{probe: free[0], webhook: free[1]}
	r.cmd = exec.Command(os.Args[0], "--kubeconfig", kubeconfig, "--metrics-bind-address", "0",
		"--health-probe-bind-address", r.probe,
		"--webhook-bind-address", r.webhook, "--leader-elect", "--log-format", "text")
	r.cmd.Env = append(os.Environ(), asMain+"=1")
	log := &bytes.Buffer{}
	r.cmd.Stdout, r.cmd.Stderr = log, log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("log of the controller at %s:\n%s", r.probe, log)
		}
	})
	return r
}

// freeAddresses returns n addresses that nobody listens at. The IP address is of this process alone:
// no test of another package takes a port before the controller does.
func freeAddresses(t *testing.T, n int) (free []string) {
	t.Helper()
	pid := os.Getpid()
	host := net.IPv4(127, byte(1+pid>>16&0x7f), byte(pid>>8), byte(pid)).String()
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		free = append(free, l.Addr().String())
	}
	return free
}

func (r *controller) get(path string) error {
	answer, err := (&http.Client{Timeout: time.Minute}).Get("http://" + r.probe + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, answer.Status)
	}
	return nil
}

// certificate returns the serial number of the one that the webhook is served with.
func (r *controller) certificate() (string, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", r.webhook,
		&tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// installWebhook creates the configuration and the Secret of config/webhook, with an address of
// this host in place of the Service.
func installWebhook(t *testing.T, c client.Client, address string) {
	t.Helper()
	document, err := os.ReadFile(filepath.Join("..", "..", "config", "webhook", "webhook.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(string(document), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(part), u); err != nil {
			t.Fatal(err)
		}
		switch u.GetKind() {
		case "Service":
			continue
		case "ValidatingWebhookConfiguration":
			webhook := u.Object["webhooks"].([]any)[0].(map[string]any)
			webhook["clientConfig"] = map[string]any{"url": "https://" + address}
		}
		if err := c.Create(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
}

// wait waits for the end of a program. One that hangs writes what its goroutines wait for, and ends.
func (r *controller) wait() error {
	hangs := time.AfterFunc(3*time.Minute, func() { _ = r.cmd.Process.Signal(syscall.SIGQUIT) })
	defer hangs.Stop()
	return r.cmd.Wait()
}

// end stops a program as the kubelet stops a pod.
func (r *controller) end(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); err != nil {
		t.Errorf("it did not end well: %v", err)
	}
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// kubeconfigOf writes the kubeconfig of a new user of the API server, and returns its path.
func kubeconfigOf(t *testing.T, env *envtest.Environment, user envtest.User) string {
	t.Helper()
	added, err := env.AddUser(user, nil)
	if err != nil {
		t.Fatal(err)
	}
	document, err := added.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, document, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
