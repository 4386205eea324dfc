// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/berth-run/berth/api/v1alpha1"
)

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
			// The cluster does not use this machine's networks: as long as this directory has no file,
			// containers have loopback alone.
			"--cni-conf-dir", filepath.Join(c.dir, "agent", "cni"),
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
