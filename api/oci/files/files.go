// SPDX-License-Identifier: Apache-2.0

package files

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/v1alpha1"
)

// File is a file of a volume.
type File struct {
	Data string
	// Mode has permission bits alone.
	Mode uint32
	// Owner and Group own the file; 0 is root.
	Owner, Group uint32
}

// Tree has the files of a volume by their paths.
type Tree map[string]File

// Values returns the content of files.
type Values interface {
	// Item returns the content of an item of downwardAPI; path is that of the item below spec.
	Item(path string, item *corev1.DownwardAPIVolumeFile) (string, error)
	// Files returns the content of an object by key, or false if there is no such object.
	Files(object environment.Object) (data map[string]string, ok bool)
	// Token returns the file with a token of a ServiceAccount; at is the path of its source below
	// spec. A mode of 0 is that of the volume.
	Token(at string, token *corev1.ServiceAccountTokenProjection) (File, error)
}

const (
	// DefaultMode is the mode of a file for which a volume has none.
	DefaultMode = 0o644
	// MaxMode is the greatest mode.
	MaxMode = 0o777
)

// Has reports whether a volume is of one of the kinds that have files.
func Has(v *v1alpha1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// Directory returns the path of a volume of files in the bundle's directory.
func Directory(volume string) string { return "files/" + volume }

// Compute returns the files of a volume; at is its path below spec, such as volumes[0]. An error
// begins with the path of its field and never holds a value. It is an *environment.Missing if an
// object or key may yet come.
func Compute(at string, v *v1alpha1.Volume, values Values) (Tree, error) {
	b := builder{values: values, tree: Tree{}}
	for _, s := range sources(at, v) {
		if err := b.add(s); err != nil {
			return nil, err
		}
	}
	return b.tree, b.tree.check(at)
}

// References returns the objects that volumes refer to, each once.
func References(volumes []v1alpha1.Volume) []environment.Object {
	var out []environment.Object
	for i := range volumes {
		for _, s := range sources("", &volumes[i]) {
			if s.object.Kind != "" && !slices.Contains(out, s.object) {
				out = append(out, s.object)
			}
		}
	}
	return out
}

// DefaultTokenSeconds is the validity of a token for which a volume says nothing, as in a Pod.
const DefaultTokenSeconds = 3600

// Tokens returns the tokens of ServiceAccounts that volumes ask for.
func Tokens(volumes []v1alpha1.Volume) []*corev1.ServiceAccountTokenProjection {
	var out []*corev1.ServiceAccountTokenProjection
	for i := range volumes {
		for _, s := range sources("", &volumes[i]) {
			if s.token != nil {
				out = append(out, s.token)
			}
		}
	}
	return out
}

// source is one source of files.
type source struct {
	at       string // the path of the source
	object   environment.Object
	optional *bool
	keys     []corev1.KeyToPath
	fields   []corev1.DownwardAPIVolumeFile
	token    *corev1.ServiceAccountTokenProjection
	mode     *int32 // of files without a mode of their own
}

// sources returns the sources of a volume in their order.
func sources(at string, v *v1alpha1.Volume) []source {
	configMap := func(at string, p corev1.ConfigMapProjection, mode *int32) source {
		return source{
			at: at + ".configMap", object: environment.Object{Kind: environment.KindConfigMap, Name: p.Name},
			optional: p.Optional, keys: p.Items, mode: mode,
		}
	}
	secret := func(at string, p corev1.SecretProjection, mode *int32) source {
		return source{
			at: at + ".secret", object: environment.Object{Kind: environment.KindSecret, Name: p.Name},
			optional: p.Optional, keys: p.Items, mode: mode,
		}
	}
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return []source{configMap(at, corev1.ConfigMapProjection{
			LocalObjectReference: s.LocalObjectReference, Items: s.Items, Optional: s.Optional,
		}, s.DefaultMode)}
	case v.Secret != nil:
		s := v.Secret
		return []source{secret(at, corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: s.SecretName}, Items: s.Items,
			Optional: s.Optional,
		}, s.DefaultMode)}
	case v.DownwardAPI != nil:
		s := v.DownwardAPI
		return []source{{at: at + ".downwardAPI", fields: s.Items, mode: s.DefaultMode}}
	case v.Projected != nil:
		var out []source
		for i, p := range v.Projected.Sources {
			at, mode := fmt.Sprintf("%s.projected.sources[%d]", at, i), v.Projected.DefaultMode
			switch {
			case p.ConfigMap != nil:
				out = append(out, configMap(at, *p.ConfigMap, mode))
			case p.Secret != nil:
				out = append(out, secret(at, *p.Secret, mode))
			case p.DownwardAPI != nil:
				out = append(out, source{at: at + ".downwardAPI", fields: p.DownwardAPI.Items, mode: mode})
			case p.ServiceAccountToken != nil:
				out = append(out, source{
					at: at + ".serviceAccountToken", token: p.ServiceAccountToken, mode: mode,
				})
			default:
				out = append(out, source{at: at})
			}
		}
		return out
	}
	return nil
}

// builder collects the files of a volume.
type builder struct {
	values Values
	tree   Tree
}

// add adds the files of a source. A file replaces an earlier one of the same path.
func (b *builder) add(s source) error {
	if s.token != nil {
		return b.addToken(s)
	}
	for i := range s.fields {
		item := &s.fields[i]
		at := fmt.Sprintf("%s.items[%d]", s.at, i)
		data, err := b.values.Item(at, item)
		if err != nil {
			return fmt.Errorf("%s.%w", at, err)
		}
		if err := b.set(at, item.Path, data, item.Mode, s.mode); err != nil {
			return err
		}
	}
	if s.object.Kind == "" {
		if s.fields == nil && !strings.HasSuffix(s.at, ".downwardAPI") {
			return fmt.Errorf(
				"%s: found no source that this agent knows; allowed: configMap, secret, downwardAPI or serviceAccountToken",
				s.at)
		}
		return nil
	}
	optional := s.optional != nil && *s.optional
	data, found := b.values.Files(s.object)
	if !found {
		if optional {
			return nil
		}
		return &environment.Missing{Path: s.at, Object: s.object}
	}
	if len(s.keys) == 0 {
		for _, key := range slices.Sorted(maps.Keys(data)) {
			if msg := CheckPath(key); msg != "" {
				return fmt.Errorf("%s: found the key %q in the %s %s as the path of a file; %s", s.at, key,
					s.object.Kind, s.object.Name, msg)
			}
			if err := b.set(s.at, key, data[key], nil, s.mode); err != nil {
				return err
			}
		}
	}
	for i, item := range s.keys {
		at := fmt.Sprintf("%s.items[%d]", s.at, i)
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return &environment.Missing{Path: at, Object: s.object, Key: item.Key}
		}
		if err := b.set(at, item.Path, value, item.Mode, s.mode); err != nil {
			return err
		}
	}
	return nil
}

// addToken adds the file of a token.
func (b *builder) addToken(s source) error {
	file, err := b.values.Token(s.at, s.token)
	if err != nil {
		return err
	}
	mode := s.mode
	if file.Mode != 0 {
		mode = new(int32(file.Mode))
	}
	if err := b.set(s.at, s.token.Path, file.Data, mode); err != nil {
		return err
	}
	out := b.tree[s.token.Path]
	out.Owner = file.Owner
	b.tree[s.token.Path] = out
	return nil
}

// set adds a file. The first mode that is not nil is its mode.
func (b *builder) set(at, p, data string, modes ...*int32) error {
	if msg := CheckPath(p); msg != "" {
		return fmt.Errorf("%s.path: found %q; %s", at, p, msg)
	}
	mode := int32(DefaultMode)
	if i := slices.IndexFunc(modes, func(m *int32) bool { return m != nil }); i >= 0 {
		mode = *modes[i]
	}
	if mode < 0 || mode > MaxMode {
		return fmt.Errorf("%s.mode: found %d; allowed: 0 to 0777 (decimal: 511)", at, mode)
	}
	b.tree[p] = File{Data: data, Mode: uint32(mode)}
	return nil
}

// check returns an error if a path is a file and a directory.
func (t Tree) check(at string) error {
	for p := range t {
		if above := Above(p, func(dir string) bool { _, ok := t[dir]; return ok }); above != "" {
			return fmt.Errorf("%s: found the files %q and %q; allowed: no file below another file", at,
				above, p)
		}
	}
	return nil
}

// Above returns the first parent directory of a path for which taken is true, or "".
func Above(p string, taken func(dir string) bool) string {
	for i, c := range p {
		if c == '/' && taken(p[:i]) {
			return p[:i]
		}
	}
	return ""
}

// maxName is NAME_MAX of Linux, and maxPath is its PATH_MAX less what stands before the path.
const maxName, maxPath = 255, 3072

// CheckPath returns what is wrong with the path of a file in a volume, or "". The names that begin
// with ".." are those of the directory's own links.
func CheckPath(p string) string {
	switch {
	case p == "":
		return "a file needs a path"
	case strings.HasPrefix(p, "/"):
		return "must be relative to the volume: remove the / at its start"
	case slices.Contains(strings.Split(p, "/"), ".."):
		return `must not contain ".."`
	case strings.HasPrefix(p, ".."):
		return `must not start with ".."`
	case path.Clean(p) != p || p == ".":
		return fmt.Sprintf("must be in its shortest form: write %q", path.Clean(p))
	case strings.Contains(p, "\x00"):
		return "must not contain a NUL byte"
	case len(p) > maxPath || slices.ContainsFunc(strings.Split(p, "/"), func(name string) bool {
		return len(name) > maxName
	}):
		return fmt.Sprintf("may have at most %d bytes, and %d in each name", maxPath, maxName)
	}
	return ""
}
