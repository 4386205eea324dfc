// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/bundle"
)

// Node has the facts about a node that variables of its containers may refer to.
type Node struct {
	// Addresses returns the node's addresses, the one that other hosts use first.
	Addresses func() ([]netip.Addr, error)
	// Capacity has the resources that a container without limits may use.
	Capacity corev1.ResourceList
}

// Objects has the ConfigMaps and Secrets that variables and volumes may refer to.
type Objects interface {
	// Unread returns why it is not known whether these objects are there; nil if it is.
	Unread(namespace string, objects []environment.Object) error
	// Complete reports whether an object that is not there is gone: no manifest is refused, which
	// might have it.
	Complete() bool
	// Data returns the data of an object, or false if it is not there, or not yet.
	Data(namespace string, object environment.Object) (data map[string]string, ok bool)
	// Files returns the same with the binary data of a ConfigMap.
	Files(namespace string, object environment.Object) (data map[string]string, ok bool)
}

// environmentStage computes the variables of a container whose values only the node can find. A
// container that refers to an object which is not there waits for it.
type environmentStage struct {
	node Node
	// objects is nil on a node that has none.
	objects Objects
	// shares has the volumes of others, whose files variables may refer to.
	shares *shares
	// tokens is nil on a node without a cluster.
	tokens Tokens
}

func (environmentStage) Name() string { return "environment" }
func (environmentStage) Scope() Scope { return PerRun }

func (s environmentStage) Ensure(_ context.Context, c *Container) error {
	process := &c.Bundle.Spec.Process
	if !environment.ByNode(process) {
		return nil
	}
	if err := s.readable(c, "process.env", references(process)); err != nil {
		return err
	}
	vars, err := environment.Compute(process.Env, process.EnvFrom, nodeValues{s, c})
	if missing := (*environment.Missing)(nil); errors.As(err, &missing) {
		return waitFor(missing)
	}
	if err != nil {
		return fmt.Errorf("process.%w", err)
	}
	c.Environment = vars
	c.Secret = slices.ContainsFunc(references(process), func(o environment.Object) bool {
		return o.Kind == environment.KindSecret
	}) || slices.ContainsFunc(process.Env, ofFile)
	return nil
}

// ofFile reports whether the value of a variable is in a file, which nobody else needs to know.
func ofFile(e corev1.EnvVar) bool { return e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil }

// waitFor returns the *Pending of a start that waits for an object or a file, or for a key of it.
func waitFor(missing *environment.Missing) *Pending {
	return &Pending{
		Condition: v1alpha1.ConditionRunning, Reason: v1alpha1.ReasonConfigMissing,
		Message: "spec." + missing.Error(),
	}
}

// errMayBeRefused is the reason for which a running container is not compared with its objects.
var errMayBeRefused = errors.New("a manifest is refused that may have an object of theirs")

// comparable reports whether what a running container has may be compared with the objects that it
// is made of. After a start of the agent, a refused manifest may be the one that had an object:
// that is an error.
func (s environmentStage) comparable(c *Container, made []environment.Object) (bool, error) {
	if s.objects == nil {
		return true, nil
	}
	namespace := c.Bundle.Owner().Namespace
	if s.objects.Unread(namespace, made) != nil {
		return false, nil //nolint:nilerr // they are compared once they are read
	}
	missing := slices.ContainsFunc(made, func(o environment.Object) bool {
		_, found := s.objects.Data(namespace, o)
		return !found
	})
	if missing && !s.objects.Complete() {
		return false, errMayBeRefused
	}
	return true, nil
}

// allReferences returns the objects that variables and volumes of a container refer to.
func allReferences(c *Container) []environment.Object {
	spec := &c.Bundle.Spec
	return slices.Concat(references(&spec.Process), files.References(spec.Volumes))
}

// readable returns an error if the field at a path refers to objects and the agent can read none,
// or a *Pending until they have been read: an optional object is not left out before.
func (s environmentStage) readable(c *Container, path string, objects []environment.Object) error {
	if len(objects) == 0 {
		return nil
	}
	if s.objects == nil {
		return errors.New(path + ": found a reference to a ConfigMap or Secret;" +
			" allowed: none, since this agent cannot read them")
	}
	if err := s.objects.Unread(c.Bundle.Owner().Namespace, objects); err != nil {
		return &Pending{
			Condition: v1alpha1.ConditionRunning, Reason: v1alpha1.ReasonProgressing,
			Message: err.Error(),
		}
	}
	return nil
}

func references(p *v1alpha1.BundleProcess) []environment.Object {
	return environment.References(p.Env, p.EnvFrom)
}

// Release does nothing: the variables are in config.json alone.
func (environmentStage) Release(context.Context, *Container) error { return nil }

// nodeValues gives the values of the variables of one container.
type nodeValues struct {
	environmentStage
	c *Container
}

func (v nodeValues) Data(object environment.Object) (map[string]string, bool) {
	return v.objects.Data(v.c.Bundle.Owner().Namespace, object)
}

// File is part of environment.Values.
func (v nodeValues) File(ref *corev1.FileKeySelector) (environment.File, bool, error) {
	for i := range v.c.Bundle.Spec.Volumes {
		volume := &v.c.Bundle.Spec.Volumes[i]
		switch {
		case volume.Name != ref.VolumeName:
		case volume.EmptyDir != nil:
			return bundle.ReadVolumeFile(v.c.Dir.Volume(volume.Name), ref.Path)
		case volume.Container != nil:
			path, err := v.shares.path(v.c, i)
			if err != nil {
				return environment.File{}, false, err
			}
			file, found, err := bundle.ReadVolumeFile(path, ref.Path)
			if errors.Is(err, fs.ErrNotExist) {
				// Its owner has removed it since; sharesStage waits for the next one.
				err = &StageError{Reason: v1alpha1.ReasonVolumeNotReady, Class: NodeFault, Err: err}
			}
			return file, found, err
		}
	}
	return environment.File{}, false, fmt.Errorf(
		"volumeName: found %q; allowed: an emptyDir among spec.volumes", ref.VolumeName)
}

func (v nodeValues) Field(path string) (string, error) {
	switch path {
	case "metadata.uid":
		return string(v.c.Bundle.Owner().UID), nil
	case "spec.nodeName":
		return v.c.Bundle.Spec.NodeName, nil
	case "status.podIP", "status.podIPs":
		if !v.c.Connected {
			return "", nil // addressesStage computes it
		}
		if !ownNetwork(v.c.Spec) {
			return v.nodeAddresses(path)
		}
		if len(v.c.Addresses) == 0 {
			return "", fmt.Errorf("%s: found no address of the container, since the node has no network"+
				" for containers; allowed: remove the variable, or see --cni-bin-dir", path)
		}
		return joined(path, v.c.Addresses), nil
	case "status.hostIP", "status.hostIPs":
		return v.nodeAddresses(path)
	}
	return "", fmt.Errorf("fieldRef.fieldPath: found %q; allowed: metadata.uid, spec.nodeName,"+
		" status.hostIP, status.hostIPs, status.podIP and status.podIPs", path)
}

func (v nodeValues) nodeAddresses(path string) (string, error) {
	addresses, err := v.node.Addresses()
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return joined(path, addresses), nil
}

// joined returns the first address or, for a path in the plural, all of them. There is one.
func joined(path string, addresses []netip.Addr) string {
	if !strings.HasSuffix(path, "s") {
		addresses = addresses[:1]
	}
	var words []string
	for _, a := range addresses {
		words = append(words, a.String())
	}
	return strings.Join(words, ",")
}

func (v nodeValues) Resource(r *corev1.ResourceFieldSelector) (string, error) {
	return environment.OfNode(r, v.node.Capacity)
}
