// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/v1alpha1"
)

// kindPod is the kind of a Pod, of apiVersion v1.
const kindPod = "Pod"

// podOf is a Pod that is converted to Containers.
type podOf struct {
	*corev1.Pod
	decoded    *decoder
	containers []*podContainer // in the order of their start
	// users has the containers that mount a volume or take variables from it, by its name.
	users map[string][]*podContainer
}

// maxContainers is the greatest number of containers in a Pod: a Container may have that many
// dependencies.
const maxContainers = 64

// podContainer is a container of a Pod.
type podContainer struct {
	*corev1.Container
	// name of the Container.
	name string
	// init is set for an init container, and sidecar for an init container with restartPolicy Always.
	init, sidecar bool
	origin        *origin
}

// decodePod decodes the document's root as a Pod. It returns a document for each container, in the
// order in which they start. The first document has the faults of the Pod.
func (d *Document) decodePod(root *yaml.Node) []*Document {
	d.Line = d.decoded.line + root.Line
	d.decoded.pod = true
	pod := podOf{Pod: &corev1.Pod{}, decoded: &d.decoded, users: map[string][]*podContainer{}}
	if !d.decodeInto(root, pod.Pod, kindPod) {
		d.Faults = sorted(d.Faults)
		return []*Document{d}
	}
	if n := len(pod.Spec.InitContainers) + len(pod.Spec.Containers); n > maxContainers {
		d.decoded.faultAtField("spec.containers", fmt.Sprintf(
			"found %d containers, with those of initContainers; allowed: %d", n, maxContainers))
		d.Faults = sorted(d.decoded.faults)
		return []*Document{d}
	}
	pod.list()
	pod.checkNames()
	pod.refuseFields()
	out := []*Document{d}
	for i, c := range pod.containers {
		if i > 0 {
			out = append(out, &Document{Line: d.Line, Item: d.Item})
		}
		made := out[i]
		made.Pod, made.Container, made.origin = pod.Name, pod.container(c), c.origin
	}
	d.Faults = sorted(d.decoded.faults)
	reported := map[Fault]bool{}
	for _, made := range out {
		made.decoded, made.reported = d.decoded, reported
	}
	return out
}

// list lists the containers in the order of their start.
func (p *podOf) list() {
	add := func(list string, of []corev1.Container) {
		for i := range of {
			c := &podContainer{Container: &of[i], init: list == "initContainers"}
			c.name = p.Name + "-" + c.Name
			c.sidecar = c.init && c.RestartPolicy != nil &&
				*c.RestartPolicy == corev1.ContainerRestartPolicyAlways
			c.origin = &origin{at: fmt.Sprintf("spec.%s[%d]", list, i)}
			p.containers = append(p.containers, c)
			p.listUsers(c)
		}
	}
	add("initContainers", p.Spec.InitContainers)
	add("containers", p.Spec.Containers)
}

// listUsers records the volumes that a container uses.
func (p *podOf) listUsers(c *podContainer) {
	note := func(volume string) {
		if of := p.users[volume]; len(of) == 0 || of[len(of)-1] != c {
			p.users[volume] = append(of, c)
		}
	}
	for _, m := range c.VolumeMounts {
		note(m.Name)
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil {
			note(e.ValueFrom.FileKeyRef.VolumeName)
		}
	}
}

// checkNames checks the names of the Pod and its containers, which make up the names of the
// Containers.
func (p *podOf) checkNames() {
	before := len(p.decoded.faults)
	if p.Name == "" {
		p.decoded.faultAtValue("metadata.name", "found nothing; a Pod needs a name")
	} else {
		for _, msg := range validation.IsDNS1123Subdomain(p.Name) {
			p.invalid("metadata.name", p.Name, msg)
		}
	}
	if len(p.Spec.Containers) == 0 && !p.decoded.explains(
		field.Required(field.NewPath("spec", "containers"), "")) {
		p.decoded.faultAtValue("spec.containers", "found nothing; allowed: at least one container")
	}
	seen := map[string]bool{}
	for _, c := range p.containers {
		at := c.origin.at + ".name"
		switch {
		case c.Name == "":
			p.decoded.faultAtValue(at, "found nothing; a container of a Pod needs a name")
			continue
		case seen[c.Name]:
			p.decoded.faultAtValue(at, "found "+quote(c.Name)+" a second time; allowed: once")
		}
		seen[c.Name] = true
		msgs := validation.IsDNS1123Label(c.Name)
		for _, msg := range msgs {
			p.invalid(at, c.Name, msg)
		}
		const most = validation.DNS1123SubdomainMaxLength
		if len(msgs) == 0 && len(p.Name) <= most && len(c.name) > most {
			p.invalid(at, c.Name, fmt.Sprintf("makes the Container's name %s-%s longer than %d characters",
				p.Name, c.Name, most))
		}
	}
	if len(p.decoded.faults) > before { // the compiler finds them again in the names of Containers
		for _, c := range p.containers {
			p.decoded.touched = append(p.decoded.touched, c.origin.at+".name")
		}
	}
}

// invalid adds a fault for an invalid value.
func (p *podOf) invalid(at, found, allowed string) {
	e := field.Invalid(nil, found, allowed)
	p.decoded.faultAtValue(at, semantic(e))
}

// appArmorAnnotation is the prefix of annotations that Kubernetes reads as the field
// appArmorProfile.
const appArmorAnnotation = "container.apparmor.security.beta.kubernetes.io/"

// refuseFields adds a fault for each field of the Pod that no Container has.
func (p *podOf) refuseFields() {
	d, spec := p.decoded, &p.Spec
	d.refuse("spec", "a Pod", spec, podRefusals())
	d.refuse("spec.securityContext", "a Pod's securityContext", spec.SecurityContext,
		podSecurityRefusals())
	for _, c := range p.containers {
		d.refuse(c.origin.at, "a Pod's container", c.Container, containerRefusals())
	}
	for name := range p.Annotations {
		if strings.HasPrefix(name, appArmorAnnotation) {
			d.faultAtField("metadata.annotations["+name+"]",
				"found an annotation in place of a field; write securityContext.appArmorProfile of the container")
		}
	}
	if len(p.containers) < 2 {
		return
	}
	if users := spec.HostUsers; users != nil && !*users {
		d.faultAtField("spec.hostUsers", "found false in a Pod of several containers, whose network"+
			" one user namespace would own, while each Container has its own; allowed: true")
	}
	if fqdn := spec.SetHostnameAsFQDN; fqdn != nil && *fqdn && spec.Subdomain != "" {
		d.faultAtField("spec.setHostnameAsFQDN", "found true in a Pod of several containers, of which"+
			" one alone would have the name; allowed: false, with the name in hostname")
	}
}

// origin maps the fields of a Container to the fields of its Pod.
type origin struct {
	at string // of the container, such as spec.containers[0]
	// ports has the paths of the Container's ports, and volumes and sysctls have their indexes in the
	// Pod.
	ports            []string
	volumes, sysctls []int
	// inherited has the names of the securityContext fields that come from the Pod.
	inherited map[string]bool
	// ownRestart is set if the container has a restartPolicy of its own.
	ownRestart bool
}

// path returns the path in the Pod of a path in the Container.
func (o *origin) path(path string) string {
	if o == nil {
		return path
	}
	rest, ok := strings.CutPrefix(path, "spec.")
	if !ok {
		if path == "metadata.name" {
			return o.at + ".name"
		}
		return path
	}
	name, below := rest, ""
	if end := strings.IndexAny(rest, ".["); end >= 0 {
		name, below = rest[:end], rest[end:]
	}
	switch name {
	case "network", "dependsOn":
		return o.at + ".name"
	case "ports":
		if i, below, ok := cutIndex(below); ok && i < len(o.ports) {
			return o.ports[i] + below
		}
		return o.at + "." + rest
	case "volumes":
		if i, below, ok := cutIndex(below); ok && i < len(o.volumes) {
			return fmt.Sprintf("spec.volumes[%d]%s", o.volumes[i], below)
		}
		return path
	case "securityContext":
		return o.security(path, strings.TrimPrefix(below, "."))
	case "restartPolicy":
		if o.ownRestart {
			return o.at + "." + rest
		}
		return path
	case "image", "imagePullPolicy", "command", "args", "workingDir", "env", "envFrom", "resources",
		"volumeMounts":
		return o.at + "." + rest
	}
	return path
}

// security returns the path of a field of securityContext.
func (o *origin) security(path, rest string) string {
	name := rest
	if end := strings.IndexAny(rest, ".["); end >= 0 {
		name = rest[:end]
	}
	if !o.inherited[name] {
		return o.at + strings.TrimPrefix(path, "spec")
	}
	if i, below, ok := cutIndex(strings.TrimPrefix(rest, "sysctls")); ok && name == "sysctls" &&
		i < len(o.sysctls) {
		return fmt.Sprintf("spec.securityContext.sysctls[%d]%s", o.sysctls[i], below)
	}
	return path
}

// cutIndex cuts [N] off the beginning of a path.
func cutIndex(path string) (index int, rest string, ok bool) {
	end := strings.IndexByte(path, ']')
	if end < 0 {
		return 0, "", false
	}
	if _, err := fmt.Sscanf(path[:end+1], "[%d]", &index); err != nil || index < 0 {
		return 0, "", false
	}
	return index, path[end+1:], true
}

// condition returns the state in which a container lets the next ones start.
func (c *podContainer) condition() v1alpha1.DependencyCondition {
	if c.sidecar {
		return v1alpha1.DependencyStarted
	}
	return v1alpha1.DependencyCompleted
}
