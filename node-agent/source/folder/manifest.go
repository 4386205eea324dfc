// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// maxManifest is the greatest size of a file, as etcd limits an applied object (1.5 MiB).
const maxManifest = 16 << 20

// compiled is one Container of a file, with its defaults set, and its compiled spec.
type compiled struct {
	container *v1alpha1.Container
	spec      *v1alpha1.OCIBundleSpec // without its config
	config    source.Document
	at        manifest.Fault // the place of its name, without a message
	digest    string         // of its spec as it was written, without defaults
}

// node holds the name and labels that placement is checked against.
type node struct {
	name   string
	labels map[string]string
	// bundle is compile.Bundle, except in tests.
	bundle Compile
}

// Compile turns a Container into the spec of a bundle, as compile.Bundle does.
type Compile func(*v1alpha1.Container, ...compile.Option) (*v1alpha1.OCIBundleSpec, field.ErrorList)

// readFile reads a regular file of bounded size. It does not wait for the other end of a fifo. If
// whole is set and a process has the file open for writing, it fails with errBeingWritten.
func readFile(path string, whole bool) ([]byte, error) {
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
	if whole {
		if err := lease(f); err != nil {
			return nil, err
		}
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

// content is the parsed content of a file.
type content struct {
	// containers are the Containers of all its documents; empty if anything is wrong.
	containers []compiled
	// named has the identities of the Containers that its documents name, if it has a fault.
	named  []*v1alpha1.Container
	faults []manifest.Fault
	// objects are the ConfigMaps, Secrets and PersistentVolumeClaims of all its documents; empty if
	// anything is wrong.
	objects []*object
	// secret is the place of the first Secret, without a message; nil if there is none.
	secret *manifest.Fault
}

// parse reads all documents of a file. A file is taken whole or not at all, so each fault of each
// document counts.
func parse(data []byte, on node) content {
	var out content
	first := map[source.Key]int{}
	for _, d := range manifest.Parse(data) {
		c := on.compile(d)
		out.faults = append(out.faults, d.Faults...)
		if d.Named() {
			out.named = append(out.named, identity(d.Container))
		}
		if d.Kind == environment.KindSecret && out.secret == nil {
			out.secret = new(d.At("kind", ""))
		}
		if len(d.Faults) > 0 {
			continue
		}
		if d.Object != nil {
			out.addObject(d)
			continue
		}
		key := keyOf(c.container)
		if line, twice := first[key]; twice {
			out.faults = append(out.faults,
				d.At("metadata.name",
					fmt.Sprintf("found %s, which the document at line %d has already; allowed: each name once",
						key, line)))
			continue
		}
		first[key] = d.Line
		out.containers = append(out.containers, c)
	}
	switch {
	case len(out.faults) > 0:
		out.containers, out.objects = nil, nil
	case len(out.containers)+len(out.objects) > 0:
		out.named = nil
	default:
		out.faults = []manifest.Fault{
			{
				Message: "found no Container, Pod, ConfigMap, Secret or PersistentVolumeClaim; allowed: at least one (remove the file to remove what it has started)",
			},
		}
	}
	return out
}

// compile checks a document for this node and compiles it; it adds errors to its faults.
func (on node) compile(d *manifest.Document) compiled {
	c := d.Container
	if c == nil {
		return compiled{}
	}
	digest := specDigest(&c.Spec)
	SetDefaults(c)
	spec, faults := on.bundle(c, compile.Neighbours(), compile.WithoutServiceAccounts(),
		compile.UnsafeSysctls())
	d.Report(append(faults, on.placed(&c.Spec)...))
	var config source.Document
	if spec != nil {
		config = source.TakeDocument(spec)
		spec.NodeName = on.name
		if c.Spec.RuntimeClassName != nil {
			spec.Handler = *c.Spec.RuntimeClassName
		}
	}
	return compiled{
		container: c, spec: spec, config: config, at: d.At("metadata.name", ""),
		digest: digest,
	}
}

// specDigest returns a digest that is equal for two equivalent specs.
func specDigest(spec *v1alpha1.ContainerSpec) string {
	text, err := json.Marshal(spec)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(text))
}

// parseOne reads the one Container of a document.
func parseOne(document []byte, on node) (compiled, error) {
	found := parse(document, on)
	if len(found.faults) > 0 {
		return compiled{}, found.err()
	}
	return found.containers[0], nil
}

// identity returns a Container without its spec.
func identity(c *v1alpha1.Container) *v1alpha1.Container {
	out := &v1alpha1.Container{TypeMeta: c.TypeMeta}
	out.Name, out.Namespace = c.Name, c.Namespace
	return out
}

// err returns the faults as one error, each on a line of its own; nil if there are none.
func (c content) err() error {
	var errs []error
	for _, f := range c.faults {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// SetDefaults sets the defaults of Container's CRD, as the API server does, and the namespace.
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

// placed refuses a Container that asks for another node than this one.
func (on node) placed(spec *v1alpha1.ContainerSpec) field.ErrorList {
	var faults field.ErrorList
	at := field.NewPath("spec")
	if spec.NodeName != "" && spec.NodeName != on.name {
		faults = append(faults, field.Invalid(at.Child("nodeName"), spec.NodeName,
			fmt.Sprintf("allowed: %q, the name of this node, or nothing", on.name)))
	}
	for _, k := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		if want, have := spec.NodeSelector[k], on.labels[k]; want != have {
			faults = append(faults, field.Invalid(at.Child("nodeSelector").Key(k), want,
				fmt.Sprintf("allowed: %q, the label of this node", have)))
		}
	}
	return faults
}
