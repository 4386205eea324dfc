// SPDX-License-Identifier: Apache-2.0

package access

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
)

func secretVolume(name string) v1alpha1.Volume {
	return v1alpha1.Volume{Name: "v", Secret: &corev1.SecretVolumeSource{SecretName: name}}
}

func tokenVolume() v1alpha1.Volume {
	return v1alpha1.Volume{Name: "t", Projected: &v1alpha1.ProjectedVolumeSource{
		Sources: []v1alpha1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		},
	}}
}

func secretVariable(name string) corev1.EnvVar {
	return corev1.EnvVar{Name: "E", ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: "k",
		},
	}}
}

func configMapSource(name string) corev1.EnvFromSource {
	return corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name},
	}}
}

// bundle returns an OCIBundle of a Container in the namespace team that is on node a.
func bundle(change func(*v1alpha1.OCIBundle)) v1alpha1.OCIBundle {
	b := v1alpha1.OCIBundle{
		ObjectMeta: metav1.ObjectMeta{Namespace: "berth-node-a", Name: "team.c"},
		Spec: v1alpha1.OCIBundleSpec{
			NodeName:     "a",
			ContainerRef: &v1alpha1.ContainerReference{Namespace: "team", Name: "c", UID: "1"},
		},
	}
	change(&b)
	return b
}

// TestRules: a Role has each name once and sorted, and none that would allow more than one object.
func TestRules(t *testing.T) {
	bundles := []v1alpha1.OCIBundle{
		bundle(func(b *v1alpha1.OCIBundle) {
			b.Spec.Process.Env = []corev1.EnvVar{
				secretVariable("b"), secretVariable(""), secretVariable("*"),
				{Name: "PLAIN", Value: "x"},
			}
			b.Spec.Process.EnvFrom = []corev1.EnvFromSource{configMapSource("z"), configMapSource("")}
		}),
		bundle(func(b *v1alpha1.OCIBundle) {
			b.Spec.Process.EnvFrom = []corev1.EnvFromSource{configMapSource("y")}
			b.Spec.Image = &v1alpha1.BundleImage{PullSecrets: []string{"pull", "", "b"}}
			b.Spec.VolumePullSecrets = []string{"pull", "volume"}
			b.Spec.Volumes = []v1alpha1.Volume{
				secretVolume("a"), secretVolume("b"), secretVolume(""), secretVolume("../x"), tokenVolume(),
			}
			b.Spec.ServiceAccountName = "robot"
		}),
	}
	rule := func(resource string, names ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{
			APIGroups: []string{""}, Resources: []string{resource}, ResourceNames: names,
			Verbs: []string{"get", "list", "watch"},
		}
	}
	token := rule("serviceaccounts/token", "robot")
	token.Verbs = []string{"create"}
	want := []rbacv1.PolicyRule{
		rule("configmaps", "y", "z"), rule("secrets", "a", "b", "pull", "volume"), token,
	}
	if got := rulesFor(bundles); !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("found %+v; want %+v", got, want)
	}
	if got := rulesFor(bundles[1:]); !equality.Semantic.DeepEqual(got, []rbacv1.PolicyRule{
		rule("configmaps", "y"), rule("secrets", "a", "b", "pull", "volume"), token,
	}) {
		t.Errorf("of the second alone: found %+v", got)
	}
	if got := rulesFor(nil); got != nil {
		t.Errorf("of none: found %+v", got)
	}
}

// TestNoTokenUnasked: a ServiceAccount whose tokens no volume has is in no rule, and neither are
// Berth's own and names that would allow all.
func TestNoTokenUnasked(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.OCIBundle){
		"no volume": func(b *v1alpha1.OCIBundle) { b.Spec.Volumes = nil },
		"no name":   func(b *v1alpha1.OCIBundle) { b.Spec.ServiceAccountName = "" },
		"all":       func(b *v1alpha1.OCIBundle) { b.Spec.ServiceAccountName = "*" },
		"agents":    func(b *v1alpha1.OCIBundle) { b.Spec.ContainerRef.Namespace = "berth-nodes" },
		"controller": func(b *v1alpha1.OCIBundle) {
			b.Spec.ContainerRef.Namespace, b.Spec.ServiceAccountName = "berth-system", "berth-controller"
		},
	} {
		b := bundle(func(b *v1alpha1.OCIBundle) {
			b.Spec.ServiceAccountName, b.Spec.Volumes = "robot", []v1alpha1.Volume{tokenVolume()}
			change(b)
		})
		if got := rulesFor([]v1alpha1.OCIBundle{b}); got != nil || keyOf(&b) != (client.ObjectKey{}) {
			t.Errorf("%s: found %+v for %v", name, got, keyOf(&b))
		}
	}
}

// TestKeyOfARole: the objects are in the namespace of the Container, and the Role with them.
func TestKeyOfARole(t *testing.T) {
	names := func(b *v1alpha1.OCIBundle) { b.Spec.Volumes = []v1alpha1.Volume{secretVolume("s")} }
	for name, tc := range map[string]struct {
		change func(*v1alpha1.OCIBundle)
		want   client.ObjectKey
	}{
		"names a Secret": {names, client.ObjectKey{Namespace: "team", Name: "berth-node-a"}},
		"names nothing":  {func(*v1alpha1.OCIBundle) {}, client.ObjectKey{}},
		"names what no object is called": {
			func(b *v1alpha1.OCIBundle) { b.Spec.Volumes = []v1alpha1.Volume{secretVolume("")} },
			client.ObjectKey{},
		},
		"is being deleted": {
			func(b *v1alpha1.OCIBundle) {
				names(b)
				b.DeletionTimestamp = ptr.To(metav1.Now())
			},
			client.ObjectKey{Namespace: "team", Name: "berth-node-a"},
		},
		"is of a node with a long name": {
			func(b *v1alpha1.OCIBundle) {
				names(b)
				b.Spec.NodeName = "ip-10-0-0-1.ec2.internal"
			},
			client.ObjectKey{Namespace: "team", Name: "berth-node-ip-10-0-0-1-ec2-internal-f8d8022819"},
		},
		"is of a former controller": {
			func(b *v1alpha1.OCIBundle) {
				names(b)
				b.Namespace, b.Name, b.Spec.ContainerRef = "team", "c", nil
				b.OwnerReferences = []metav1.OwnerReference{{
					APIVersion: v1alpha1.GroupVersion.String(), Kind: "Container", Name: "c", UID: "1",
					Controller: ptr.To(true),
				}}
			},
			client.ObjectKey{Namespace: "team", Name: "berth-node-a"},
		},
		"belongs to no Container": {
			func(b *v1alpha1.OCIBundle) {
				names(b)
				b.Spec.ContainerRef = nil
			},
			client.ObjectKey{},
		},
		"belongs to a Container among those of a node": {
			func(b *v1alpha1.OCIBundle) {
				names(b)
				b.Spec.ContainerRef.Namespace = "berth-node-b"
			},
			client.ObjectKey{},
		},
	} {
		b := bundle(tc.change)
		if got := keyOf(&b); got != tc.want {
			t.Errorf("%s: found %v; want %v", name, got, tc.want)
		}
	}
}
