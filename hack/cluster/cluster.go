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
