// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const sleeper = `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: held}
spec:
  archive: {path: /var/lib/berth/archives/hello.tar}
  command: [/bin/sh, -c, 'exec sleep 100000']
  terminationGracePeriodSeconds: 0
`

// TestContainerIsHeld: changes of a Container's objects by tools and people do not separate it from
// its process.
func TestContainerIsHeld(t *testing.T) {
	cleanAfter(t, "held")
	apply(t, sleeper)
	kube(t, "wait", "--for=condition=Ready", "container/held", "--timeout=3m")
	pid := get(t, "held").Status.PID

	namespace, bundle := bundleOf(t, "held")
	kube(t, "-n", namespace, "patch", "ocibundle", bundle, "--subresource=status", "--type=merge",
		"-p", `{"status":{"phase":"Failed","restartCount":77,"pid":1}}`)
	eventually(t, 2*time.Minute, func() error {
		if c := get(t, "held"); c.Status.Phase != "Running" || c.Status.PID != pid ||
			c.Status.RestartCount != 0 {
			return fmt.Errorf("the status is %+v", c.Status)
		}
		return nil
	})
	kube(t, "-n", namespace, "patch", "ocibundle", bundle, "--type=merge", "-p",
		`{"metadata":{"finalizers":null}}`)
	// as kubectl replace does
	kube(t, "patch", "container", "held", "--type=merge", "-p",
		`{"metadata":{"finalizers":null,"annotations":null}}`)
	eventually(t, 2*time.Minute, func() error {
		for _, of := range [][]string{{"container", "held"}, {"-n", namespace, "ocibundle", bundle}} {
			if kube(t, append([]string{"get", "-o", "jsonpath={.metadata.finalizers}"}, of...)...) == "" {
				return fmt.Errorf("%v has no finalizer", of)
			}
		}
		if kube(t, "get", "container", "held",
			`-o=jsonpath={.metadata.annotations.berth\.run/node}`) == "" {
			return fmt.Errorf("the Container names no node")
		}
		return nil
	})
	if now := get(t, "held").Status.PID; now != pid || !exists(pid) {
		t.Errorf("process %d was replaced by %d", pid, now)
	}
	kube(t, "delete", "container", "held", "--timeout=3m")
	if exists(pid) {
		t.Errorf("process %d is there after delete", pid)
	}
}

// TestPermissionsInACluster: the policies of an installation are in force in the cluster that `make
// cluster-up` starts.
func TestPermissionsInACluster(t *testing.T) {
	kube(t, "create", "namespace", "tenant")
	t.Cleanup(func() { _, _ = tryKube("delete", "namespace", "tenant", "--wait=false") })
	refused := func(message, manifest string, args ...string) {
		t.Helper()
		eventually(t, 2*time.Minute, func() error {
			out, err := tryApply(t, manifest, args...)
			if err == nil || !strings.Contains(out, message) {
				return fmt.Errorf("found %v, %s; want %q", err, out, message)
			}
			return nil
		})
	}
	refused("no label pod-security.kubernetes.io/enforce", sleeper, "--namespace", "tenant",
		"--dry-run=server")
	refused("create a Container", `apiVersion: berth.run/v1alpha1
kind: OCIBundle
metadata: {name: own}
spec:
  nodeName: node
  restartPolicy: Always
  terminationGracePeriodSeconds: 1
  config: {ociVersion: 1.3.0}
`)
	// A path that is no image says nothing of what is there.
	cleanAfter(t, "held")
	apply(t, strings.Replace(sleeper, "/var/lib/berth/archives/hello.tar", "/etc/shadow", 1))
	condition(t, "held", "ImageReady", "ImagePullFailed", "/etc/shadow is not an image; allowed: ")
}
