// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestClaim: a Container waits for its claim, mounts the volume that it is bound to, and finds its
// data again. A claim in use is held.
func TestClaim(t *testing.T) {
	const sample = "config/samples/cluster/claim.yaml"
	const file = "/var/lib/berth-samples/claim/starts"
	t.Cleanup(func() { _ = os.RemoveAll("/var/lib/berth-samples") })
	t.Cleanup(func() { removeClaim(t, "counter", "berth-samples-claim") })
	cleanAfter(t, "counter")
	kube(t, "apply", "-f", sample)
	eventually(t, 3*time.Minute, func() error {
		for _, c := range get(t, "counter").Status.Conditions {
			if c.Type == "Scheduled" && c.Reason == "VolumeNotBound" {
				return nil
			}
		}
		return errors.New("it does not wait for its claim")
	})
	bindClaim(t, "counter", "berth-samples-claim")
	started := func(times string) {
		t.Helper()
		kube(t, "wait", "container/counter", "--for=condition=Ready", "--timeout=3m")
		eventually(t, 3*time.Minute, func() error {
			if text, err := os.ReadFile(file); err != nil || string(text) != times+"\n" {
				return fmt.Errorf("found %q, %v; want %s starts", text, err, times)
			}
			return nil
		})
	}
	started("1")
	kube(t, "delete", "container", "counter", "--timeout=3m")
	kube(t, "apply", "-f", sample)
	started("2")

	kube(t, "delete", "pvc", "counter", "--wait=false")
	kube(t, "patch", "pvc", "counter", "--type=json", "-p",
		`[{"op":"test","path":"/metadata/finalizers/0","value":"kubernetes.io/pvc-protection"},`+
			`{"op":"remove","path":"/metadata/finalizers/0"}]`)
	left := kube(t, "get", "pvc", "counter", "-o", "jsonpath={.metadata.finalizers}")
	if left != `["berth.run/claim-in-use"]` {
		t.Errorf("the claim of a running container has the finalizers %s", left)
	}
	kube(t, "delete", "container", "counter", "--timeout=3m")
	kube(t, "wait", "pvc/counter", "--for=delete", "--timeout=3m")
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the data: %v", err)
	}
}

// bindClaim has a claim and a volume that name each other bound. This cluster has no
// kube-controller-manager, which does it elsewhere.
func bindClaim(t *testing.T, claim, volume string) {
	t.Helper()
	uid := kube(t, "get", "pvc", claim, "-o", "jsonpath={.metadata.uid}")
	kube(t, "patch", "pv", volume, "--type=merge", "-p", `{"spec":{"claimRef":{"uid":"`+uid+`"}}}`)
	kube(t, "patch", "pvc", claim, "--type=merge", "--subresource=status", "-p",
		`{"status":{"phase":"Bound"}}`)
}

// removeClaim deletes both, and does what kube-controller-manager does for a claim that no Pod uses.
// The finalizer of Berth is the controller's to remove.
func removeClaim(t *testing.T, claim, volume string) {
	t.Helper()
	kube(t, "delete", "pvc/"+claim, "pv/"+volume, "--wait=false", "--ignore-not-found")
	for _, o := range []string{"pvc/" + claim, "pv/" + volume} {
		eventually(t, 3*time.Minute, func() error {
			left, err := tryKube("get", o, "--ignore-not-found", "-o", "jsonpath={.metadata.finalizers}")
			switch {
			case err != nil:
				return fmt.Errorf("%w: %s", err, left)
			case left == "":
				return nil
			case strings.Contains(left, "berth.run/"):
				return fmt.Errorf("%s has the finalizers %s", o, left)
			}
			out, err := tryKube("patch", o, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
			return errors.Join(err, errors.New(out))
		})
	}
}
