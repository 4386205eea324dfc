// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/selinux"
)

// TestFSGroupThatCannotBeGiven: the error has the path of the field and the name of the volume.
func TestFSGroupThatCannotBeGiven(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.c.Bundle.Spec.Security = &v1alpha1.BundleSecurity{FSGroup: new(int64(77))}
	n.c.Bundle.Spec.Volumes = []v1alpha1.Volume{{Name: "claim"}}
	missing := filepath.Join(t.TempDir(), "missing")
	n.c.Directories = map[string]merge.Directory{"claim": {Path: missing, Untouched: true}}
	if err := (volumesStage{&shares{}}).Ensure(t.Context(), n.c); err != nil {
		t.Errorf("a volume that fsGroup does not apply to: found %v", err)
	}
	n.c.Directories = map[string]merge.Directory{"claim": {Path: missing}}
	err := volumesStage{&shares{}}.Ensure(t.Context(), n.c)
	want := "spec.securityContext.fsGroup: volume claim: lstat " + missing
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("found %v; want %s", err, want)
	}
}

// TestHostPathOfAClaimKeepsItsLabels: a claim that is bound to a hostPath has files of the node,
// which are labelled no more than those of a hostPath volume. A read-only one is its writers'.
func TestHostPathOfAClaimKeepsItsLabels(t *testing.T) {
	leaktest.Check(t)
	missing := filepath.Join(t.TempDir(), "missing")
	c := &Container{Bundle: &v1alpha1.OCIBundle{}, Labels: selinux.Labels{File: "u:r:t:s0"}}
	c.Bundle.Spec.Volumes = []v1alpha1.Volume{{
		Name: "v", PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
	}}
	for directory, want := range map[merge.Directory]string{
		{Path: missing, Untouched: true}: "",
		{Path: missing, ReadOnly: true}:  "",
		{Path: missing}:                  "spec.securityContext.seLinuxOptions: volume v: lstat " + missing,
	} {
		c.Directories = map[string]merge.Directory{"v": directory}
		err := volumesStage{}.label(t.Context(), c)
		if (err != nil) != (want != "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: found %v; want %q", directory, err, want)
		}
	}
}

// TestFSGroupOfALink: an administrator may put a link in the place of a volume.
func TestFSGroupOfALink(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Mkdir(filepath.Join(dir, "there"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("there", link); err != nil {
		t.Fatal(err)
	}
	c := &Container{Bundle: &v1alpha1.OCIBundle{}}
	c.Bundle.Spec.Security = &v1alpha1.BundleSecurity{FSGroup: new(int64(77))}
	c.Bundle.Spec.Volumes = []v1alpha1.Volume{{Name: "v"}}
	c.Directories = map[string]merge.Directory{"v": {Path: link}}
	if err := giveVolumes(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(link, &st); err != nil || st.Gid != 77 {
		t.Errorf("found group %d, %v; want 77", st.Gid, err)
	}
}
