// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-run/berth/api/v1alpha1"
)

// cluster is one development cluster and where its parts come from.
type cluster struct {
	dir, assets, bin, config string
	node                     string
	apiOnly                  bool
	timeout                  time.Duration
	programs                 programs

	ports ports
	ca    *authority
	api   *client
	// fresh are the programs that this command started, in order.
	fresh []string
}

// ports on the loopback device, chosen once for the life of the cluster.
type ports struct {
	Etcd, EtcdPeer, APIServer, ControllerHealth, ControllerWebhook int
}

// marker is the file that says a directory is a state directory, and so may be removed.
const marker = "berth-cluster.json"

// names of the programs in the order in which they start.
var names = []string{"etcd", "kube-apiserver", "berth-controller", "berth-agent"}

func (c *cluster) kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }
func (c *cluster) server() string {
	return fmt.Sprintf("https://127.0.0.1:%d", c.ports.APIServer)
}

func (c *cluster) identity(name string) string {
	return filepath.Join(c.dir, "identities", name+".kubeconfig")
}

// runRoot returns the agent's run directory, whose content does not survive a reboot. It is not in
// the state directory since the path of a unix socket may be 107 bytes at most (unix(7)), and a
// checkout may lie deep.
func (c *cluster) runRoot() string { return "/run/" + c.id() }

// cgroup returns the one above all containers of this cluster.
func (c *cluster) cgroup() string { return "/" + c.id() }

// id distinguishes this cluster from others on the host.
func (c *cluster) id() string {
	return fmt.Sprintf("berth-cluster-%.4x", sha256.Sum256([]byte(c.dir)))
}

// up starts the missing programs, in order, and waits for each. If it fails it ends what it
// started; the logs stay in the state directory.
func (c *cluster) up(ctx context.Context) (err error) {
	begin := time.Now()
	defer func() {
		if err == nil {
			return
		}
		for i := len(c.fresh) - 1; i >= 0; i-- {
			say("stopping %s", c.fresh[i])
			err = errors.Join(err, c.programs.stop(c.fresh[i]))
			if c.fresh[i] == "berth-agent" {
				err = errors.Join(err, c.endSupervisor(context.WithoutCancel(ctx), false))
			}
		}
	}()
	phases := []func(context.Context) error{c.prepare, c.startEtcd, c.startAPIServer}
	if c.apiOnly {
		phases = append(phases, c.install)
	} else {
		phases = append(phases, c.optOut, c.install, c.installWebhook, c.startController, c.startAgent)
	}
	for _, phase := range phases {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	say("ready in %.1f s", time.Since(begin).Seconds())
	fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\n", c.kubeconfig(), c.assets)
	return nil
}

// prepare creates the state directory: ports, certificates, kubeconfigs.
func (c *cluster) prepare(context.Context) error {
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		if _, err := os.Stat(filepath.Join(c.assets, name)); err != nil || c.assets == "" {
			return fmt.Errorf("--assets %q: no %s there; hack/controlplane/build.sh makes it",
				c.assets, name)
		}
	}
	if err := c.own(); err != nil {
		return err
	}
	var err error
	c.ca, err = openAuthority(filepath.Join(c.dir, "pki"))
	if err != nil {
		return err
	}
	node := "berth:node:" + c.node
	for _, err := range []error{
		c.ca.server("etcd"),
		c.ca.server("kube-apiserver"),
		c.ca.client("etcd-client", "kube-apiserver"),
		c.ca.client("service-account", "service-account"), // only its key is used: it signs tokens
		c.ca.client("admin", "berth:admin", "system:masters"),
		// The service account that config/ gives the controller: to RBAC its name is
		// what counts, so the same bindings hold here as where it runs in a pod.
		c.ca.client("controller", "system:serviceaccount:berth-system:berth-controller",
			"system:serviceaccounts", "system:serviceaccounts:berth-system"),
		c.ca.client("agent", node, "berth:nodes"),
	} {
		if err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(c.dir, "identities"), 0o700); err != nil {
		return err
	}
	for _, err := range []error{
		c.ca.kubeconfig(c.kubeconfig(), c.server(), "admin"),
		c.ca.kubeconfig(c.identity("controller"), c.server(), "controller"),
		c.ca.kubeconfig(c.identity("agent"), c.server(), "agent"),
	} {
		if err != nil {
			return err
		}
	}
	c.api, err = newClient(c.ca, c.server())
	return err
}

// own marks the state directory as this cluster's, or checks that it is.
func (c *cluster) own() error {
	data, err := os.ReadFile(filepath.Join(c.dir, marker))
	if err == nil {
		if err := json.Unmarshal(data, &c.ports); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(c.dir, marker), err)
		}
		if c.ports.ControllerWebhook != 0 {
			return nil
		}
		// A cluster of before there was a webhook.
		free, err := freePorts()
		if err != nil {
			return err
		}
		c.ports.ControllerWebhook = free.ControllerWebhook
		return writeJSON(filepath.Join(c.dir, marker), c.ports)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("--dir %s: not empty, and no cluster's state directory (no %s in it)", c.dir,
			marker)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	c.ports, err = freePorts()
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(c.dir, marker), c.ports)
}

// freePorts asks the kernel for ports that nobody listens on.
func freePorts() (ports, error) {
	var p ports
	for _, port := range []*int{
		&p.Etcd, &p.EtcdPeer, &p.APIServer, &p.ControllerHealth,
		&p.ControllerWebhook,
	} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return ports{}, err
		}
		// All stay open until the last is chosen, so that all differ.
		defer l.Close()
		*port = l.Addr().(*net.TCPAddr).Port
	}
	return p, nil
}

func (c *cluster) startEtcd(ctx context.Context) error {
	clients := fmt.Sprintf("https://127.0.0.1:%d", c.ports.Etcd)
	peers := fmt.Sprintf("https://127.0.0.1:%d", c.ports.EtcdPeer)
	return c.start(program{name: "etcd", path: filepath.Join(c.assets, "etcd"), args: []string{
		"--name=berth",
		"--data-dir=" + filepath.Join(c.dir, "etcd"),
		"--listen-client-urls=" + clients, "--advertise-client-urls=" + clients,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers,
		"--initial-cluster=berth=" + peers,
		// Only the API server may read it: etcd holds every secret.
		"--client-cert-auth", "--trusted-ca-file=" + c.ca.file("ca.crt"),
		"--cert-file=" + c.ca.file("etcd.crt"), "--key-file=" + c.ca.file("etcd.key"),
		"--peer-client-cert-auth", "--peer-trusted-ca-file=" + c.ca.file("ca.crt"),
		"--peer-cert-file=" + c.ca.file("etcd.crt"), "--peer-key-file=" + c.ca.file("etcd.key"),
		// Losing a development cluster with the machine is cheaper than an
		// fsync a write.
		"--unsafe-no-fsync", "--log-level=warn",
	}})
}

func (c *cluster) startAPIServer(ctx context.Context) error {
	err := c.start(program{
		name: "kube-apiserver", path: filepath.Join(c.assets, "kube-apiserver"),
		args: []string{
			"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", c.ports.APIServer),
			"--tls-cert-file=" + c.ca.file("kube-apiserver.crt"), "--tls-private-key-file=" +
				c.ca.file("kube-apiserver.key"),
			"--client-ca-file=" + c.ca.file("ca.crt"),
			fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", c.ports.Etcd),
			"--etcd-cafile=" + c.ca.file("ca.crt"),
			"--etcd-certfile=" + c.ca.file("etcd-client.crt"), "--etcd-keyfile=" +
				c.ca.file("etcd-client.key"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + c.ca.file("service-account.key"),
			"--service-account-signing-key-file=" + c.ca.file("service-account.key"),
			"--service-cluster-ip-range=10.0.0.0/24",
			"--authorization-mode=Node,RBAC",
			// No kube-controller-manager runs, so no namespace gets its default
			// service account, which this plugin would demand of every pod.
			"--disable-admission-plugins=ServiceAccount",
			"--endpoint-reconciler-type=none",
		},
	})
	if err != nil {
		return err
	}
	return c.wait(ctx, "the API server to be ready", []string{"etcd", "kube-apiserver"},
		func(ctx context.Context) (bool, string) {
			err := c.api.get(ctx, "/readyz", nil)
			return err == nil, fmt.Sprint(err)
		})
}

// optOut labels the namespace default, in which people try things, as config/policy wants it of a
// namespace whose Containers may use files of the node and run as root. Every other namespace is
// held to the Pod Security level restricted.
func (c *cluster) optOut(ctx context.Context) error {
	const label = "pod-security.kubernetes.io/enforce"
	err := c.wait(ctx, "namespace default", []string{"etcd", "kube-apiserver"},
		func(ctx context.Context) (bool, string) {
			// A label that is there already is somebody's choice.
			out, err := c.kubectl(ctx, "get", "namespace", "default", "-o",
				"jsonpath={.metadata.labels['pod-security\\.kubernetes\\.io/enforce']}")
			if err != nil || out != "" {
				return err == nil, out
			}
			out, err = c.kubectl(ctx, "label", "namespace", "default", label+"=privileged")
			return err == nil, out
		})
	if err == nil {
		say("labelled namespace default %s=privileged; a namespace without the label counts as restricted (docs/security.md)", label)
	}
	return err
}

// install applies the CRDs and the roles, and waits until the CRDs are served.
func (c *cluster) install(ctx context.Context) error {
	// All of config/default but what runs in pods, of which there are none here.
	bases := []string{"namespace", "crd", "rbac", "policy"}
	if c.apiOnly {
		bases = []string{"crd"}
	}
	for _, base := range bases {
		dir := filepath.Join(c.config, base)
		args := []string{"apply", "--server-side", "--force-conflicts", "--field-manager=berth-cluster"}
		if _, err := os.Stat(filepath.Join(dir, "kustomization.yaml")); err == nil {
			args = append(args, "-k", dir)
		} else if _, err := os.Stat(dir); err == nil {
			args = append(args, "--recursive", "-f", dir)
		} else {
			return fmt.Errorf("--config %s: %w", c.config, err)
		}
		if out, err := c.kubectl(ctx, args...); err != nil {
			return fmt.Errorf("apply %s: %w\n%s", dir, err, out)
		}
	}
	say("applied %s of %s", strings.Join(bases, ", "), c.config)
	return c.wait(ctx, "the CRDs to be established", []string{"etcd", "kube-apiserver"},
		func(ctx context.Context) (bool, string) {
			var crds struct{ Items []object }
			err := c.api.get(ctx, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crds)
			if err != nil {
				return false, err.Error()
			}
			for _, crd := range crds.Items {
				if !crd.is("Established") {
					return false, crd.Metadata.Name + " is not established"
				}
			}
			return len(crds.Items) > 0, "there are none"
		})
}

// installWebhook applies config/webhook with the controller's port on this host in place of its
// Service, behind which there would be no pod.
func (c *cluster) installWebhook(ctx context.Context) error {
	dir := filepath.Join(c.dir, "webhook")
	base, err := filepath.Rel(dir, filepath.Join(c.config, "webhook"))
	if err != nil {
		return err
	}
	url := fmt.Sprintf("https://127.0.0.1:%d", c.ports.ControllerWebhook)
	now, err := c.kubectl(ctx, "get", "validatingwebhookconfiguration", "berth-controller",
		"--ignore-not-found",
		"-o", "jsonpath={.webhooks[0].clientConfig.url}")
	if err != nil {
		return fmt.Errorf("get the webhook's URL: %w\n%s", err, now)
	}
	// The controller has added a path, without which it answers nobody.
	if strings.HasPrefix(now, url+"/") {
		url = now
	}
	overlay := fmt.Appendf(nil, `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%q]
patches:
- target: {kind: Service}
  patch: |
    $patch: delete
    apiVersion: v1
    kind: Service
    metadata: {name: berth-controller, namespace: berth-system}
- target: {kind: ValidatingWebhookConfiguration}
  patch: '[{"op": "replace", "path": "/webhooks/0/clientConfig", "value": {"url": %q}}]'
`, base, url)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "kustomization.yaml"), overlay); err != nil {
		return err
	}
	args := []string{
		"apply", "--server-side", "--force-conflicts", "--field-manager=berth-cluster",
		"-k", dir,
	}
	if out, err := c.kubectl(ctx, args...); err != nil {
		return fmt.Errorf("apply %s: %w\n%s", dir, err, out)
	}
	return nil
}

func (c *cluster) startController(ctx context.Context) error {
	health := fmt.Sprintf("127.0.0.1:%d", c.ports.ControllerHealth)
	err := c.start(program{
		name: "berth-controller", path: filepath.Join(c.bin, "berth-controller"),
		args: []string{
			"--kubeconfig", c.identity("controller"),
			"--metrics-bind-address", "127.0.0.1:0",
			"--health-probe-bind-address", health,
			"--webhook-bind-address", fmt.Sprintf("127.0.0.1:%d", c.ports.ControllerWebhook),
		},
	})
	if err != nil {
		return err
	}
	return c.wait(ctx, "the controller to be ready", []string{"kube-apiserver", "berth-controller"},
		func(ctx context.Context) (bool, string) {
			err := probe(ctx, "http://"+health+"/readyz")
			return err == nil, fmt.Sprint(err)
		})
}

func (c *cluster) startAgent(ctx context.Context) error {
	began := time.Now().Truncate(time.Second)
	err := c.start(program{
		name: "berth-agent", path: filepath.Join(c.bin, "berth-agent"),
		args: []string{
			"--kubeconfig", c.identity("agent"),
			"--node-name", c.node,
			"--run-dir", c.runRoot(),
			"--state-dir", filepath.Join(c.dir, "agent"),
			"--log-dir", filepath.Join(c.dir, "agent", "log"),
			"--cgroup-parent", c.cgroup(),
			"--berth-binary", filepath.Join(c.bin, "berth"),
			"--cni-bin-dir=", // this machine's networks are not the cluster's
		},
	})
	if err != nil {
		return err
	}
	// A Ready condition of an earlier agent does not count.
	fresh := len(c.fresh) > 0 && c.fresh[len(c.fresh)-1] == "berth-agent"
	return c.wait(ctx, "NodeAgent "+c.node+" to be Ready", []string{
		"kube-apiserver",
		"berth-controller", "berth-agent",
	}, func(ctx context.Context) (bool, string) {
		var agent object
		if err := c.api.get(ctx, "/apis/berth.run/v1alpha1/nodeagents/"+c.node, &agent); err != nil {
			return false, err.Error()
		}
		if !agent.is("Ready") {
			return false, "its conditions are " + agent.conditions()
		}
		var lease struct{ Spec struct{ RenewTime time.Time } }
		if err := c.api.get(ctx, "/apis/coordination.k8s.io/v1/namespaces/"+
			v1alpha1.NodeNamespace(c.node)+"/leases/"+c.node, &lease); err != nil {
			return false, err.Error()
		}
		return !fresh || !lease.Spec.RenewTime.Before(began), "its Lease is of an earlier agent"
	})
}

// start starts one program, or leaves it running, and says which.
func (c *cluster) start(prog program) error {
	started, err := c.programs.start(prog)
	if err != nil {
		return err
	}
	rec, _, err := c.programs.find(prog.name)
	if err != nil {
		return err
	}
	if !started {
		say("%s runs already, pid %d", prog.name, rec.PID)
		return nil
	}
	c.fresh = append(c.fresh, prog.name)
	say("started %s, pid %d, log %s", prog.name, rec.PID, c.programs.logPath(prog.name))
	return nil
}

// wait polls until done says so. It gives up at once when one of the programs
// that it depends on is gone, with the end of that one's log.
func (c *cluster) wait(ctx context.Context, what string, need []string,
	done func(context.Context) (ok bool, why string),
) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	why := ""
	for {
		ok, last := done(ctx)
		if ok {
			return nil
		}
		if ctx.Err() == nil {
			why = last
		}
		for _, name := range need {
			if _, running, err := c.programs.find(name); err != nil || !running {
				return fmt.Errorf("waiting for %s: %s is gone; its log %s ends:\n%s", what, name,
					c.programs.logPath(name), c.programs.tail(name))
			}
		}
		select {
		case <-ctx.Done():
			name := need[len(need)-1]
			return fmt.Errorf("waiting for %s: %w; %s; the log %s ends:\n%s", what, context.Cause(ctx), why,
				c.programs.logPath(name), c.programs.tail(name))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// kubectl runs kubectl as the admin and returns all that it printed.
func (c *cluster) kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.assets, "kubectl"),
		append([]string{"--kubeconfig", c.kubeconfig()}, args...)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// status prints the running programs.
func (c *cluster) status() error {
	down := 0
	for _, name := range names {
		rec, running, err := c.programs.find(name)
		if err != nil {
			return err
		}
		if running {
			fmt.Printf("%-18s running, pid %d\n", name, rec.PID)
		} else {
			fmt.Printf("%-18s not running\n", name)
			down++
		}
	}
	if down > 0 {
		return fmt.Errorf("%d of %d programs do not run", down, len(names))
	}
	return nil
}
