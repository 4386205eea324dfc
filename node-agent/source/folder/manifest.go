// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
)

// maxManifest bounds a file, as etcd bounds what one may apply (1.5 MiB an object).
const maxManifest = 16 << 20

// manifest is one Container of a file, with its defaults set, and what it compiles to.
type manifest struct {
	container *v1alpha1.Container
	spec      *v1alpha1.OCIBundleSpec
}

// fault is an error in a document of a file. Container is set where the document names one.
type fault struct {
	container *v1alpha1.Container
	err       error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// node is what placement is checked against.
type node struct {
	name   string
	labels map[string]string
}

// readFile reads a regular file of bounded size. It does not wait for the other end of a fifo.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("found something other than a regular file; allowed: a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("found more than %d bytes; allowed: %d", maxManifest, maxManifest)
	}
	return data, nil
}

// parse reads all Containers of a file. All faults of all documents are in the error, each a *fault.
func parse(data []byte, on node) ([]manifest, error) {
	var out []manifest
	var faults []error
	first := map[string]int{}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 1; ; n++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.Join(append(faults, fmt.Errorf("document %d: %w", n, err))...)
		}
		if empty(document) {
			continue
		}
		m, err := parseOne(document, on)
		if err != nil {
			faults = append(faults, &fault{container: m.container, err: fmt.Errorf("document %d: %w", n, err)})
			continue
		}
		key := m.container.Namespace + "/" + m.container.Name
		if other, twice := first[key]; twice {
			faults = append(faults, fmt.Errorf("document %d: metadata.name: found %s, which document %d has already; allowed: each name once", n, key, other))
			continue
		}
		first[key] = n
		out = append(out, m)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if len(out) == 0 {
		return nil, errors.New("found no Container; allowed: at least one (remove the file to remove what it has started)")
	}
	return out, nil
}

// empty tells whether a document has nothing but comments and blank lines.
func empty(document []byte) bool {
	for line := range bytes.Lines(document) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

// parseOne reads one Container. On an error the container is set if it has a name.
func parseOne(document []byte, on node) (manifest, error) {
	var m manifest
	raw, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return m, err
	}
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if err := json.UnmarshalCaseSensitivePreserveInts(raw, &head); err != nil {
		return m, err
	}
	gv, kind := v1alpha1.GroupVersion.String(), "Container"
	if head.APIVersion != gv || head.Kind != kind {
		return m, fmt.Errorf("apiVersion, kind: found %q, %q; allowed: %q, %q", head.APIVersion, head.Kind, gv, kind)
	}
	named := &v1alpha1.Container{}
	named.APIVersion, named.Kind, named.Name, named.Namespace = gv, kind, head.Metadata.Name, head.Metadata.Namespace
	if named.Namespace == "" {
		named.Namespace = corev1.NamespaceDefault
	}
	if validation.IsDNS1123Subdomain(named.Name) == nil && validation.IsDNS1123Label(named.Namespace) == nil {
		m.container = named
	}

	c := &v1alpha1.Container{}
	strict, err := json.UnmarshalStrict(raw, c)
	if err != nil {
		return m, err
	}
	if len(strict) > 0 {
		return m, errors.Join(strict...)
	}
	if c.Name == "" {
		return m, errors.New("metadata.name: found nothing; allowed: a name of lower case letters, digits, '-' and '.'")
	}
	SetDefaults(c)
	if msgs := validation.IsDNS1123Label(c.Namespace); len(msgs) > 0 {
		return m, fmt.Errorf("metadata.namespace: found %q; allowed: %s", c.Namespace, strings.Join(msgs, "; "))
	}
	spec, faults := compile.Bundle(c)
	if len(faults) > 0 {
		return m, faults.ToAggregate()
	}
	if err := placed(&c.Spec, on); err != nil {
		return m, err
	}
	spec.NodeName = on.name
	if c.Spec.RuntimeClassName != nil {
		spec.Handler = *c.Spec.RuntimeClassName
	}
	return manifest{container: c, spec: spec}, nil
}

// SetDefaults sets what the API server sets of the defaults in Container's CRD, and the namespace.
func SetDefaults(c *v1alpha1.Container) {
	if c.Namespace == "" {
		c.Namespace = corev1.NamespaceDefault
	}
	if c.Spec.RestartPolicy == "" {
		c.Spec.RestartPolicy = corev1.RestartPolicyAlways
	}
	if c.Spec.TerminationGracePeriodSeconds == nil {
		c.Spec.TerminationGracePeriodSeconds = new(int64)
		*c.Spec.TerminationGracePeriodSeconds = corev1.DefaultTerminationGracePeriodSeconds
	}
	if c.Spec.ProgressDeadlineSeconds == nil {
		c.Spec.ProgressDeadlineSeconds = new(int32(v1alpha1.DefaultProgressDeadlineSeconds))
	}
}

// placed refuses what asks for another node than this one.
func placed(spec *v1alpha1.ContainerSpec, on node) error {
	if spec.NodeName != "" && spec.NodeName != on.name {
		return fmt.Errorf("spec.nodeName: found %q; allowed: %q, the name of this node, or nothing", spec.NodeName, on.name)
	}
	for _, k := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		if want, have := spec.NodeSelector[k], on.labels[k]; want != have {
			return fmt.Errorf("spec.nodeSelector[%s]: found %q; allowed: %q, the label of this node", k, want, have)
		}
	}
	return nil
}
