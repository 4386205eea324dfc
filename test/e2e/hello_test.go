// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHello follows the README: apply, wait, see, delete.
func TestHello(t *testing.T) {
	cleanAfter(t, "hello")
	kube(t, "apply", "-f", "config/samples/hello.yaml")
	kube(t, "wait", "--for=condition=Ready", "container/hello", "--timeout=3m")

	c := get(t, "hello")
	pid := c.Status.PID
	if c.Status.Phase != "Running" || pid == 0 || c.Status.NodeName == "" ||
		c.Status.ObservedGeneration != c.Generation {
		t.Fatalf("status: %+v", c.Status)
	}
	if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); exe != "/bin/busybox" {
		t.Errorf("the process runs %q", exe)
	}
	for _, ns := range []string{"pid", "net", "ipc", "uts", "mnt", "cgroup"} {
		own, _ := os.Readlink("/proc/self/ns/" + ns)
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil || own == its {
			t.Errorf("namespace %s: the container's is %q, the host's %q: %v", ns, its, own, err)
		}
	}
	if got := cgroupFile(t, pid, "memory", "memory.limit_in_bytes", "memory.max"); got != "33554432" {
		t.Errorf("memory limit: %s", got)
	}
	if got := cgroupFile(t, pid, "pids", "pids.max", "pids.max"); got != "32" {
		t.Errorf("pids limit: %s", got)
	}
	if got := cgroupFile(t, pid, "cpu", "cpu.cfs_quota_us", "cpu.max"); got != "20000" &&
		got != "20000 100000" {
		t.Errorf("cpu quota: %s", got)
	}
	status := read(t, fmt.Sprintf("/proc/%d/status", pid))
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t00000000a80425fb"} {
		// A host that lacks a capability gives one less; 27 is CAP_MKNOD, which every test host
		// has.
		if !strings.Contains(status, want) {
			t.Errorf("/proc/%d/status has no %q:\n%s", pid, want, status)
		}
	}
	eventually(t, 2*time.Minute, func() error {
		log := read(t, c.Status.LogPath)
		if !strings.Contains(log, " stdout F Hello from hello, process 1, line 1") ||
			!strings.Contains(log, "line 3") {
			return fmt.Errorf("log: %s", log)
		}
		return nil
	})
	table := kube(t, "get", "ctr")
	for _, want := range []string{"NAME", "READY", "PHASE", "NODE", "hello", "True", "Running"} {
		if !strings.Contains(table, want) {
			t.Errorf("kubectl get lacks %q:\n%s", want, table)
		}
	}
	described := kube(t, "describe", "ctr", "hello")
	for _, want := range []string{"Scheduled", "Started", "Events:"} {
		if !strings.Contains(described, want) {
			t.Errorf("kubectl describe lacks %q:\n%s", want, described)
		}
	}
	namespace, name := bundleOf(t, "hello")
	bundle := kube(t, "-n", namespace, "get", "ocibundle", name, "-o", "yaml")
	if name != "default.hello" || !strings.Contains(bundle, "ociVersion") {
		t.Errorf("the runtime spec is not to be seen in the OCIBundle %s:\n%s", name, bundle)
	}
	kube(t, "annotate", "container", "hello", "berth.run/show-compiled=")
	kube(t, "wait", "--for=jsonpath={.status.compiled.spec.config.ociVersion}", "container/hello",
		"--timeout=3m")

	kube(t, "delete", "-f", "config/samples/hello.yaml", "--timeout=3m")
	if exists(pid) {
		t.Errorf("process %d is there after delete", pid)
	}
}

// TestSamples applies every sample and waits for the end that it says of itself.
func TestSamples(t *testing.T) {
	rootfs := "/srv/berth-samples/debian"
	if _, err := os.Stat(rootfs); err == nil {
		t.Fatalf("%s is there already: this test makes and removes it", rootfs)
	}
	makeRootFS(t, rootfs)
	t.Cleanup(func() { _ = os.RemoveAll("/var/lib/berth-samples") })
	ends := map[string]struct{ kind, reason string }{
		"configfiles":     {"Ready", "Started"},
		"configuration":   {"Ready", "Started"},
		"environment":     {"Ready", "Started"},
		"fsgroup":         {"Ready", "Completed"},
		"hello":           {"Ready", "Started"},
		"imagevolume":     {"Ready", "Completed"},
		"isolated":        {"Ready", "Completed"},
		"limits":          {"Ready", "Completed"},
		"job":             {"Ready", "Completed"},
		"names":           {"Ready", "Completed"},
		"retry":           {"Ready", "Completed"},
		"rootfs":          {"Ready", "Started"},
		"sandbox":         {"Ready", "Started"},
		"securitycontext": {"Ready", "Started"},
		"volumes":         {"Ready", "Started"},
	}
	files, err := filepath.Glob(filepath.Join(root, "config/samples/*.yaml"))
	if err != nil || len(files) < 2 {
		t.Fatalf("samples: %v, %v", files, err)
	}
	var names []string
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".yaml"); name != "kustomization" {
			names = append(names, name)
		}
	}
	cleanAfter(t, names...)
	kube(t, "apply", "-k", "config/samples")
	t.Cleanup(func() {
		kube(t, "delete", "configmaps,secrets", "shop", "shop-login", "greeting", "login", "fsgroup",
			"--ignore-not-found")
	})
	for _, name := range names {
		end, ok := ends[name]
		if !ok {
			t.Errorf("sample %s has no end in this test: say what is to become of it", name)
			continue
		}
		eventually(t, 5*time.Minute, func() error {
			for _, c := range get(t, name).Status.Conditions {
				if c.Type == end.kind && c.Reason == end.reason && c.Status == "True" {
					return nil
				}
			}
			return fmt.Errorf("%s: %+v", name, get(t, name).Status)
		})
	}
	if restarts := get(t, "retry").Status.RestartCount; restarts != 2 {
		t.Errorf("retry: found %d restarts, not the 2 that it takes", restarts)
	}
	// A program that has started may not have written yet.
	for name, lines := range map[string][]string{
		"securitycontext": {
			"uid=1000(user) gid=1000(user)", "CapEff:\t0000000000000000",
			"NoNewPrivs:\t1", "Seccomp:\t2",
		},
		"environment": {"as shop with 32 MiB: environment\n"},
		"names": {
			" web\n", "# Kubernetes-managed hosts file.", "\tweb.site.default.svc\tweb names\n",
			"192.0.2.10\tdb\tdb.example.com\n", " search example.com\n", " nameserver 192.0.2.53\n",
			" options ndots:2",
		},
	} {
		path := get(t, name).Status.LogPath
		eventually(t, 2*time.Minute, func() error {
			log := read(t, path) + "\n"
			for _, want := range lines {
				if !strings.Contains(log, want) {
					return fmt.Errorf("%s: the log lacks %q:\n%s", name, want, log)
				}
			}
			return nil
		})
	}
	release := read(t, "/etc/os-release")
	eventually(t, 2*time.Minute, func() error {
		got, err := os.ReadFile("/var/lib/berth-samples/shared/node-release")
		if err == nil && strings.TrimSpace(string(got)) != release {
			err = fmt.Errorf("volumes: the file that the container wrote is %q", got)
		}
		if err == nil {
			_, err = os.Stat("/var/lib/berth-samples/shared/containers/volumes/started")
		}
		return err
	})
}

// TestMissingClusterDNS: a container that asks for the cluster's DNS starts on a node that does not
// know it, and condition and event say what it has in its place.
func TestMissingClusterDNS(t *testing.T) {
	cleanAfter(t, "cluster-first")
	apply(t, fmt.Sprintf(container, "cluster-first")+`  archive: {path: /var/lib/berth/archives/hello.tar}
  dnsPolicy: ClusterFirst
`)
	kube(t, "wait", "--for=condition=Ready", "container/cluster-first", "--timeout=3m")
	kube(t, "wait", "--for=condition=DNSConfigured=False", "container/cluster-first", "--timeout=3m")
	eventually(t, 2*time.Minute, func() error {
		described := kube(t, "describe", "ctr", "cluster-first")
		if !strings.Contains(described, "MissingClusterDNS") || !strings.Contains(described,
			"the agent of the node has no --cluster-dns") || !strings.Contains(described, "Warning") {
			return fmt.Errorf("found no event:\n%s", described)
		}
		return nil
	})
}

func makeRootFS(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		_ = os.RemoveAll(dir)
		_ = os.Remove(filepath.Dir(dir))
	})
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "cat", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/os-release"), []byte("NAME=Debian\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAgentKilled: the agent may die at any time; the container's process and its log go on, and so
// does the next agent.
func TestAgentKilled(t *testing.T) {
	cleanAfter(t, "hello")
	kube(t, "apply", "-f", "config/samples/hello.yaml")
	kube(t, "wait", "--for=condition=Ready", "container/hello", "--timeout=3m")
	before := get(t, "hello").Status
	if err := syscall.Kill(pidOf(t, "berth-agent"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n := lines(t, before.LogPath)
	eventually(t, 2*time.Minute, func() error {
		if got := lines(t, before.LogPath); got < n+2 {
			return fmt.Errorf("without an agent the log has %d lines, as many as %d before", got, n)
		}
		return nil
	})
	if out, err := cluster("up.sh"); err != nil {
		t.Fatalf("cluster-up: %v\n%s", err, out)
	}
	after := get(t, "hello").Status
	if after.PID != before.PID || after.RestartCount != before.RestartCount || !exists(before.PID) {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	// The new agent is in charge: it stops the container within its grace period.
	kube(t, "delete", "container", "hello", "--timeout=3m")
	if exists(before.PID) {
		t.Errorf("process %d is there after delete", before.PID)
	}
}

const container = `
apiVersion: berth.run/v1alpha1
kind: Container
metadata:
  name: %s
spec:
  terminationGracePeriodSeconds: 1
`

// TestBadInput: the API server refuses a fault, or a condition names it; an edit corrects it.
func TestBadInput(t *testing.T) {
	const image = "  archive: {path: /var/lib/berth/archives/hello.tar}\n"
	t.Run("refused by the API server", func(t *testing.T) {
		for name, c := range map[string]struct{ spec, want string }{
			"image and rootfs": {
				image + "  rootfs: {path: /x}\n",
				"set exactly one of image, archive and rootfs",
			},
			"unknown field": {image + "  comand: [x]\n", `unknown field "spec.comand"`},
			"privileged with devices": {
				image + "  securityContext: {privileged: true}\n  devices: [{path: /dev/fuse}]\n",
				"remove devices by path or privileged",
			},
			"limit": {
				image + "  resources: {limits: {gpu: 1}}\n",
				"limits may name cpu, memory, swap, pids, hugepages-2Mi and hugepages-1Gi only",
			},
		} {
			t.Run(name, func(t *testing.T) {
				out, err := tryApply(t, fmt.Sprintf(container, "bad")+c.spec)
				if err == nil || !strings.Contains(out, c.want) {
					t.Fatalf("found %v, %s; want %q", err, out, c.want)
				}
			})
		}
	})
	t.Run("stalled until edited", func(t *testing.T) {
		cleanAfter(t, "bad")
		apply(t, fmt.Sprintf(container, "bad")+image+
			"  command: [sleep, '1000']\n  securityContext: {capabilities: {add: [NOT_A_CAPABILITY]}}\n")
		condition(t, "bad", "Stalled", "InvalidSpec", "securityContext.capabilities.add")
		apply(t, fmt.Sprintf(container, "bad")+image+"  command: [sleep, '1000']\n")
		kube(t, "wait", "--for=condition=Ready", "container/bad", "--timeout=3m")
	})
	for name, c := range map[string]struct{ spec, kind, reason, message string }{
		"image missing": {
			"  archive: {path: /nonexistent.tar}\n", "ImageReady", "ImagePullFailed",
			"/nonexistent.tar",
		},
		"command not found": {
			image + "  command: [no-such-program]\n", "Running", "CreateFailed",
			`"no-such-program": executable file not found in $PATH`,
		},
		"mount source absent": {image +
			"  volumes: [{name: v, hostPath: {path: /nonexistent/dir, type: Directory}}]\n  volumeMounts: [{name: v, mountPath: /v}]\n", "Running", "CreateFailed", "/nonexistent/dir"},
		"rootfs missing": {
			"  rootfs: {path: /nonexistent/rootfs}\n  command: [sh]\n", "", "",
			"/nonexistent/rootfs",
		},
		"no such runtimeclass": {
			image + "  runtimeClassName: nope\n", "Scheduled",
			"RuntimeClassNotFound", "nope",
		},
		"no such node": {image + "  nodeName: nowhere\n", "Scheduled", "", "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			cleanAfter(t, "bad")
			apply(t, fmt.Sprintf(container, "bad")+c.spec)
			eventually(t, 3*time.Minute, func() error {
				conditions := get(t, "bad").Status.Conditions
				for _, cond := range conditions {
					if (c.kind == "" || cond.Type == c.kind) && (c.reason == "" || cond.Reason == c.reason) &&
						cond.Status == "False" && strings.Contains(cond.Message, c.message) {
						return nil
					}
				}
				return fmt.Errorf("no condition %s/%s with %q: %+v", c.kind, c.reason, c.message, conditions)
			})
		})
	}
}
