// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the tests of the whole system as its users have it: `make cluster-up`, kubectl,
// and what the kernel says of the result. They need root, the programs in bin/, and
// KUBEBUILDER_ASSETS for kubectl.
package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	berthv1 "github.com/berth-run/berth/api/v1alpha1"
)

var (
	root  string // of the checkout
	state string // of the cluster
	// of the cluster: the name of its cgroup and of its directory in /run, which hack/cluster derives
	// from state
	id      string
	kubectl string
)

// isolated says that the test binary is in a network namespace of its own.
const isolated = "BERTH_E2E_NETWORK_NAMESPACE"

// TestMain has the cluster and the tests in a network namespace of their own, whose bridges, ports
// and rules go with them.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(isolated) == "" {
		err := enterNetworkNamespace()
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// enterNetworkNamespace executes the test binary again in a new network namespace. It returns only
// if that fails.
func enterNetworkNamespace() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), isolated+"=1"))
}

func run(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("containers need root; found uid %d", os.Geteuid())
	}
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		return 1, fmt.Errorf(
			"KUBEBUILDER_ASSETS is not set; run `make test-e2e`, or export KUBEBUILDER_ASSETS=$(hack/controlplane/build.sh)")
	}
	kubectl = filepath.Join(assets, "kubectl")
	if root, err = filepath.Abs("../.."); err != nil {
		return 1, err
	}
	if state, err = os.MkdirTemp("", "berth-e2e-"); err != nil {
		return 1, err
	}
	state = filepath.Join(state, "cluster")
	defer os.RemoveAll(filepath.Dir(state))
	id = fmt.Sprintf("berth-cluster-%.4x", sha256.Sum256([]byte(state)))
	// All processes of the cluster inherit it, by which leftovers finds them.
	if err := os.Setenv("BERTH_CLUSTER_DIR", state); err != nil {
		return 1, err
	}
	if out, err := cluster("up.sh"); err != nil {
		return 1, fmt.Errorf("cluster-up: %w\n%s", err, out)
	}
	// Else a search by another name would find nothing at the end, either.
	if found := leftovers(); found.Cgroups == 0 || found.Netns == 0 || found.Processes < 3 {
		return 1, fmt.Errorf(
			"a cluster that runs: found %+v; want a cgroup, a network namespace, and the processes of agent, controller and supervisor", found)
	}
	code = m.Run()
	if code != 0 {
		for _, name := range []string{"berth-agent", "berth-controller"} {
			out, _ := exec.Command("tail", "-n", "40", filepath.Join(state, "log", name+
				".log")).CombinedOutput()
			fmt.Printf("--- the end of %s.log:\n%s", name, out)
		}
	}
	if out, err := cluster("down.sh"); err != nil {
		return 1, fmt.Errorf("cluster-down: %w\n%s", err, out)
	}
	if left := leftovers(); left != (counts{}) {
		return 1, fmt.Errorf("cluster-down left something over: %+v", left)
	}
	return code, nil
}

func cluster(script string) (string, error) {
	cmd := exec.Command(filepath.Join(root, "hack/cluster", script))
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// counts has the numbers of things that a container may leave on a node.
type counts struct {
	Mounts, Cgroups, Netns int
	Processes              int
}

// leftovers counts what this cluster has on the machine: mounts of this mount namespace, cgroups in
// every hierarchy, the processes and network namespaces in those, and the processes of Berth's own
// programs. Others on the machine have the same at the same time.
func leftovers() counts {
	var c counts
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		// the directories of config/samples
		if mentionsCluster(line) || strings.Contains(line, "/berth-samples/") {
			c.Mounts++
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, id) {
			c.Cgroups++
		}
		return nil
	})
	netns := map[string]bool{}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		groups, _ := os.ReadFile(p + "/cgroup")
		if ns, err := os.Readlink(p + "/ns/net"); err == nil && strings.Contains(string(groups), id) {
			netns[ns] = true
			c.Processes++
		}
		exe, err := os.Readlink(p + "/exe")
		args, _ := os.ReadFile(p + "/cmdline")
		environ, _ := os.ReadFile(p + "/environ")
		if err == nil && strings.HasPrefix(exe, filepath.Join(root, "bin")+"/") &&
			(mentionsCluster(string(args)) || mentionsCluster(string(environ))) {
			c.Processes++
		}
	}
	c.Netns = len(netns)
	return c
}

// mentionsCluster reports whether a text has the name of this cluster's state directory, or its id.
func mentionsCluster(text string) bool {
	return strings.Contains(text, filepath.Base(filepath.Dir(state))+"/") || strings.Contains(text, id)
}

// kube runs kubectl as the cluster's administrator and returns what it prints.
func kube(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryKube(args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryKube(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, kubectl,
		append([]string{"--kubeconfig", filepath.Join(state, "kubeconfig")}, args...)...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// apply applies a manifest given as text.
func apply(t *testing.T, manifest string) {
	t.Helper()
	if out, err := tryApply(t, manifest); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

func tryApply(t *testing.T, manifest string, args ...string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	return tryKube(append([]string{"apply", "-f", file}, args...)...)
}

func get(t *testing.T, name string) *berthv1.Container {
	t.Helper()
	c := &berthv1.Container{}
	if err := json.Unmarshal([]byte(kube(t, "get", "container", name, "-o", "json")), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// bundleOf returns the namespace and the name of a Container's OCIBundle.
func bundleOf(t *testing.T, container string) (namespace, name string) {
	t.Helper()
	namespace, name, _ = strings.Cut(get(t, container).Status.Bundle, "/")
	return namespace, name
}

// eventually waits until what says that all is as it should be, or fails with its last complaint.
func eventually(t *testing.T, within time.Duration, what func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := what()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still: %v", within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// condition waits for a condition of a Container with a reason and a text in its message.
func condition(t *testing.T, name, kind, reason, message string) {
	t.Helper()
	eventually(t, 3*time.Minute, func() error {
		c := get(t, name)
		for _, cond := range c.Status.Conditions {
			if cond.Type == kind && cond.Reason == reason && strings.Contains(cond.Message, message) {
				return nil
			}
		}
		return fmt.Errorf("%s: no condition %s with reason %s and %q in: %+v", name, kind, reason,
			message, c.Status.Conditions)
	})
}

// cleanAfter deletes a Container at the end of the test and checks that nothing is left of it.
func cleanAfter(t *testing.T, names ...string) {
	t.Helper()
	var before counts
	eventually(t, 2*time.Minute, func() error { // a process of a moment is none of the cluster's
		before = leftovers()
		time.Sleep(300 * time.Millisecond)
		if now := leftovers(); now != before {
			return fmt.Errorf("the cluster does not come to rest: %+v, then %+v", before, now)
		}
		return nil
	})
	t.Cleanup(func() {
		for _, name := range names {
			kube(t, "delete", "container", name, "--timeout=3m", "--ignore-not-found")
		}
		eventually(t, 3*time.Minute, func() error {
			if after := leftovers(); after != before {
				return fmt.Errorf("left over after delete: before %+v, after %+v", before, after)
			}
			return nil
		})
		for _, dir := range []string{"agent/state/bundles", "agent/log"} {
			entries, _ := filepath.Glob(filepath.Join(state, dir, "*"))
			for _, e := range entries {
				for _, name := range names {
					if strings.Contains(filepath.Base(e), "_"+name+"_") {
						t.Errorf("left over after delete: %s", e)
					}
				}
			}
		}
		out := kube(t, "get", "ocibundles", "--all-namespaces", "-o", "name")
		if strings.TrimSpace(out) != "" {
			t.Errorf("left over after delete: %s", out)
		}
	})
}

// cgroupFile reads a file of a process's cgroup: by controller on version 1, by the unified path on
// version 2.
func cgroupFile(t *testing.T, pid int64, controller, v1, v2 string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	unified := ""
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		f := strings.SplitN(line, ":", 3)
		if f[0] == "0" {
			unified = f[2]
		}
		for _, c := range strings.Split(f[1], ",") {
			if c == controller {
				return read(t, filepath.Join("/sys/fs/cgroup", f[1], f[2], v1))
			}
		}
	}
	return read(t, filepath.Join("/sys/fs/cgroup", unified, v2))
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// pidOf reads the pid that the cluster's own tool keeps of one of its programs.
func pidOf(t *testing.T, program string) int {
	t.Helper()
	var rec struct{ PID int }
	err := json.Unmarshal([]byte(read(t, filepath.Join(state, "run", program+".json"))), &rec)
	if err != nil {
		t.Fatal(err)
	}
	return rec.PID
}

func lines(t *testing.T, path string) int {
	t.Helper()
	return strings.Count(read(t, path)+"\n", "\n")
}

func exists(pid int64) bool {
	_, err := os.Stat("/proc/" + strconv.FormatInt(pid, 10))
	return err == nil
}
