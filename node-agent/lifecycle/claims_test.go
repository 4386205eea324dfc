// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/volume"
)

// claimsOfManifests has the access mode of each claim of the namespace default; nil is not read yet.
type claimsOfManifests map[string]corev1.PersistentVolumeAccessMode

func (c claimsOfManifests) Unread(string, []environment.Object) error {
	if c == nil {
		return errors.New("not read yet")
	}
	return nil
}

func (c claimsOfManifests) AccessModes(namespace, name string) (
	[]corev1.PersistentVolumeAccessMode, bool,
) {
	mode, ok := c[name]
	return []corev1.PersistentVolumeAccessMode{mode}, ok && namespace == "default"
}

// claimant returns a container with a volume of a claim.
func claimant(t *testing.T, stateDir, name, claim string) *Container {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(stateDir, "bundles", name), 0o700); err != nil {
		t.Fatal(err)
	}
	b := &v1alpha1.OCIBundle{}
	b.Namespace, b.Name = "default", name
	b.Spec.ContainerRef = &v1alpha1.ContainerReference{Name: name}
	b.Spec.Volumes = []v1alpha1.Volume{{Name: "v"}}
	if claim != "" {
		b.Spec.Volumes[0].PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{
			ClaimName: claim,
		}
	}
	return &Container{Key: source.Key{Namespace: "default", Name: name}, ID: name, Bundle: b}
}

// TestClaims: a container gets the directory of its claim, waits for one that is not there or that
// another one has, and is woken once that is removed. No data are removed.
func TestClaims(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	var woken []string
	s := claimsStage{
		claims: claimsOfManifests{
			"many": corev1.ReadWriteMany, "one": corev1.ReadWriteOncePod, "fixed": corev1.ReadOnlyMany,
		},
		volumes: volume.Open(dir),
		waiters: &waiters{
			wake: func(key source.Key) { woken = append(woken, key.Name) },
			keys: map[source.Key]bool{},
		},
	}
	waits := func(s claimsStage, c *Container, reason, message string) {
		t.Helper()
		var pending *Pending
		err := s.Ensure(t.Context(), c)
		if !errors.As(err, &pending) || pending.Condition != v1alpha1.ConditionRunning ||
			pending.Reason != reason || !strings.Contains(pending.Message, message) {
			t.Errorf("found %v; want to wait: %s, %s", err, reason, message)
		}
	}
	const at = "spec.volumes[0].persistentVolumeClaim.claimName: "
	unread := s
	unread.claims = claimsOfManifests(nil)
	waits(unread, claimant(t, dir, "a", "many"), v1alpha1.ReasonProgressing, "not read yet")
	waits(s, claimant(t, dir, "a", "none"), v1alpha1.ReasonConfigMissing,
		at+"found no PersistentVolumeClaim none")
	for claim, readOnly := range map[string]bool{"many": false, "one": false, "fixed": true} {
		for range 2 {
			c := claimant(t, dir, "a", claim)
			if err := s.Ensure(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if got := c.Directories["v"]; got.Path != filepath.Join(dir, "volumes/default", claim) ||
				got.ReadOnly != readOnly {
				t.Errorf("%s: found %+v", claim, got)
			}
		}
	}
	if err := s.Ensure(t.Context(), claimant(t, dir, "a", "one")); err != nil {
		t.Fatal(err)
	}
	waits(s, claimant(t, dir, "b", "one"), v1alpha1.ReasonVolumeInUse,
		at+"found the PersistentVolumeClaim one, which the Container a has")
	file := filepath.Join(dir, "volumes/default/one/file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Release(t.Context(), &Container{ID: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(woken) != "[b]" {
		t.Errorf("found %v woken; want b, once", woken)
	}
	if err := s.Ensure(t.Context(), claimant(t, dir, "b", "one")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the data: %v", err)
	}
}

// TestClaimsOfACluster: an agent of a cluster mounts the volumes that the OCIBundle names, after it
// has looked at them by the type of the PersistentVolume.
func TestClaimsOfACluster(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const at = "spec.volumes[0].persistentVolumeClaim: "
	for name, tc := range map[string]struct {
		claim v1alpha1.BundleClaim
		want  merge.Directory
		fault string
	}{
		"local": {
			v1alpha1.BundleClaim{Kind: "local", Path: dir, Type: corev1.HostPathDirectory},
			merge.Directory{Path: dir},
			"",
		},
		"read-only": {
			v1alpha1.BundleClaim{Kind: "local", Path: dir, ReadOnly: true},
			merge.Directory{Path: dir, ReadOnly: true},
			"",
		},
		"hostPath": {
			v1alpha1.BundleClaim{
				Kind: "hostPath", Path: dir + "/new", Type: corev1.HostPathDirectoryOrCreate,
			},
			merge.Directory{Path: dir + "/new", Untouched: true},
			"",
		},
		"nothing there": {
			v1alpha1.BundleClaim{Kind: "local", Path: dir + "/none", Type: corev1.HostPathDirectory},
			merge.Directory{},
			at + "PersistentVolume pv: spec.local.path: found nothing at " + dir + "/none" +
				" on this node; allowed: a directory",
		},
		"no directory": {
			v1alpha1.BundleClaim{Kind: "local", Path: file, Type: corev1.HostPathDirectory},
			merge.Directory{},
			at + "PersistentVolume pv: spec.local.path: found " + file +
				" (a regular file); allowed: a directory",
		},
		"another claim": {
			v1alpha1.BundleClaim{Name: "x", Kind: "local", Path: dir},
			merge.Directory{},
			at + "found no volume of claim data in claims",
		},
	} {
		c := claimant(t, dir, "a", "data")
		tc.claim.VolumeName = "pv"
		if tc.claim.Name == "" {
			tc.claim.Name = "data"
		}
		c.Bundle.Spec.Claims = []v1alpha1.BundleClaim{tc.claim}
		err := claimsStage{}.Ensure(t.Context(), c)
		switch {
		case tc.fault == "" && (err != nil || c.Directories["v"] != tc.want):
			t.Errorf("%s: found %+v, %v; want %+v", name, c.Directories["v"], err, tc.want)
		case tc.fault != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.fault)):
			t.Errorf("%s: found %v; want %s", name, err, tc.fault)
		}
		if err := (claimsStage{}).Release(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(dir + "/new"); err != nil || !info.IsDir() {
		t.Errorf("the directory to create: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("Release: %v", err)
	}
	c := claimant(t, dir, "a", "")
	if err := (claimsStage{}).Ensure(t.Context(), c); err != nil || len(c.Directories) > 0 {
		t.Errorf("no claim: found %v, %v", c.Directories, err)
	}
}
