// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestServiceAccountToken: a container has a token of its ServiceAccount for the audience that it
// asks for, which nobody but its user can read, and waits for a ServiceAccount that is not there.
// The token is in no OCIBundle.
func TestServiceAccountToken(t *testing.T) {
	cleanAfter(t, "robot")
	t.Cleanup(func() { kube(t, "delete", "serviceaccount", "robot", "--ignore-not-found") })
	apply(t, `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: robot}
spec:
  archive: {path: /var/lib/berth/archives/hello.tar}
  serviceAccountName: robot
  terminationGracePeriodSeconds: 1
  command: [/bin/sh, -c, 'stat -L -c "%a %u" /tokens/token; cat /tokens/token; echo; exec sleep 3600']
  securityContext: {runAsUser: 1000}
  volumes:
  - name: tokens
    projected: {sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}
  volumeMounts: [{name: tokens, mountPath: /tokens}]
`)
	condition(t, "robot", "Running", "CreateContainerConfigError",
		"spec.volumes[0].projected.sources[0].serviceAccountToken: token of ServiceAccount robot")
	kube(t, "create", "serviceaccount", "robot")
	var token string
	eventually(t, 3*time.Minute, func() error {
		status := get(t, "robot").Status
		if status.LogPath == "" {
			return fmt.Errorf("found %+v", status)
		}
		data, err := os.ReadFile(status.LogPath)
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		if len(lines) < 2 || !strings.HasSuffix(lines[0], " F 600 1000") {
			return fmt.Errorf("found the log %q; want the mode and the owner", lines[0])
		}
		words := strings.Fields(lines[1])
		token = words[len(words)-1]
		return nil
	})
	review := func(audience string) (out struct {
		Status struct {
			Authenticated bool
			User          struct{ Username string }
		}
	},
	) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "review.json")
		if err := os.WriteFile(file, fmt.Appendf(nil, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview",`+
			`"spec":{"token":%q,"audiences":[%q]}}`, token, audience), 0o600); err != nil {
			t.Fatal(err)
		}
		text := kube(t, "create", "-f", file, "-o", "json")
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if r := review("vault"); !r.Status.Authenticated ||
		r.Status.User.Username != "system:serviceaccount:default:robot" {
		t.Errorf("found %+v; want the ServiceAccount", r)
	}
	if r := review("other"); r.Status.Authenticated {
		t.Errorf("found %+v; want another audience refused", r)
	}
	if strings.Contains(kube(t, "get", "ocibundles", "--all-namespaces", "-o", "yaml"), token) {
		t.Error("the token is in an OCIBundle")
	}
}
