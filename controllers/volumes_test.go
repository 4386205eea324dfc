// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
)

// selectedNode is the annotation by which a provisioner learns the node.
const selectedNode = "volume.kubernetes.io/selected-node"

// withClaims has a Container mount claims.
func withClaims(names ...string) func(*v1alpha1.Container) {
	return func(c *v1alpha1.Container) {
		for _, name := range names {
			c.Spec.Volumes = append(c.Spec.Volumes, v1alpha1.Volume{
				Name:                  name,
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			})
			c.Spec.VolumeMounts = append(c.Spec.VolumeMounts,
				corev1.VolumeMount{Name: name, MountPath: "/" + name})
		}
	}
}

func onNode(name string) func(*v1alpha1.Container) {
	return func(c *v1alpha1.Container) { c.Spec.NodeName = name }
}

// newClaim creates a claim. It is removed with the test, past the finalizers that Kubernetes'
// controllers would remove.
func newClaim(t *testing.T, namespace, name string,
	changes ...func(*corev1.PersistentVolumeClaim),
) *corev1.PersistentVolumeClaim {
	t.Helper()
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			StorageClassName: new(""),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceStorage: resource.MustParse("1Gi"),
			}},
		},
	}
	for _, change := range changes {
		change(c)
	}
	create(t, c)
	t.Cleanup(func() { force(t, c) })
	return c
}

func modes(m ...corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes = m }
}

func ofClass(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

// force deletes an object with its finalizers.
func force(t *testing.T, o client.Object) {
	t.Helper()
	eventually(t, func() error {
		ctx := context.Background()
		err := admin.Get(ctx, client.ObjectKeyFromObject(o), o)
		if apierrors.IsNotFound(err) {
			return nil
		}
		o.SetFinalizers(nil)
		err = errors.Join(err, admin.Update(ctx, o), client.IgnoreNotFound(admin.Delete(ctx, o)))
		return errors.Join(err, errors.New("it is still there"))
	})
}

// unprotect does what kube-controller-manager does for a claim that no Pod uses.
func unprotect(t *testing.T, c *corev1.PersistentVolumeClaim) {
	t.Helper()
	eventually(t, func() error {
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(c), c)
		if err != nil {
			return client.IgnoreNotFound(err)
		}
		c.Finalizers = slices.DeleteFunc(c.Finalizers, func(f string) bool {
			return f == "kubernetes.io/pvc-protection"
		})
		return admin.Update(t.Context(), c)
	})
}

// newVolume creates a PersistentVolume of type local on a node, or of another type.
func newVolume(t *testing.T, name, node string,
	changes ...func(*corev1.PersistentVolume),
) *corev1.PersistentVolume {
	t.Helper()
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	pv.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	pv.Spec.Local = &corev1.LocalVolumeSource{Path: "/srv/" + name}
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{
				Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
			}},
		}},
	}}
	for _, change := range changes {
		change(pv)
	}
	create(t, pv)
	t.Cleanup(func() { force(t, pv) })
	return pv
}

func source(s corev1.PersistentVolumeSource) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) {
		pv.Spec.PersistentVolumeSource, pv.Spec.NodeAffinity = s, nil
	}
}

// bind does what the volume controller of kube-controller-manager does.
func bind(t *testing.T, c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
	t.Helper()
	edit(t, pv, func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{
			Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID,
		}
	})
	edit(t, c, func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = pv.Name })
	isBound(t, c)
}

func isBound(t *testing.T, c *corev1.PersistentVolumeClaim) {
	t.Helper()
	eventually(t, func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
			return err
		}
		c.Status.Phase = corev1.ClaimBound
		return admin.Status().Update(t.Context(), c)
	})
}

// boundClaim creates a claim and its volume.
func boundClaim(t *testing.T, namespace, name, node string,
	changes ...func(*corev1.PersistentVolumeClaim),
) *corev1.PersistentVolumeClaim {
	t.Helper()
	c := newClaim(t, namespace, name, changes...)
	bind(t, c, newVolume(t, namespace+"-"+name, node))
	return c
}

// TestBoundClaimsReachTheAgent: the OCIBundle has the paths of bound volumes, and the Container is on
// a node that has them.
func TestBoundClaimsReachTheAgent(t *testing.T) {
	for _, name := range []string{"node-1", "node-2", "node-3"} {
		newFakeAgent(t, name)
	}
	ns := namespace(t)
	data := boundClaim(t, ns, "data", "node-2")
	shared := newClaim(t, ns, "shared", modes(corev1.ReadOnlyMany))
	bind(t, shared, newVolume(t, ns+"-shared", "", source(corev1.PersistentVolumeSource{
		HostPath: &corev1.HostPathVolumeSource{
			Path: "/srv/shared/", Type: new(corev1.HostPathDirectoryOrCreate),
		},
	})))
	c := sample(ns, "app", withClaims("data", "shared"), func(c *v1alpha1.Container) {
		c.Spec.VolumeMounts = append(c.Spec.VolumeMounts,
			corev1.VolumeMount{Name: "data", MountPath: "/again"})
	})
	create(t, c)
	eventuallyHas(t, c, isReady, isScheduled)
	b := theBundle(t, c)
	want := []v1alpha1.BundleClaim{
		{
			Name: "data", UID: data.UID, VolumeName: ns + "-data", Kind: v1alpha1.ClaimLocal,
			Path: "/srv/" + ns + "-data", Type: corev1.HostPathDirectory,
		},
		{
			Name: "shared", UID: shared.UID, VolumeName: ns + "-shared", Kind: v1alpha1.ClaimHostPath,
			Path: "/srv/shared", Type: corev1.HostPathDirectoryOrCreate, ReadOnly: true,
		},
	}
	if b.Spec.NodeName != "node-2" || !slices.Equal(b.Spec.Claims, want) {
		t.Errorf("found node %s and %+v; want node-2 and %+v", b.Spec.NodeName, b.Spec.Claims, want)
	}
	if b.Spec.MinAgentRevision != 3 || b.Spec.Volumes[0].PersistentVolumeClaim == nil {
		t.Errorf("found revision %d and %+v", b.Spec.MinAgentRevision, b.Spec.Volumes)
	}

	// Another edit keeps the volumes, and the resources alone are changed in place.
	edit(t, c, func(c *v1alpha1.Container) { c.Spec.TerminationGracePeriodSeconds = new(int64(3)) })
	eventuallyHas(t, c, isReady)
	if b := theBundle(t, c); !slices.Equal(b.Spec.Claims, want) ||
		b.Spec.TerminationGracePeriodSeconds != 3 {
		t.Errorf("after an edit: found %+v", b.Spec)
	}

	// Two volumes that no node has together.
	boundClaim(t, ns, "other", "node-3")
	apart := sample(ns, "apart", withClaims("data", "other"))
	create(t, apart)
	eventuallyHas(t, apart, unscheduled(v1alpha1.ReasonUnschedulable,
		"had volume node affinity conflict"), isReconciling)
	pinned := sample(ns, "pinned", withClaims("data"), onNode("node-1"))
	create(t, pinned)
	eventuallyHas(t, pinned, unscheduled(v1alpha1.ReasonUnschedulable,
		"node node-1 has a volume node affinity conflict: PersistentVolume "+ns+"-data"))
	edit(t, pinned, onNode("node-2"))
	eventuallyHas(t, pinned, isReady)

	// Of another claim, the volume decides: the Container moves.
	edit(t, c, func(c *v1alpha1.Container) {
		c.Spec.Volumes[0].PersistentVolumeClaim.ClaimName = "other"
	})
	eventually(t, func() error {
		b, err := readBundle(t, c)
		if err == nil && (b.Spec.NodeName != "node-3" || b.Spec.Claims[0].Name != "other") {
			err = fmt.Errorf("found node %s and %+v", b.Spec.NodeName, b.Spec.Claims)
		}
		return err
	})
}

// TestContainerWaitsForItsClaim: a Container says what its claim lacks, with an event, and is placed
// once the claim is bound.
func TestContainerWaitsForItsClaim(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	c := sample(ns, "app", func(c *v1alpha1.Container) {
		c.Spec.Volumes = []v1alpha1.Volume{{Name: "x", EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	}, withClaims("data"))
	create(t, c)
	waits := func(message string) {
		t.Helper()
		eventuallyHas(t, c, isReconciling, unscheduled(v1alpha1.ReasonVolumeNotBound,
			"spec.volumes[1].persistentVolumeClaim: "+message),
			want{kind: v1alpha1.ConditionReady, status: metav1.ConditionFalse, contains: message})
	}
	waits("found no PersistentVolumeClaim data in namespace " + ns + ": create it")
	eventuallyEvent(t, c, "FailedScheduling")
	data := newClaim(t, ns, "data")
	waits("claim data is not bound, and has no StorageClass: create a PersistentVolume")
	pv := newVolume(t, ns+"-data", "node-a")

	// A claim alone does not get a volume: the volume has to refer to it.
	edit(t, data, func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = pv.Name })
	waits("claim data is not bound to PersistentVolume " + pv.Name + " yet")
	isBound(t, data)
	waits("claim data names PersistentVolume " + pv.Name + ", which is not bound to it")
	edit(t, pv, func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "data", UID: "another"}
	})
	eventually(t, func() error {
		now := &corev1.PersistentVolume{}
		err := cached.Get(t.Context(), client.ObjectKeyFromObject(pv), now)
		if err == nil && now.Spec.ClaimRef == nil {
			err = errors.New("the cache does not have it yet")
		}
		return err
	})
	second := sample(ns, "second", withClaims("data"))
	create(t, second)
	eventuallyHas(t, second, unscheduled(v1alpha1.ReasonVolumeNotBound,
		"claim data names PersistentVolume "+pv.Name+", which is not bound to it"))
	waits("claim data names PersistentVolume " + pv.Name + ", which is not bound to it")
	if _, err := readBundle(t, c); !apierrors.IsNotFound(err) {
		t.Errorf("it was dispatched: %v", err)
	}
	edit(t, pv, func(pv *corev1.PersistentVolume) { pv.Spec.ClaimRef.UID = data.UID })
	eventuallyHas(t, c, isReady)

	lost := sample(ns, "lost", withClaims("lost"))
	claim := newClaim(t, ns, "lost")
	create(t, lost)
	eventuallyHas(t, lost, unscheduled(v1alpha1.ReasonVolumeNotBound, "claim lost is not bound"))
	eventually(t, func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
			return err
		}
		claim.Status.Phase = corev1.ClaimLost
		return admin.Status().Update(t.Context(), claim)
	})
	eventuallyHas(t, lost, unscheduled(v1alpha1.ReasonVolumeNotBound, "claim lost has lost its volume"))
}

// TestVolumesThatAreRefused: a volume that Berth cannot mount stalls its Container with the type and
// what to do.
func TestVolumesThatAreRefused(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	block := corev1.PersistentVolumeBlock
	local := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/srv/x"}}
	for name, tc := range map[string]struct {
		volume func(*corev1.PersistentVolume)
		claim  func(*corev1.PersistentVolumeClaim)
		want   string
	}{
		"csi": {volume: source(corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: "ebs.csi.aws.com", VolumeHandle: "vol-1"},
		}), want: "of type csi (driver ebs.csi.aws.com); Berth mounts volumes of type local and hostPath"},
		"nfs": {volume: source(corev1.PersistentVolumeSource{
			NFS: &corev1.NFSVolumeSource{Server: "x", Path: "/"},
		}), want: "of type nfs; Berth mounts volumes of type local and hostPath: use a StorageClass"},
		"options": {volume: func(pv *corev1.PersistentVolume) {
			pv.Spec.MountOptions = []string{"noatime"}
		}, want: "with mountOptions; a volume of type local"},
		"block": {volume: func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeSource, pv.Spec.VolumeMode = local, &block
		}, want: "of volumeMode Block"},
		"block-claim": {claim: func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeMode = &block
		}, want: "claim block-claim has volumeMode Block; Berth mounts"},
		"relative": {volume: source(corev1.PersistentVolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: "srv/x"},
		}), want: `with the path "srv/x"; allowed: an absolute path`},
	} {
		nothing := func(*corev1.PersistentVolumeClaim) {}
		if tc.claim == nil {
			tc.claim = nothing
		}
		if tc.volume == nil {
			tc.volume = func(*corev1.PersistentVolume) {}
		}
		claim := newClaim(t, ns, name, tc.claim)
		bind(t, claim, newVolume(t, ns+"-"+name, "node-a", tc.volume))
		c := sample(ns, name, withClaims(name))
		create(t, c)
		eventuallyHas(t, c, unscheduled(v1alpha1.ReasonVolumeUnsupported, tc.want),
			want{
				kind: v1alpha1.ConditionStalled, status: metav1.ConditionTrue,
				reason: v1alpha1.ReasonVolumeUnsupported, contains: "spec.volumes[0].persistentVolumeClaim: ",
			})
	}
}

// newClass creates a StorageClass whose volumes wait for their first consumer.
func newClass(t *testing.T, name, provisioner string, zones ...string) {
	t.Helper()
	c := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner,
		VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer),
	}
	if len(zones) > 0 {
		c.AllowedTopologies = []corev1.TopologySelectorTerm{{
			MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{
				Key: corev1.LabelTopologyZone, Values: zones,
			}},
		}}
	}
	create(t, c)
	t.Cleanup(func() { force(t, c) })
}

// newNode creates the Node of an agent.
func newNode(t *testing.T, name, zone string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name:   name,
		Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: zone},
	}}
	create(t, n)
	t.Cleanup(func() { force(t, n) })
	// The API server taints a new Node as not ready, and a kubelet would remove the taint.
	edit(t, n, func(n *corev1.Node) { n.Spec.Taints = nil })
}

// TestNodeIsSelectedForANewVolume: the controller names the node in a claim that waits for its first
// consumer, waits for the volume, and places the Container there.
func TestNodeIsSelectedForANewVolume(t *testing.T) {
	for _, name := range []string{"node-1", "node-2", "node-3"} {
		newFakeAgent(t, name)
	}
	newNode(t, "node-1", "west")
	newNode(t, "node-2", "east") // node-3 has no Node
	ns := namespace(t)
	newClass(t, ns+"-local", "rancher.io/local-path", "east", "north")
	newClass(t, ns+"-static", "kubernetes.io/no-provisioner")

	data := newClaim(t, ns, "data", ofClass(ns+"-local"))
	c := sample(ns, "app", withClaims("data"))
	create(t, c)
	eventuallyHas(t, c, unscheduled(v1alpha1.ReasonVolumeNotBound,
		"claim data waits until rancher.io/local-path has created a volume on node node-2"))
	selected := func(claim *corev1.PersistentVolumeClaim) string {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
			t.Fatal(err)
		}
		return claim.Annotations[selectedNode]
	}
	if node := selected(data); node != "node-2" {
		t.Errorf("found node %q selected; want node-2", node)
	}
	bind(t, data, newVolume(t, ns+"-pvc", "node-2"))
	eventuallyHas(t, c, isReady)
	if b := theBundle(t, c); b.Spec.NodeName != "node-2" || len(b.Spec.Claims) != 1 ||
		path.Base(b.Spec.Claims[0].Path) != ns+"-pvc" {
		t.Errorf("found node %s and %+v", b.Spec.NodeName, b.Spec.Claims)
	}

	// The choice of another consumer is kept.
	chosen := newClaim(t, ns, "chosen", ofClass(ns+"-local"), func(c *corev1.PersistentVolumeClaim) {
		c.Annotations = map[string]string{selectedNode: "node-1"}
	})
	second := sample(ns, "second", withClaims("chosen"))
	create(t, second)
	eventuallyHas(t, second, unscheduled(v1alpha1.ReasonUnschedulable,
		"had volume node affinity conflict"))
	if node := selected(chosen); node != "node-1" {
		t.Errorf("found node %q selected; want node-1", node)
	}

	static := sample(ns, "static", withClaims("static"))
	create(t, static)
	newClaim(t, ns, "static", ofClass(ns+"-static"))
	eventuallyHas(t, static, unscheduled(v1alpha1.ReasonVolumeNotBound,
		`kubectl patch pvc static -p '{"spec":{"volumeName":"NAME"}}'`))
	late := sample(ns, "late", withClaims("late"))
	claim := newClaim(t, ns, "late", ofClass(ns+"-late"))
	create(t, late)
	eventuallyHas(t, late, unscheduled(v1alpha1.ReasonVolumeNotBound, "there is no StorageClass"))
	newClass(t, ns+"-late", "rancher.io/local-path")
	eventuallyHas(t, late, unscheduled(v1alpha1.ReasonVolumeNotBound, "waits until rancher.io"))
	if node := selected(claim); node != "node-1" && node != "node-2" {
		t.Errorf("found node %q selected", node)
	}
}

// TestReadWriteOncePodClaim: of many Containers with such a claim one is dispatched, and the next
// one when that is gone. An annotation that can be the name of no Container reserves nothing.
func TestReadWriteOncePodClaim(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	boundClaim(t, ns, "data", "node-a", modes(corev1.ReadWriteOncePod),
		func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{v1alpha1.AnnotationClaimUser: "../x"}
		})
	var all []*v1alpha1.Container
	for i := range 6 {
		all = append(all, sample(ns, fmt.Sprintf("app-%d", i), withClaims("data")))
		create(t, all[i])
	}
	for len(all) > 0 {
		var having []int
		eventually(t, func() error {
			having = nil
			for i, c := range all {
				now, err := read(t, c)
				if err != nil {
					return err
				}
				if _, err := readBundle(t, c); err == nil {
					having = append(having, i)
				} else if err := errors.Join(client.IgnoreNotFound(err), has(now, unscheduled(
					v1alpha1.ReasonVolumeInUse, "its access mode is ReadWriteOncePod"))); err != nil {
					return err
				}
			}
			if len(having) == 0 {
				return errors.New("none has it")
			}
			return nil
		})
		if len(having) != 1 {
			t.Fatalf("%d Containers have the claim", len(having))
		}
		first := all[having[0]]
		if err := admin.Delete(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		gone(t, first)
		all = slices.Delete(all, having[0], having[0]+1)
	}
}

// readyWithClaim returns a ready Container on node-a with its claim, data.
func readyWithClaim(t *testing.T) (*corev1.PersistentVolumeClaim, *v1alpha1.Container) {
	t.Helper()
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	data := boundClaim(t, ns, "data", "node-a")
	c := sample(ns, "app", withClaims("data"))
	create(t, c)
	eventuallyHas(t, c, isReady)
	return data, c
}

// TestClaimInUseIsHeld: a claim that is deleted stays until the container that uses it is gone, and
// gets no new users.
func TestClaimInUseIsHeld(t *testing.T) {
	data, c := readyWithClaim(t)
	ns := c.Namespace

	// The controller puts back a finalizer that somebody has removed.
	edit(t, data, func(c *corev1.PersistentVolumeClaim) {
		c.Finalizers = []string{"kubernetes.io/pvc-protection"}
	})
	eventually(t, func() error {
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(data), data)
		if err == nil && !slices.Contains(data.Finalizers, v1alpha1.ClaimFinalizer) {
			err = fmt.Errorf("found the finalizers %v", data.Finalizers)
		}
		return err
	})
	if err := admin.Delete(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	unprotect(t, data)
	late := sample(ns, "late", withClaims("data"))
	create(t, late)
	eventuallyHas(t, late, unscheduled(v1alpha1.ReasonVolumeNotBound, "claim data is being deleted"))

	// An edit of the Container that has it does not take it away.
	edit(t, c, func(c *v1alpha1.Container) { c.Spec.TerminationGracePeriodSeconds = new(int64(3)) })
	eventuallyHas(t, c, isReady)
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(data), data); err != nil ||
		data.DeletionTimestamp == nil {
		t.Fatalf("the claim is not held: %v", err)
	}
	if err := admin.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	gone(t, c)
	eventually(t, func() error {
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(data), data)
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the claim is still there: %v, %v", data.Finalizers, err)
		}
		return nil
	})
	eventuallyHas(t, late, unscheduled(v1alpha1.ReasonVolumeNotBound, "found no PersistentVolumeClaim"))
}

// TestContainerKeepsItsVolume: a claim that was made anew by force changes nothing of what runs. The
// condition says so, and the annotation has the present volume used.
func TestContainerKeepsItsVolume(t *testing.T) {
	data, c := readyWithClaim(t)
	ns := c.Namespace
	before := theBundle(t, c)
	force(t, data)
	next := newClaim(t, ns, "data")
	bind(t, next, newVolume(t, ns+"-next", "node-a"))
	changed := want{
		kind: v1alpha1.ConditionRecompileAvailable, status: metav1.ConditionTrue,
		reason: v1alpha1.ReasonVolumeChanged, contains: "not bound to the volume " + ns + "-data any more",
	}
	eventuallyHas(t, c, isReady, changed)
	if b := theBundle(t, c); b.UID != before.UID || b.Generation != before.Generation {
		t.Errorf("the OCIBundle was changed: %+v", b.Spec.Claims)
	}
	edit(t, c, func(c *v1alpha1.Container) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, v1alpha1.AnnotationRecompile, "1")
	})
	eventually(t, func() error {
		b, err := readBundle(t, c)
		if err == nil && (b.Spec.Claims[0].UID != next.UID ||
			!strings.HasSuffix(b.Spec.Claims[0].Path, ns+"-next")) {
			err = fmt.Errorf("found %+v", b.Spec.Claims)
		}
		return err
	})
	eventuallyHas(t, c, isReady, want{kind: v1alpha1.ConditionRecompileAvailable})
}
