// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestImageVolumes: the mounts of an image's files are read-only, whatever volumeMounts say, and
// their devices and set-user-ID bits have no effect.
func TestImageVolumes(t *testing.T) {
	c := base()
	c.Spec.Volumes = []v1alpha1.Volume{
		{Name: "v", Image: &v1alpha1.ImageVolumeSource{Reference: "quay.io/team/model:1"}},
		{Name: "f", Image: &v1alpha1.ImageVolumeSource{Reference: "oci-archive:/srv/x.tar:1"}},
	}
	c.Spec.VolumeMounts = []corev1.VolumeMount{
		{Name: "v", MountPath: "/v"},
		{Name: "v", MountPath: "/r", ReadOnly: true, RecursiveReadOnly: new(corev1.RecursiveReadOnlyEnabled)},
		{Name: "v", MountPath: "/s", SubPath: "a/b"},
		{Name: "f", MountPath: "/f", BindMountOptions: []string{"nosuid", "noexec"}},
	}
	b, _ := compiled(t, c)
	if got := MinAgentRevision(b); got != 3 {
		t.Errorf("found the revision %d; want 3", got)
	}
	found := flatten(t, b)
	for path, want := range map[string]string{
		"config.mounts[/v].source":  `"images/v"`,
		"config.mounts[/v].options": `["rbind","rprivate","nodev","nosuid","ro"]`,
		"config.mounts[/r].source":  `"images/v"`,
		"config.mounts[/r].options": `["rbind","rprivate","nodev","nosuid","rro"]`,
		"config.mounts[/s].source":  `"subpaths/2"`,
		"config.mounts[/s].options": `["rbind","rprivate","nodev","nosuid","ro"]`,
		"subPaths[a/b].source":      `"images/v"`,
		"config.mounts[/f].source":  `"images/f"`,
		"config.mounts[/f].options": `["rbind","rprivate","noexec","nodev","nosuid","ro"]`,
	} {
		if found[path] != want {
			t.Errorf("%s is %s; want %s", path, found[path], want)
		}
	}
}

// TestImageVolumeFaults: what is no image is refused with the field's path, and how to write it.
func TestImageVolumeFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		image   v1alpha1.ImageVolumeSource
		path    string
		message string
	}{
		"no reference": {path: "spec.volumes[0].image.reference", message: "name an image of a registry"},
		"a file": {
			v1alpha1.ImageVolumeSource{Reference: "/srv/x.tar"},
			"spec.volumes[0].image.reference", "write oci-archive:/srv/x.tar",
		},
		"a transport that does not exist": {
			v1alpha1.ImageVolumeSource{Reference: "docker://x"},
			"spec.volumes[0].image.reference", "write oci-archive:FILE",
		},
		"the reference of an OCIBundle": {
			v1alpha1.ImageVolumeSource{Reference: "archive:/srv/x.tar"},
			"spec.volumes[0].image.reference", "write oci-archive:/PATH/OF/x.tar",
		},
		"a relative path": {
			v1alpha1.ImageVolumeSource{Reference: "oci-archive:x.tar"},
			"spec.volumes[0].image.reference", "must be absolute",
		},
		"a path upwards": {
			v1alpha1.ImageVolumeSource{Reference: "oci:/srv/../x"},
			"spec.volumes[0].image.reference", `must not contain ".."`,
		},
		"no name": {
			v1alpha1.ImageVolumeSource{Reference: "X"},
			"spec.volumes[0].image.reference", "must be a registry reference",
		},
		"a policy that does not exist": {
			v1alpha1.ImageVolumeSource{Reference: "x", PullPolicy: "Sometimes"},
			"spec.volumes[0].image.pullPolicy", `supported values: "Always", "IfNotPresent", "Never"`,
		},
	} {
		c := base()
		c.Spec.Volumes = []v1alpha1.Volume{{Name: "v", Image: &tc.image}}
		c.Spec.VolumeMounts = nil
		_, faults := Bundle(c)
		if len(faults) != 1 || faults[0].Field != tc.path ||
			!strings.Contains(faults[0].Error(), tc.message) {
			t.Errorf("%s: found %v; want a fault of %s with %q", name, faults.ToAggregate(), tc.path,
				tc.message)
		}
	}
	c := base()
	c.Spec.Volumes = []v1alpha1.Volume{{
		Name: "v", Image: &v1alpha1.ImageVolumeSource{Reference: "x"}, EmptyDir: &corev1.EmptyDirVolumeSource{},
	}}
	c.Spec.VolumeMounts = nil
	wantFault(t, c, "spec.volumes[0].image", "set exactly one of")
}

// TestVolumePullSecrets: the images of volumes get imagePullSecrets, also beside an image that no
// registry is asked for; the latter gets none.
func TestVolumePullSecrets(t *testing.T) {
	compile := func(change func(*v1alpha1.ContainerSpec), reference string) *v1alpha1.OCIBundleSpec {
		t.Helper()
		c := base()
		change(&c.Spec)
		c.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "a"}, {Name: "b"}}
		c.Spec.Volumes = append(c.Spec.Volumes, v1alpha1.Volume{
			Name: "v", Image: &v1alpha1.ImageVolumeSource{Reference: reference},
		})
		b, _ := compiled(t, c)
		return b
	}
	both := []string{"a", "b"}
	b := compile(func(*v1alpha1.ContainerSpec) {}, "x")
	if !slices.Equal(b.Image.PullSecrets, both) || !slices.Equal(b.VolumePullSecrets, both) {
		t.Errorf("an image: found %v and %v", b.Image.PullSecrets, b.VolumePullSecrets)
	}
	b = compile(func(*v1alpha1.ContainerSpec) {}, "oci:/x")
	if !slices.Equal(b.Image.PullSecrets, both) || b.VolumePullSecrets != nil {
		t.Errorf("a volume of a file: found %v and %v", b.Image.PullSecrets, b.VolumePullSecrets)
	}
	b = compile(func(s *v1alpha1.ContainerSpec) {
		s.Image, s.Archive = "", &v1alpha1.Archive{Path: "/x.tar"}
	}, "x")
	if b.Image.PullSecrets != nil || !slices.Equal(b.VolumePullSecrets, both) {
		t.Errorf("an archive: found %v and %v", b.Image.PullSecrets, b.VolumePullSecrets)
	}
	b = compile(func(s *v1alpha1.ContainerSpec) {
		s.Image, s.RootFS, s.Command = "", &v1alpha1.RootFS{Path: "/x"}, []string{"/x"}
	}, "x")
	if b.Image != nil || !slices.Equal(b.VolumePullSecrets, both) {
		t.Errorf("a rootfs: found %v and %v", b.Image, b.VolumePullSecrets)
	}
}
