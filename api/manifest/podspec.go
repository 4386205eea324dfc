// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	strictjson "sigs.k8s.io/json"

	"github.com/berth-run/berth/api/v1alpha1"
)

// container converts a container of the Pod to a Container.
func (p *podOf) container(c *podContainer) *v1alpha1.Container {
	out := &v1alpha1.Container{}
	out.APIVersion, out.Kind = v1alpha1.GroupVersion.String(), containerKind
	out.Name, out.Namespace = c.name, p.Namespace
	out.Labels, out.Annotations = maps.Clone(p.Labels), maps.Clone(p.Annotations)
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	out.Annotations[v1alpha1.AnnotationPod] = p.Name
	out.Spec = v1alpha1.ContainerSpec{
		Image: c.Image, ImagePullPolicy: c.ImagePullPolicy, ImagePullSecrets: p.Spec.ImagePullSecrets,
		Command: c.Command, Args: c.Args, WorkingDir: c.WorkingDir, EnvFrom: c.EnvFrom,
		Env: p.variables(c), Resources: c.Resources, VolumeMounts: c.VolumeMounts,
		HostPID: p.Spec.HostPID, HostIPC: p.Spec.HostIPC, HostUsers: p.hostUsers(),
		TerminationGracePeriodSeconds: p.Spec.TerminationGracePeriodSeconds,
		NodeName:                      p.Spec.NodeName, NodeSelector: p.Spec.NodeSelector,
		Tolerations: p.Spec.Tolerations, RuntimeClassName: p.Spec.RuntimeClassName,
		RestartPolicy: p.restartPolicy(c), DependsOn: p.dependencies(c),
		SecurityContext: p.securityContext(c), Volumes: p.volumes(c),
	}
	p.setNetwork(c, &out.Spec)
	if out.Spec.Network != nil { // the owner's
		delete(out.Annotations, v1alpha1.AnnotationIngressBandwidth)
		delete(out.Annotations, v1alpha1.AnnotationEgressBandwidth)
	}
	return out.DeepCopy()
}

// hostUsers returns the Pod's hostUsers. For several containers it returns true instead of nil: the
// agent's default could give a user namespace to the owner of their network alone.
func (p *podOf) hostUsers() *bool {
	if p.Spec.HostUsers == nil && len(p.containers) > 1 {
		return new(true)
	}
	return p.Spec.HostUsers
}

// owner returns the container that starts first. The others join its network.
func (p *podOf) owner() *podContainer { return p.containers[0] }

// restartPolicy returns the policy of a container. An init container that has done its work is not
// run again.
func (p *podOf) restartPolicy(c *podContainer) corev1.RestartPolicy {
	policy := cmp.Or(p.Spec.RestartPolicy, corev1.RestartPolicyAlways)
	switch {
	case c.RestartPolicy != nil && *c.RestartPolicy != "":
		c.origin.ownRestart = true
		return corev1.RestartPolicy(*c.RestartPolicy)
	case c.init && policy == corev1.RestartPolicyAlways:
		return corev1.RestartPolicyOnFailure
	}
	return policy
}

// dependencies returns the dependencies of a container: an init container waits for the one before
// it, any other container for all init containers.
func (p *podOf) dependencies(c *podContainer) []v1alpha1.Dependency {
	var out []v1alpha1.Dependency
	for _, other := range p.containers {
		if other == c || !other.init {
			break
		}
		out = append(out, v1alpha1.Dependency{Name: other.name, Condition: other.condition()})
	}
	if c.init && len(out) > 1 {
		return out[len(out)-1:]
	}
	return out
}

// setNetwork sets the fields of the network and its names. If the containers share a network, only
// its owner gets them.
func (p *podOf) setNetwork(c *podContainer, out *v1alpha1.ContainerSpec) {
	spec := &p.Spec
	out.HostNetwork, out.Hostname = spec.HostNetwork, spec.Hostname
	if !spec.HostNetwork && out.Hostname == "" {
		out.Hostname = hostnameOf(p.Name)
	}
	switch {
	case spec.HostNetwork:
		for i := range c.Ports {
			c.origin.ports = append(c.origin.ports, fmt.Sprintf("%s.ports[%d]", c.origin.at, i))
		}
		out.Ports = c.Ports
		p.checkNodePorts(c)
	case c != p.owner():
		out.Network = &v1alpha1.Network{Container: p.owner().name}
		return
	default:
		out.Ports, c.origin.ports = p.allPorts()
	}
	out.Subdomain = spec.Subdomain
	out.SetHostnameAsFQDN = spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN
	out.DNSPolicy = spec.DNSPolicy
	for _, a := range spec.HostAliases {
		out.HostAliases = append(out.HostAliases, v1alpha1.HostAlias{IP: a.IP, Hostnames: a.Hostnames})
	}
	if spec.DNSConfig == nil {
		return
	}
	out.DNSConfig = &v1alpha1.DNSConfig{
		Nameservers: spec.DNSConfig.Nameservers, Searches: spec.DNSConfig.Searches,
	}
	for _, o := range spec.DNSConfig.Options {
		out.DNSConfig.Options = append(out.DNSConfig.Options,
			v1alpha1.DNSOption{Name: o.Name, Value: o.Value})
	}
}

// hostnameOf returns the default hostname of a Pod, or "" if the Pod's name is not a valid
// hostname: each Container then has a hostname of its own.
func hostnameOf(pod string) string {
	if len(pod) > validation.DNS1123LabelMaxLength { // as the kubelet cuts it
		pod = strings.TrimRight(pod[:validation.DNS1123LabelMaxLength], "-.")
	}
	if len(validation.IsDNS1123Label(pod)) > 0 {
		return ""
	}
	return pod
}

// allPorts returns the ports of all containers, and their paths. In a Pod, containers may use the
// same name for a port; in a Container it is unique, so later containers lose it.
func (p *podOf) allPorts() ([]corev1.ContainerPort, []string) {
	var ports []corev1.ContainerPort
	var paths []string
	names := map[string]*podContainer{}
	for _, c := range p.containers {
		own := map[string]bool{}
		for i, port := range c.Ports {
			name := port.Name
			if first := names[name]; first == nil {
				names[name] = c
			} else if first != c && !own[name] {
				port.Name = ""
			}
			own[name] = true
			ports = append(ports, port)
			paths = append(paths, fmt.Sprintf("%s.ports[%d]", c.origin.at, i))
		}
	}
	return ports, paths
}

// checkNodePorts adds a fault for each port of the node that an earlier container has, too. In a
// network of the Pod the compiler finds them.
func (p *podOf) checkNodePorts(c *podContainer) {
	type key struct {
		port     int32
		protocol corev1.Protocol
	}
	keyOf := func(port corev1.ContainerPort) key {
		return key{port.ContainerPort, cmp.Or(port.Protocol, corev1.ProtocolTCP)}
	}
	taken := map[key]bool{}
	for _, other := range p.containers {
		if other == c {
			break
		}
		for _, port := range other.Ports {
			taken[keyOf(port)] = true
		}
	}
	for i, port := range c.Ports {
		if taken[keyOf(port)] {
			p.decoded.faultAtValue(c.origin.ports[i]+".containerPort", fmt.Sprintf(
				"found %d a second time; allowed: once, since the containers are in the node's network",
				port.ContainerPort))
		}
	}
}

// variables returns the variables of a container. References to the Pod are rewritten (ofPod).
func (p *podOf) variables(c *podContainer) []corev1.EnvVar {
	var out []corev1.EnvVar
	for _, e := range c.Env {
		e = *e.DeepCopy()
		if e.ValueFrom != nil {
			p.ofPod(c, e.ValueFrom.FieldRef, e.ValueFrom.ResourceFieldRef)
		}
		out = append(out, e)
	}
	return out
}

// ofPod rewrites references to fields of the Pod: the Container has the same values elsewhere.
func (p *podOf) ofPod(c *podContainer, f *corev1.ObjectFieldSelector,
	r *corev1.ResourceFieldSelector,
) {
	if f != nil && f.FieldPath == "metadata.name" {
		f.FieldPath = "metadata.annotations['" + v1alpha1.AnnotationPod + "']"
	}
	if r != nil && r.ContainerName == c.Name {
		r.ContainerName = ""
	}
}

// securityContext returns a container's securityContext. Fields that it does not set come from the
// Pod's.
func (p *podOf) securityContext(c *podContainer) *v1alpha1.SecurityContext {
	out := &v1alpha1.SecurityContext{}
	if c.SecurityContext != nil {
		out.SecurityContext = *c.SecurityContext.DeepCopy()
	}
	c.origin.inherited = map[string]bool{}
	pod := p.Spec.SecurityContext
	if pod == nil {
		pod = &corev1.PodSecurityContext{}
	}
	to, from := reflect.ValueOf(&out.SecurityContext).Elem(), reflect.ValueOf(pod).Elem()
	for i := range to.NumField() {
		f := to.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if v := from.FieldByName(f.Name); v.IsValid() && !v.IsZero() && to.Field(i).IsZero() {
			to.Field(i).Set(v)
			c.origin.inherited[name] = true
		}
	}
	for _, name := range []string{"supplementalGroups", "fsGroup", "fsGroupChangePolicy", "sysctls"} {
		c.origin.inherited[name] = true
	}
	out.SupplementalGroups, out.FSGroup = pod.SupplementalGroups, pod.FSGroup
	if pod.FSGroupChangePolicy != nil {
		out.FSGroupChangePolicy = *pod.FSGroupChangePolicy
	}
	for i, s := range pod.Sysctls {
		// Sysctls of the network apply to the owner, whose network the others join. Every other sysctl
		// applies to each container, which has namespaces of its own.
		if network := strings.HasPrefix(s.Name, "net."); network && c != p.owner() &&
			!p.Spec.HostNetwork {
			continue
		}
		out.Sysctls = append(out.Sysctls, s)
		c.origin.sysctls = append(c.origin.sysctls, i)
	}
	if reflect.ValueOf(*out).IsZero() {
		return nil
	}
	return out
}

// volumes returns the volumes that a container uses. The owner also gets the volumes that no
// container uses.
func (p *podOf) volumes(c *podContainer) []v1alpha1.Volume {
	var out []v1alpha1.Volume
	for i := range p.Spec.Volumes {
		v := p.Spec.Volumes[i].DeepCopy()
		users := p.users[v.Name]
		if !slices.Contains(users, c) && (len(users) > 0 || c != p.owner()) {
			continue
		}
		if made, ok := p.volume(c, i, v, users); ok {
			out = append(out, made)
			c.origin.volumes = append(c.origin.volumes, i)
		}
	}
	return out
}

// volume converts a volume of the Pod to a volume of a Container. Both have the same fields, except
// for kinds that a Container does not have.
func (p *podOf) volume(c *podContainer, number int, v *corev1.Volume, users []*podContainer,
) (v1alpha1.Volume, bool) {
	at := fmt.Sprintf("spec.volumes[%d]", number)
	if v.VolumeSource == (corev1.VolumeSource{}) { // as in a Pod
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if v.EmptyDir != nil && len(users) > 1 {
		// The agent measures the size of an emptyDir while its owner runs, so the owner is no init
		// container that ends, if possible.
		owner := users[max(0, slices.IndexFunc(users, func(c *podContainer) bool {
			return !c.init || c.sidecar
		}))]
		if c != owner {
			return v1alpha1.Volume{
				Name: v.Name, Container: &v1alpha1.ContainerVolume{Name: owner.name, Volume: v.Name},
			}, true
		}
	}
	p.refuseKinds(at, v)
	if v.DownwardAPI != nil {
		p.ofPodFiles(c, v.DownwardAPI.Items)
	}
	if v.Projected != nil {
		for _, s := range v.Projected.Sources {
			if s.DownwardAPI != nil {
				p.ofPodFiles(c, s.DownwardAPI.Items)
			}
		}
	}
	var out v1alpha1.Volume
	var strict []error
	text, err := json.Marshal(v)
	if err == nil {
		strict, err = strictjson.UnmarshalStrict(text, &out)
	}
	if err == nil && !p.faulty(at) { // or a field that no Container has would be dropped
		err = errors.Join(strict...)
	}
	if err != nil {
		p.decoded.faultAtValue(at, err.Error())
	}
	return out, err == nil
}

// faulty reports whether a fault was noted below a path.
func (p *podOf) faulty(at string) bool {
	return slices.ContainsFunc(p.decoded.touched, func(path string) bool {
		return strings.HasPrefix(path, at+".")
	})
}

// ofPodFiles rewrites the references of files of downwardAPI (ofPod).
func (p *podOf) ofPodFiles(c *podContainer, items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		p.ofPod(c, items[i].FieldRef, items[i].ResourceFieldRef)
	}
}

// refuseKinds adds a fault for each kind of a volume, or of a source of a projected volume, that no
// Container has.
func (p *podOf) refuseKinds(at string, v *corev1.Volume) {
	refuse := func(at, owner string, source any, has reflect.Type) {
		value := reflect.ValueOf(source)
		for i := range value.NumField() {
			if value.Field(i).IsZero() {
				continue
			}
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			if _, known := fields(has)[name]; known ||
				slices.Contains(p.decoded.touched, at+"."+name) {
				continue
			}
			kinds := slices.DeleteFunc(names(has), func(n string) bool {
				_, inPod := fields(value.Type())[n]
				return !inPod || n == "serviceAccountToken" // which is refused
			})
			p.decoded.faultAtField(at+"."+name, refusal{}.message(owner)+", or use one of "+
				strings.Join(kinds, ", "))
		}
	}
	refuse(at, "a Pod's volume", v.VolumeSource, reflect.TypeFor[v1alpha1.Volume]())
	if v.Projected == nil {
		return
	}
	user := at + ".projected.defaultUser"
	if v.Projected.DefaultUser != nil && !slices.Contains(p.decoded.touched, user) {
		p.decoded.faultAtField(user,
			"found a user; allowed: nothing, since the files belong to root: set a mode that lets others read")
	}
	v.Projected.DefaultUser = nil // or it is refused again
	for i, s := range v.Projected.Sources {
		refuse(fmt.Sprintf("%s.projected.sources[%d]", at, i), "a Pod's projected volume", s,
			reflect.TypeFor[v1alpha1.VolumeProjection]())
	}
}
