// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestForcedDeletion: a program that ignores SIGTERM ends as soon as the user says, not when its
// own grace period is over.
func TestForcedDeletion(t *testing.T) {
	const deaf = `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: NAME}
spec:
  archive: {path: /var/lib/berth/archives/hello.tar}
  command: [/bin/sh, -c, 'trap "" TERM; while :; do sleep 1; done']
  terminationGracePeriodSeconds: 300
`
	cases := map[string][][]string{
		"forced":    {{"--force", "--grace-period=0"}},
		"now":       {{"--now"}},
		"shortened": {{"--grace-period=2"}},
		"late":      {{"--wait=false"}, {"--force", "--grace-period=0"}},
	}
	for name, deletions := range cases {
		t.Run(name, func(t *testing.T) {
			cleanAfter(t, name)
			apply(t, strings.Replace(deaf, "NAME", name, 1))
			kube(t, "wait", "--for=condition=Ready", "container/"+name, "--timeout=3m")
			pid := get(t, name).Status.PID
			began := time.Now()
			for _, flags := range deletions {
				kube(t, append([]string{"delete", "container", name}, flags...)...)
			}
			eventually(t, 2*time.Minute, func() error {
				if exists(pid) {
					return fmt.Errorf("process %d is still there", pid)
				}
				if out, err := tryKube("get", "container", name); err == nil {
					return fmt.Errorf("the Container is still there: %s", out)
				}
				return nil
			})
			t.Logf("gone in %.1f s", time.Since(began).Seconds())
		})
	}
}
