// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/v1alpha1"
)

// maxDownward is the greatest number of values that an OCIBundle holds.
const maxDownward = 1024

const modeRange = "must be 0 to 0777, in decimal 0 to 511"

// fileVolume checks a volume of files, which the agent writes. The values of downwardAPI that are
// known here go with it.
func fileVolume(d *draft, at *field.Path, v *v1alpha1.Volume) {
	b := volumeFiles{draft: d, paths: map[string]bool{}}
	switch {
	case v.ConfigMap != nil:
		at = at.Child("configMap")
		b.object(at.Child("items"), at.Child("name"), v.ConfigMap.Name, v.ConfigMap.Items)
		b.mode(at.Child("defaultMode"), v.ConfigMap.DefaultMode)
		b.user(at.Child("defaultUser"), v.ConfigMap.DefaultUser)
	case v.Secret != nil:
		at = at.Child("secret")
		b.object(at.Child("items"), at.Child("secretName"), v.Secret.SecretName, v.Secret.Items)
		b.mode(at.Child("defaultMode"), v.Secret.DefaultMode)
		b.user(at.Child("defaultUser"), v.Secret.DefaultUser)
	case v.DownwardAPI != nil:
		at = at.Child("downwardAPI")
		b.downward(at.Child("items"), v.DownwardAPI.Items)
		b.mode(at.Child("defaultMode"), v.DownwardAPI.DefaultMode)
		b.user(at.Child("defaultUser"), v.DownwardAPI.DefaultUser)
	case v.Projected != nil:
		at = at.Child("projected")
		for i := range v.Projected.Sources {
			b.source(at.Child("sources").Index(i), &v.Projected.Sources[i])
		}
		b.mode(at.Child("defaultMode"), v.Projected.DefaultMode)
	}
}

// volumeFiles checks the items of one volume.
type volumeFiles struct {
	*draft
	paths map[string]bool // of its items
}

func (b *volumeFiles) source(at *field.Path, p *v1alpha1.VolumeProjection) {
	const one = "set exactly one of configMap, secret, downwardAPI and serviceAccountToken"
	set := 0
	for _, is := range []bool{
		p.ConfigMap != nil, p.Secret != nil, p.DownwardAPI != nil, p.ServiceAccountToken != nil,
	} {
		if is {
			set++
		}
	}
	switch {
	case set == 0:
		b.faults = append(b.faults, field.Required(at, one))
	case set > 1:
		b.refuse(at, one)
	case p.ConfigMap != nil:
		at = at.Child("configMap")
		b.object(at.Child("items"), at.Child("name"), p.ConfigMap.Name, p.ConfigMap.Items)
	case p.Secret != nil:
		at = at.Child("secret")
		b.object(at.Child("items"), at.Child("name"), p.Secret.Name, p.Secret.Items)
	case p.DownwardAPI != nil:
		b.downward(at.Child("downwardAPI", "items"), p.DownwardAPI.Items)
	default:
		b.token(at.Child("serviceAccountToken"), p.ServiceAccountToken)
	}
}

// object checks a reference to a ConfigMap or Secret, and the files that are made of it.
func (b *volumeFiles) object(at, nameAt *field.Path, name string, items []corev1.KeyToPath) {
	if name == "" {
		b.faults = append(b.faults, field.Required(nameAt, "name an object of the Container's namespace"))
	} else {
		for _, msg := range validation.IsDNS1123Subdomain(name) {
			b.invalid(nameAt, name, msg)
		}
	}
	for i, item := range items {
		at := at.Index(i)
		if item.Key == "" {
			b.faults = append(b.faults, field.Required(at.Child("key"), "name a key of the object"))
		} else {
			for _, msg := range validation.IsConfigMapKey(item.Key) {
				b.invalid(at.Child("key"), item.Key, msg)
			}
		}
		b.path(at.Child("path"), item.Path)
		b.mode(at.Child("mode"), item.Mode)
		b.user(at.Child("user"), item.User)
	}
}

// downward checks the items of downwardAPI and notes the values that are known.
func (b *volumeFiles) downward(at *field.Path, items []corev1.DownwardAPIVolumeFile) {
	before := b.downwardItems
	b.downwardItems += len(items)
	if b.downwardItems > maxDownward {
		if before <= maxDownward {
			b.invalid(at, len(items), fmt.Sprintf(
				"makes %d items of downwardAPI in the Container, which may have %d: remove some",
				b.downwardItems, maxDownward))
		}
		return
	}
	for i, item := range items {
		at := at.Index(i)
		b.path(at.Child("path"), item.Path)
		b.mode(at.Child("mode"), item.Mode)
		b.user(at.Child("user"), item.User)
		value, known := "", false
		switch {
		case item.FieldRef != nil && item.ResourceFieldRef != nil:
			b.refuse(at.Child("resourceFieldRef"), "may not stand beside fieldRef: remove one of them")
		case item.FieldRef != nil:
			value, known = fileField(b.draft, at.Child("fieldRef"), item.FieldRef)
		case item.ResourceFieldRef != nil:
			value, known = resourceValue(b.draft, at.Child("resourceFieldRef"), item.ResourceFieldRef)
		default:
			b.faults = append(b.faults, field.Required(at, "set one of fieldRef and resourceFieldRef"))
		}
		if known {
			b.out.Downward = append(b.out.Downward, v1alpha1.DownwardValue{
				Path: strings.TrimPrefix(at.String(), b.draft.path.String()+"."), Value: value,
			})
		}
	}
}

// path checks the path of an item. No item may be at or below the path of another.
func (b *volumeFiles) path(at *field.Path, p string) {
	if msg := files.CheckPath(p); msg != "" {
		b.invalid(at, p, msg)
		return
	}
	if b.paths[p] {
		b.faults = append(b.faults, field.Duplicate(at, p))
	}
	is := func(dir string) bool { return b.paths[dir] }
	for _, other := range slices.Sorted(maps.Keys(b.paths)) {
		if strings.HasPrefix(other, p+"/") {
			b.invalid(at, p, fmt.Sprintf("must not be a file and a directory, as %q makes it", other))
			break
		}
	}
	if above := files.Above(p, is); above != "" {
		b.invalid(at, p, fmt.Sprintf("must not be below another file, %q", above))
	}
	b.paths[p] = true
}

func (b *volumeFiles) mode(at *field.Path, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > files.MaxMode) {
		b.invalid(at, *mode, modeRange)
	}
}

func (b *volumeFiles) user(at *field.Path, user *int64) {
	if user != nil {
		b.refuse(at, "is not supported: the files belong to root; set a mode that lets others read")
	}
}

// fileField returns the value of a field of the Container as a file of downwardAPI has it. A Pod
// allows these fields alone; the uid is known on the node.
func fileField(d *draft, at *field.Path, ref *corev1.ObjectFieldSelector) (value string,
	known bool,
) {
	_, of := subscript(ref.FieldPath)
	if of != "" || slices.Contains([]string{"metadata.name", "metadata.namespace", "metadata.uid"},
		ref.FieldPath) {
		return fieldValue(d, at, ref)
	}
	if ref.APIVersion != "" {
		oneOf(d, at.Child("apiVersion"), ref.APIVersion, "v1")
	}
	switch ref.FieldPath {
	case "metadata.labels":
		return lines(d.meta.Labels), true
	case "metadata.annotations":
		return lines(d.meta.Annotations), true
	}
	oneOf(d, at.Child("fieldPath"), ref.FieldPath, "metadata.name", "metadata.namespace",
		"metadata.uid", "metadata.labels", "metadata.annotations", "metadata.labels['KEY']",
		"metadata.annotations['KEY']")
	return "", false
}

// lines returns a map as a Pod's file has it (pkg/fieldpath, FormatMap). Berth's own annotations
// change while nobody edits anything, and are left out.
func lines(m map[string]string) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !strings.HasPrefix(key, "berth.run/") {
			out = append(out, fmt.Sprintf("%s=%q", key, m[key]))
		}
	}
	return strings.Join(out, "\n")
}
