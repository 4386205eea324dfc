// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/v1alpha1"
)

// variables returns process.env: the user's variables, in their order. The node puts the image's
// variables, PATH and HOME beneath. If it has to find a value, it gets the whole list, in which all
// that is known here is literal.
func variables(d *draft) {
	var env []corev1.EnvVar
	byNode := false
	seen := map[string]bool{}
	for i, e := range d.in.Env {
		at := d.path.Child("env").Index(i)
		variableName(d, at.Child("name"), e.Name)
		if seen[e.Name] {
			d.faults = append(d.faults, field.Duplicate(at.Child("name"), e.Name))
		}
		seen[e.Name] = true
		noNUL(d, at.Child("value"), e.Value)
		if e.ValueFrom != nil {
			if e.Value != "" {
				d.refuse(at.Child("valueFrom"), "may not stand beside value: remove one of them")
			}
			e = variableFrom(d, at.Child("valueFrom"), e)
		}
		byNode = byNode || e.ValueFrom != nil
		env = append(env, e)
	}
	for i, from := range d.in.EnvFrom {
		allVariables(d, d.path.Child("envFrom").Index(i), from)
	}
	if byNode || len(d.in.EnvFrom) > 0 {
		d.out.Process.Env = env
		for _, from := range d.in.EnvFrom {
			d.out.Process.EnvFrom = append(d.out.Process.EnvFrom, *from.DeepCopy())
		}
		return
	}
	vars, err := environment.Compute(env, nil, nil)
	if err != nil && len(d.faults) == 0 {
		d.faults = append(d.faults, field.InternalError(d.path.Child("env"), err))
	}
	d.env, d.spec.Process.Env = vars.Map(), vars.List()
}

func variableName(d *draft, at *field.Path, name string) {
	if name == "" {
		d.faults = append(d.faults, field.Required(at, "a variable needs a name"))
		return
	}
	for _, msg := range validation.IsRelaxedEnvVarName(name) {
		d.invalid(at, name, msg)
	}
}

// variableFrom checks the source of a value, and returns the variable with a literal
// value if that is known before the container has a node.
func variableFrom(d *draft, at *field.Path, e corev1.EnvVar) corev1.EnvVar {
	from := e.ValueFrom
	set := sourcesOf(from)
	switch {
	case len(set) == 0:
		d.faults = append(d.faults,
			field.Required(at, "set one of fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef and fileKeyRef"))
		return e
	case len(set) > 1:
		d.refuse(at.Child(set[1]), "may not stand beside "+set[0]+": remove one of them")
		return e
	}
	value, known := "", false
	switch {
	case from.FieldRef != nil:
		value, known = fieldValue(d, at.Child("fieldRef"), from.FieldRef)
	case from.ResourceFieldRef != nil:
		value, known = resourceValue(d, at.Child("resourceFieldRef"), from.ResourceFieldRef)
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		objectKey(d, at.Child("configMapKeyRef"), ref.Name, ref.Key)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		objectKey(d, at.Child("secretKeyRef"), ref.Name, ref.Key)
	case from.FileKeyRef != nil:
		fileKey(d, at.Child("fileKeyRef"), from.FileKeyRef)
	}
	if known {
		return corev1.EnvVar{Name: e.Name, Value: environment.Literal(value)}
	}
	return corev1.EnvVar{Name: e.Name, ValueFrom: from.DeepCopy()}
}

// fieldValue returns the value of a field of the Container. That of a field which only
// the node knows, or which is not there before the Container is stored, is not known.
func fieldValue(d *draft, at *field.Path, ref *corev1.ObjectFieldSelector) (value string,
	known bool,
) {
	if ref.APIVersion != "" {
		oneOf(d, at.Child("apiVersion"), ref.APIVersion, "v1")
	}
	at = at.Child("fieldPath")
	if key, of := subscript(ref.FieldPath); of != "" {
		if msgs := validation.IsQualifiedName(strings.ToLower(key)); len(msgs) > 0 {
			d.invalid(at, ref.FieldPath, "the key in brackets "+msgs[0])
		}
		if of == "metadata.labels" {
			return d.meta.Labels[key], true
		}
		return d.meta.Annotations[key], true
	}
	switch ref.FieldPath {
	case "metadata.name":
		return d.name, true
	case "metadata.namespace":
		return d.meta.Namespace, true
	case "metadata.uid", "spec.nodeName", "status.hostIP", "status.hostIPs":
	case "status.podIP", "status.podIPs":
		if d.in.Network != nil && d.in.Network.None {
			d.invalid(at, ref.FieldPath,
				"is an address, which a container without a network does not have: remove it or network.none")
		}
	case "metadata.labels", "metadata.annotations":
		d.invalid(at, ref.FieldPath, "must name one of them: write "+ref.FieldPath+"['KEY']")
	default:
		oneOf(d, at, ref.FieldPath, "metadata.name", "metadata.namespace", "metadata.uid",
			"metadata.labels['KEY']",
			"metadata.annotations['KEY']", "spec.nodeName", "status.hostIP", "status.hostIPs",
			"status.podIP", "status.podIPs")
	}
	return "", false
}

// subscript returns the key and the map of a path such as metadata.labels['KEY'], or
// nothing for a path of another form.
func subscript(path string) (key, of string) {
	for _, of := range []string{"metadata.labels", "metadata.annotations"} {
		if rest, ok := strings.CutPrefix(path, of+"['"); ok && strings.HasSuffix(rest, "']") {
			return strings.TrimSuffix(rest, "']"), of
		}
	}
	return "", ""
}

// resourceValue returns a limit or request of the Container. A limit that it does not
// have is the node's.
func resourceValue(d *draft, at *field.Path, ref *corev1.ResourceFieldSelector) (value string,
	known bool,
) {
	if n := ref.ContainerName; n != "" && n != d.name {
		d.invalid(at.Child("containerName"), n, "must be absent, or the name of this Container")
	}
	if !slices.Contains(environment.ResourceNames(), ref.Resource) {
		oneOf(d, at.Child("resource"), ref.Resource, environment.ResourceNames()...)
		return "", false
	}
	if msg := environment.CheckDivisor(ref); msg != "" {
		d.invalid(at.Child("divisor"), ref.Divisor.String(), msg)
		return "", false
	}
	q, ok := environment.Selected(ref, d.in.Resources)
	switch {
	case ok:
		return environment.Resource(ref, q), true
	case strings.HasPrefix(ref.Resource, "requests."):
		return "0", true
	}
	return "", false
}

// sourcesOf returns the names of the fields of a source that are set.
func sourcesOf(from *corev1.EnvVarSource) []string {
	var out []string
	for _, one := range []struct {
		name string
		set  bool
	}{
		{"fieldRef", from.FieldRef != nil},
		{"resourceFieldRef", from.ResourceFieldRef != nil},
		{"configMapKeyRef", from.ConfigMapKeyRef != nil},
		{"secretKeyRef", from.SecretKeyRef != nil},
		{"fileKeyRef", from.FileKeyRef != nil},
	} {
		if one.set {
			out = append(out, one.name)
		}
	}
	return out
}

// objectName checks a reference to a ConfigMap or Secret.
func objectName(d *draft, at *field.Path, name string) {
	if name == "" {
		d.faults = append(d.faults, field.Required(at.Child("name"),
			"name an object of the Container's namespace"))
		return
	}
	for _, msg := range validation.IsDNS1123Subdomain(name) {
		d.invalid(at.Child("name"), name, msg)
	}
}

// objectKey checks a reference to a key of a ConfigMap or Secret.
func objectKey(d *draft, at *field.Path, name, key string) {
	objectName(d, at, name)
	if key == "" {
		d.faults = append(d.faults, field.Required(at.Child("key"), "name a key of the object"))
		return
	}
	for _, msg := range validation.IsConfigMapKey(key) {
		d.invalid(at.Child("key"), key, msg)
	}
}

// maxFileKey is the greatest length of a key in a file of variables, as under the kubelet.
const maxFileKey = 128

// fileKey checks a reference to a key of a file in a volume, which need not be mounted.
func fileKey(d *draft, at *field.Path, ref *corev1.FileKeySelector) {
	i := slices.IndexFunc(d.in.Volumes, func(v v1alpha1.Volume) bool {
		return v.Name == ref.VolumeName
	})
	switch {
	case ref.VolumeName == "":
		d.faults = append(d.faults, field.Required(at.Child("volumeName"), "name one of volumes"))
	case i < 0:
		d.faults = append(d.faults, field.NotFound(at.Child("volumeName"), ref.VolumeName))
	case d.in.Volumes[i].EmptyDir == nil && d.in.Volumes[i].Container == nil:
		d.invalid(at.Child("volumeName"), ref.VolumeName,
			"must be an emptyDir, of the Container itself or of another one")
	}
	if err := files.CheckSubPath(ref.Path); err != nil {
		d.invalid(at.Child("path"), ref.Path, err.Error())
	} else if strings.HasPrefix(ref.Path, "..") || path.Clean(ref.Path) == "." {
		d.invalid(at.Child("path"), ref.Path, `must be the path of a file, and not begin with ".."`)
	}
	switch {
	case ref.Key == "":
		d.faults = append(d.faults, field.Required(at.Child("key"), "name a key in the file"))
	case len(ref.Key) > maxFileKey:
		d.faults = append(d.faults, field.TooLong(at.Child("key"), "", maxFileKey))
	default:
		for _, msg := range validation.IsRelaxedEnvVarName(ref.Key) {
			d.invalid(at.Child("key"), ref.Key, msg)
		}
	}
}

// allVariables checks an item of envFrom. Each key of an object is the name of a variable, whatever
// the prefix: IsRelaxedEnvVarName allows all that IsConfigMapKey does.
func allVariables(d *draft, at *field.Path, from corev1.EnvFromSource) {
	if from.Prefix != "" {
		for _, msg := range validation.IsRelaxedEnvVarName(from.Prefix) {
			d.invalid(at.Child("prefix"), from.Prefix, msg)
		}
	}
	switch {
	case from.ConfigMapRef != nil && from.SecretRef != nil:
		d.refuse(at.Child("secretRef"), "may not stand beside configMapRef: write two items")
	case from.ConfigMapRef != nil:
		objectName(d, at.Child("configMapRef"), from.ConfigMapRef.Name)
	case from.SecretRef != nil:
		objectName(d, at.Child("secretRef"), from.SecretRef.Name)
	default:
		d.faults = append(d.faults, field.Required(at, "set one of configMapRef and secretRef"))
	}
}
