// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	strictjson "sigs.k8s.io/json"

	"github.com/berth-run/berth/api/oci/environment"
)

// KindClaim is the kind of claims of volumes.
const KindClaim = "PersistentVolumeClaim"

// Object is a ConfigMap, Secret or PersistentVolumeClaim.
type Object struct {
	Kind, Namespace, Name string
	// Data holds data, with stringData over it.
	Data map[string]string
	// Binary holds binaryData of a ConfigMap, which variables cannot refer to.
	Binary map[string]string
	// AccessModes holds spec.accessModes of a PersistentVolumeClaim.
	AccessModes []corev1.PersistentVolumeAccessMode
	// Immutable says that a ConfigMap or Secret keeps its data until it is removed.
	Immutable bool
}

// Same reports whether two objects hold the same.
func (o *Object) Same(other *Object) bool {
	return maps.Equal(o.Data, other.Data) && maps.Equal(o.Binary, other.Binary) &&
		slices.Equal(o.AccessModes, other.AccessModes)
}

// objectKinds returns the kinds of objects of apiVersion v1 that Containers refer to.
func objectKinds() []string {
	return []string{environment.KindConfigMap, environment.KindSecret, KindClaim}
}

// objectKind returns the kind of a root that is such an object, or "".
func objectKind(root *yaml.Node) string {
	for _, kind := range objectKinds() {
		if rootKind(root, kind) {
			return kind
		}
	}
	return ""
}

// rootKind reports whether a root is of apiVersion v1 and of a kind.
func rootKind(root *yaml.Node, kind string) bool {
	if root.Kind != yaml.MappingNode {
		return false
	}
	found := map[string]string{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if v := resolve(root.Content[i+1]); v.Kind == yaml.ScalarNode {
			found[root.Content[i].Value] = v.Value
		}
	}
	return found["apiVersion"] == "v1" && found["kind"] == kind
}

// decodeObject reads the document's root as an object of a kind.
func (d *Document) decodeObject(root *yaml.Node, kind string) {
	d.Kind, d.decoded.secret = kind, kind == environment.KindSecret
	switch kind {
	case environment.KindConfigMap:
		c := &corev1.ConfigMap{}
		if d.decodeInto(root, c, kind) {
			d.Report(checkConfigMap(c))
			d.setObject(&c.ObjectMeta, Object{
				Data: c.Data, Binary: texts(c.BinaryData), Immutable: c.Immutable != nil && *c.Immutable,
			})
		}
	case environment.KindSecret:
		s := &corev1.Secret{}
		if d.decodeInto(root, s, kind) {
			d.Report(checkSecret(s))
			data := map[string]string{}
			maps.Copy(data, texts(s.Data))
			maps.Copy(data, s.StringData)
			d.setObject(&s.ObjectMeta, Object{
				Data: data, Immutable: s.Immutable != nil && *s.Immutable,
			})
		}
	case KindClaim:
		c := &corev1.PersistentVolumeClaim{}
		if d.decodeInto(root, c, kind) {
			d.Report(checkClaim(c))
			d.setObject(&c.ObjectMeta, Object{AccessModes: c.Spec.AccessModes})
		}
	}
}

// decodeInto decodes the root into a pointer to a struct of a kind, and reports whether it could.
func (d *Document) decodeInto(root *yaml.Node, object any, kind string) bool {
	value, ok := d.decoded.value(root, reflect.TypeOf(object).Elem(), nil)
	d.Faults = d.decoded.faults
	if !ok {
		return false
	}
	raw, err := json.Marshal(value)
	if err == nil {
		var strict []error
		if strict, err = strictjson.UnmarshalStrict(raw, object); err == nil {
			err = errors.Join(strict...)
		}
	}
	if err != nil && len(d.Faults) == 0 { // its words may hold a value
		d.Faults = []Fault{{
			Line: d.Line, Field: d.Item, Message: "found no " + kind + "; allowed: the fields of one",
		}}
	}
	return err == nil
}

func (d *Document) setObject(meta *metav1.ObjectMeta, o Object) {
	o.Kind, o.Namespace, o.Name = d.Kind, meta.Namespace, meta.Name
	if o.Namespace == "" {
		o.Namespace = metav1.NamespaceDefault
	}
	d.Object = &o
}

// texts returns the binary data of an object as strings, or nil if the object has no binary data.
func texts(data map[string][]byte) map[string]string {
	var out map[string]string
	for key, v := range data {
		if out == nil {
			out = map[string]string{}
		}
		out[key] = string(v)
	}
	return out
}

// checkMeta checks what the API server checks of an object's metadata.
func checkMeta(meta *metav1.ObjectMeta) field.ErrorList {
	var faults field.ErrorList
	at := field.NewPath("metadata")
	if meta.Name == "" {
		faults = append(faults, field.Required(at.Child("name"), "an object needs a name"))
	} else {
		for _, msg := range validation.IsDNS1123Subdomain(meta.Name) {
			faults = append(faults, field.Invalid(at.Child("name"), meta.Name, msg))
		}
	}
	if meta.Namespace != "" {
		for _, msg := range validation.IsDNS1123Label(meta.Namespace) {
			faults = append(faults, field.Invalid(at.Child("namespace"), meta.Namespace, msg))
		}
	}
	return faults
}

// checkKeys checks the keys of a part of an object's data.
func checkKeys[V any](at *field.Path, data map[string]V) field.ErrorList {
	var faults field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(data)) {
		for _, msg := range validation.IsConfigMapKey(key) {
			faults = append(faults, field.Invalid(at.Key(key), key, msg))
		}
	}
	return faults
}

// maxData is corev1.MaxSecretSize, which is also the API server's limit for a ConfigMap.
const maxData = corev1.MaxSecretSize

func checkSize(at *field.Path, size int) field.ErrorList {
	if size > maxData {
		return field.ErrorList{field.Invalid(at, fmt.Sprintf("%d bytes", size),
			fmt.Sprintf("may be at most %d bytes in all", maxData))}
	}
	return nil
}

func checkConfigMap(c *corev1.ConfigMap) field.ErrorList {
	data, binary := field.NewPath("data"), field.NewPath("binaryData")
	faults := slices.Concat(checkMeta(&c.ObjectMeta), checkKeys(data, c.Data),
		checkKeys(binary, c.BinaryData))
	size := 0
	for key, v := range c.Data {
		size += len(v)
		if _, twice := c.BinaryData[key]; twice {
			faults = append(faults, field.Forbidden(binary.Key(key),
				"the key is in data as well: remove one of them"))
		}
	}
	for _, v := range c.BinaryData {
		size += len(v)
	}
	return append(faults, checkSize(data, size)...)
}

func checkSecret(s *corev1.Secret) field.ErrorList {
	data, text := field.NewPath("data"), field.NewPath("stringData")
	faults := slices.Concat(checkMeta(&s.ObjectMeta), checkKeys(data, s.Data),
		checkKeys(text, s.StringData))
	size := 0
	for _, v := range s.Data {
		size += len(v)
	}
	for _, v := range s.StringData {
		size += len(v)
	}
	return append(faults, checkSize(data, size)...)
}

// binary returns a node as the text of a []byte in JSON.
func (d *decoder) binary(n, place *yaml.Node, at *field.Path) (any, bool) {
	if kindOf(n) == "string" {
		if _, err := base64.StdEncoding.DecodeString(n.Value); err == nil {
			return n.Value, true
		}
	}
	d.fault(place, at, "found "+describe(n)+"; allowed: text in base64")
	return nil, false
}

// withoutValue returns the message of a fault. One in the data of a Secret shows no value.
func (d *decoder) withoutValue(path, message string) string {
	for _, part := range []string{"data", "stringData"} {
		rest, below := strings.CutPrefix(path, part)
		if !d.secret || !below || rest != "" && rest[0] != '[' && rest[0] != '.' {
			continue
		}
		if part == "data" {
			return "found a value of another form, which is not shown; allowed: a map of keys to text in base64"
		}
		return "found a value of another form, which is not shown; allowed: a map of keys to text: put numbers and booleans into quotes"
	}
	return message
}
