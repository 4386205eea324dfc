// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/scheduling"
)

// The controller resolves the PersistentVolumeClaims of a Container when it places it: the
// OCIBundle has the path of each volume, and keeps it as it keeps the rest of its spec. Kubernetes'
// own controllers bind claims and create volumes. This controller only names the node of a volume
// that waits for its first consumer, as kube-scheduler does for a Pod.

// claimed is a PersistentVolumeClaim that a Container names.
type claimed struct {
	// at is the first field that names it.
	at    string
	claim *corev1.PersistentVolumeClaim
	// bound is the claim in the OCIBundle; nil if its volume is to be created for a node.
	bound *v1alpha1.BundleClaim
	// provisioner is the name of the program that creates it.
	provisioner string
}

// exclusive reports whether one Container at a time may have the claim.
func exclusive(c *corev1.PersistentVolumeClaim) bool {
	return slices.Contains(c.Spec.AccessModes, corev1.ReadWriteOncePod)
}

// claimNames returns the names of the claims of a Container.
func claimNames(c *v1alpha1.Container) []string {
	var out []string
	for _, v := range c.Spec.Volumes {
		if p := v.PersistentVolumeClaim; p != nil && !slices.Contains(out, p.ClaimName) {
			out = append(out, p.ClaimName)
		}
	}
	return out
}

// resolveVolumes finds the volumes of the Container's claims, and adds to the request the nodes on
// which they are. It returns why the Container has to wait for one, or nil.
func (r *Reconciler) resolveVolumes(ctx context.Context, s *scope, q *scheduling.Request) (*verdict,
	error,
) {
	s.volumes = nil
	for i, v := range s.container.Spec.Volumes {
		p := v.PersistentVolumeClaim
		if p == nil || slices.ContainsFunc(s.volumes, func(c claimed) bool {
			return c.claim.Name == p.ClaimName
		}) {
			continue
		}
		c := claimed{at: fmt.Sprintf("spec.volumes[%d].persistentVolumeClaim", i)}
		wait, err := r.resolveClaim(ctx, s, &c, p.ClaimName, q)
		if err != nil || wait != nil {
			return wait, err
		}
		s.volumes = append(s.volumes, c)
	}
	return nil, nil
}

// resolveClaim resolves one claim.
func (r *Reconciler) resolveClaim(ctx context.Context, s *scope, c *claimed, name string,
	q *scheduling.Request,
) (*verdict, error) {
	key := client.ObjectKey{Namespace: s.container.Namespace, Name: name}
	c.claim = &corev1.PersistentVolumeClaim{}
	if err := r.Client.Get(ctx, key, c.claim); apierrors.IsNotFound(err) {
		return c.waits("found no PersistentVolumeClaim %s in namespace %s: create it", name,
			key.Namespace), nil
	} else if err != nil {
		return nil, fmt.Errorf("read PersistentVolumeClaim %s: %w", key, err)
	}
	if wait := c.unusable(s); wait != nil {
		return wait, nil
	}
	if c.claim.Status.Phase != corev1.ClaimBound || c.claim.Spec.VolumeName == "" {
		return r.resolveUnbound(ctx, c, q)
	}
	// An absent PersistentVolume stays empty, and so is not bound to the claim.
	pv := &corev1.PersistentVolume{}
	err := r.Client.Get(ctx, client.ObjectKey{Name: c.claim.Spec.VolumeName}, pv)
	if err = client.IgnoreNotFound(err); err != nil {
		return nil, fmt.Errorf("read PersistentVolume %s: %w", c.claim.Spec.VolumeName, err)
	}
	// Everyone who may create claims may write any name into spec.volumeName. Only an administrator or
	// Kubernetes can write the claim into the volume.
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != c.claim.UID {
		return c.waits("claim %s names PersistentVolume %s, which is not bound to it", name,
			c.claim.Spec.VolumeName), nil
	}
	bound, why := mountable(pv)
	if why != "" {
		return c.refused("claim %s is bound to the volume %s%s", name, pv.Name, why), nil
	}
	bound.Name, bound.UID = name, c.claim.UID
	bound.ReadOnly = !slices.ContainsFunc(c.claim.Spec.AccessModes,
		func(m corev1.PersistentVolumeAccessMode) bool { return m != corev1.ReadOnlyMany })
	c.bound = bound
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil {
		if err := restrict(q, "PersistentVolume "+pv.Name, a.Required); err != nil {
			return nil, err
		}
	}
	if !exclusive(c.claim) {
		return nil, nil
	}
	other, err := r.otherUser(ctx, s, c.claim, false)
	if err != nil || other == "" {
		return nil, err
	}
	return c.inUse(s, other), nil
}

// unusable returns why a claim can never have a volume for this Container, or nil.
func (c *claimed) unusable(s *scope) *verdict {
	claim := c.claim
	has := s.bundle != nil && slices.ContainsFunc(s.bundle.Spec.Claims,
		func(b v1alpha1.BundleClaim) bool { return b.UID == claim.UID })
	switch mode := claim.Spec.VolumeMode; {
	case claim.DeletionTimestamp != nil && !has:
		return c.waits("claim %s is being deleted: create it again once it is gone, or name another",
			claim.Name)
	case mode != nil && *mode == corev1.PersistentVolumeBlock:
		return c.refused(
			"claim %s has volumeMode Block; Berth mounts volumes of volumeMode Filesystem: for a block device use devices",
			claim.Name)
	case claim.Status.Phase == corev1.ClaimLost:
		return c.waits("claim %s has lost its volume %s: delete it and create another", claim.Name,
			claim.Spec.VolumeName)
	}
	return nil
}

// resolveUnbound returns the reason to wait for the binding of a claim. It returns nil if the
// volume is to be created for the Container's node, which has to be chosen first.
func (r *Reconciler) resolveUnbound(ctx context.Context, c *claimed, q *scheduling.Request) (
	*verdict, error,
) {
	name := c.claim.Name
	if c.claim.Spec.VolumeName != "" {
		return c.waits("claim %s is not bound to PersistentVolume %s yet: kubectl describe pvc %s says why",
			name, c.claim.Spec.VolumeName, name), nil
	}
	class := classOf(c.claim)
	if class == "" {
		return c.waits("claim %s is not bound, and has no StorageClass: create a PersistentVolume for it",
			name), nil
	}
	sc := &storagev1.StorageClass{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: class}, sc); apierrors.IsNotFound(err) {
		return c.waits("claim %s is not bound: there is no StorageClass %s", name, class), nil
	} else if err != nil {
		return nil, fmt.Errorf("read StorageClass %s: %w", class, err)
	}
	if m := sc.VolumeBindingMode; m == nil || *m != storagev1.VolumeBindingWaitForFirstConsumer {
		return c.waits("claim %s is not bound to a volume yet: kubectl describe pvc %s says why", name,
			name), nil
	}
	if sc.Provisioner == volumehelpers.NotSupportedProvisioner {
		return c.waits("claim %s is not bound, and nobody binds claims of StorageClass %s, which has no "+
			"provisioner, to a volume but kube-scheduler for a Pod: name the PersistentVolume in its "+
			`spec.volumeName (kubectl patch pvc %s -p '{"spec":{"volumeName":"NAME"}}')`, name, class,
			name), nil
	}
	c.provisioner, q.Provision = sc.Provisioner, true
	if len(sc.AllowedTopologies) > 0 {
		if err := restrict(q, "StorageClass "+class, topologies(sc.AllowedTopologies)); err != nil {
			return nil, err
		}
	}
	if node := c.claim.Annotations[volumehelpers.AnnSelectedNode]; node != "" {
		return nil, restrict(q, "PersistentVolumeClaim "+name, &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchFields: []corev1.NodeSelectorRequirement{{
					Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
				}},
			}},
		})
	}
	return nil, nil
}

// classOf returns the name of a claim's StorageClass, or "".
func classOf(c *corev1.PersistentVolumeClaim) string {
	class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]
	if ok || c.Spec.StorageClassName == nil {
		return class
	}
	return *c.Spec.StorageClassName
}

// restrict adds to a request the nodes that a volume can be on.
func restrict(q *scheduling.Request, name string, nodes *corev1.NodeSelector) error {
	v, err := scheduling.NewVolume(name, nodes)
	if err == nil {
		q.Volumes = append(q.Volumes, v)
	}
	return err
}

// topologies returns StorageClass.allowedTopologies as a node selector.
func topologies(terms []corev1.TopologySelectorTerm) *corev1.NodeSelector {
	out := &corev1.NodeSelector{}
	for _, t := range terms {
		var term corev1.NodeSelectorTerm
		for _, e := range t.MatchLabelExpressions {
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{
				Key: e.Key, Operator: corev1.NodeSelectorOpIn, Values: e.Values,
			})
		}
		out.NodeSelectorTerms = append(out.NodeSelectorTerms, term)
	}
	return out
}

// mountable returns the part of a PersistentVolume that the agent needs, or why it cannot mount it.
func mountable(pv *corev1.PersistentVolume) (*v1alpha1.BundleClaim, string) {
	b := &v1alpha1.BundleClaim{VolumeName: pv.Name}
	switch {
	case pv.Spec.Local != nil:
		b.Kind, b.Path, b.Type = v1alpha1.ClaimLocal, pv.Spec.Local.Path, corev1.HostPathDirectory
	case pv.Spec.HostPath != nil:
		b.Kind, b.Path = v1alpha1.ClaimHostPath, pv.Spec.HostPath.Path
		if t := pv.Spec.HostPath.Type; t != nil {
			b.Type = *t
		}
	default:
		return nil, fmt.Sprintf(" of type %s; Berth mounts volumes of type local and hostPath: use a "+
			"StorageClass of such volumes, or mount the volume on the node and use hostPath",
			volumeType(&pv.Spec.PersistentVolumeSource))
	}
	_, annotated := pv.Annotations[corev1.MountOptionAnnotation]
	switch mode := pv.Spec.VolumeMode; {
	case mode != nil && *mode == corev1.PersistentVolumeBlock:
		return nil, " of volumeMode Block; Berth mounts volumes of volumeMode Filesystem"
	case len(pv.Spec.MountOptions) > 0 || annotated:
		return nil, " with mountOptions; a volume of type " + b.Kind +
			" is a directory of the node, which has none: remove them, and use bindMountOptions of volumeMounts"
	case !path.IsAbs(b.Path) || slices.Contains(strings.Split(b.Path, "/"), ".."):
		return nil, fmt.Sprintf(` with the path %q; allowed: an absolute path without ".."`, b.Path)
	}
	b.Path = path.Clean(b.Path)
	return b, ""
}

// volumeType returns the type of a PersistentVolume, with the driver of csi.
func volumeType(source *corev1.PersistentVolumeSource) string {
	if source.CSI != nil {
		return fmt.Sprintf("csi (driver %s)", source.CSI.Driver)
	}
	v := reflect.ValueOf(source).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "unknown"
}

// selectNode names the node in the claims whose volumes are to be created for it, as kube-scheduler
// does. It returns the reason to wait for these volumes, or nil if there are none.
func (r *Reconciler) selectNode(ctx context.Context, s *scope, node string) (*verdict, error) {
	var wait *verdict
	for i := range s.volumes {
		c := &s.volumes[i]
		if c.bound != nil {
			continue
		}
		if c.claim.Annotations[volumehelpers.AnnSelectedNode] == "" {
			next := c.claim.DeepCopy()
			metav1.SetMetaDataAnnotation(&next.ObjectMeta, volumehelpers.AnnSelectedNode, node)
			if err := r.patchClaim(ctx, c.claim, next); err != nil {
				s.found.failure = err.Error()
				return nil, err
			}
		}
		if wait == nil {
			wait = c.waits("claim %s waits until %s has created a volume on node %s (kubectl describe pvc %s)",
				c.claim.Name, c.provisioner, node, c.claim.Name)
		}
	}
	return wait, nil
}

// patchClaim changes a claim from was, as it was read, to next.
func (r *Reconciler) patchClaim(ctx context.Context,
	was, next *corev1.PersistentVolumeClaim,
) error {
	patch := client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, next, patch, client.FieldOwner(FieldOwner)); err != nil {
		return fmt.Errorf("change PersistentVolumeClaim %s/%s: %w", was.Namespace, was.Name, err)
	}
	return nil
}

// boundClaims returns the claims of the OCIBundle.
func (s *scope) boundClaims() []v1alpha1.BundleClaim {
	var out []v1alpha1.BundleClaim
	for _, c := range s.volumes {
		if c.bound != nil {
			out = append(out, *c.bound)
		}
	}
	return out
}

func (c *claimed) verdict(reason, format string, args ...any) *verdict {
	return &verdict{reason: reason, message: c.at + ": " + fmt.Sprintf(format, args...)}
}

func (c *claimed) waits(format string, args ...any) *verdict {
	return c.verdict(v1alpha1.ReasonVolumeNotBound, format, args...)
}

func (c *claimed) refused(format string, args ...any) *verdict {
	return c.verdict(v1alpha1.ReasonVolumeUnsupported, format, args...)
}

// inUse returns the verdict on a claim of one user that another Container uses. It lets the
// Container look again after a time, since the use may end without an event.
func (c *claimed) inUse(s *scope, other string) *verdict {
	s.again = sooner(s.again, inUseDelay)
	return c.verdict(v1alpha1.ReasonVolumeInUse, "claim %s is used by the Container %s; "+
		"its access mode is ReadWriteOncePod: one Container at a time", c.claim.Name, other)
}

var errClaimChanged = errors.New("it is not as it was when it was resolved")
