// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/selinux"
)

// TestLabels: a container that asks for labels gets them into its document, or is refused on a node
// without SELinux; one that does not ask has none, on either.
func TestLabels(t *testing.T) {
	leaktest.Check(t)
	enabled := true
	stage := labelsStage{selinux.Open(t.TempDir()), func() bool { return enabled }, fstest.MapFS{}}
	ensure := func(options *corev1.SELinuxOptions) (*Container, error) {
		c := &Container{
			ID: "c", Spec: &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}},
			Bundle: &v1alpha1.OCIBundle{Spec: v1alpha1.OCIBundleSpec{
				Security: &v1alpha1.BundleSecurity{SELinuxOptions: options},
			}},
		}
		if err := stage.Ensure(t.Context(), c); err != nil {
			return c, err
		}
		return c, (&securityStage{}).Ensure(t.Context(), c)
	}
	c, err := ensure(&corev1.SELinuxOptions{Type: "container_init_t", Level: "s0:c3,c9"})
	process, file := c.Spec.Process.SelinuxLabel, c.Spec.Linux.MountLabel
	if err != nil || process != "system_u:system_r:container_init_t:s0:c3,c9" ||
		file != "system_u:object_r:container_file_t:s0:c3,c9" || c.Labels.File != file {
		t.Errorf("found %q, %q, %v", process, file, err)
	}
	if c, err := ensure(nil); err != nil || c.Spec.Process.SelinuxLabel != "" ||
		c.Spec.Linux.MountLabel != "" || c.Labels.File != "" {
		t.Errorf("without options: found %+v, %v", c.Labels, err)
	}
	enabled = false
	const want = "spec.securityContext.seLinuxOptions: found no SELinux on the node"
	if _, err := ensure(&corev1.SELinuxOptions{}); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("without SELinux: found %v; want %s", err, want)
	}
	if _, err := ensure(nil); err != nil {
		t.Errorf("without SELinux and options: %v", err)
	}
}
