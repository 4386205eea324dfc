// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/json"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Option changes how Bundle compiles.
type Option func(*draft)

// Architecture says which machine the document is for, as a GOARCH value. The
// default seccomp profile depends on it: its filter names the machine's system
// call tables. Absent, it is the architecture of the program that compiles,
// which is right wherever that is the node itself.
func Architecture(goarch string) Option {
	return func(d *draft) { d.arch = goarch }
}

// Neighbours lets the Container refer to other Containers of its namespace. It is for an agent
// without a cluster, whose node has all of them.
func Neighbours() Option { return func(d *draft) { d.neighbours = true } }

// WithoutServiceAccounts refuses tokens of ServiceAccounts. It is for an agent without a cluster,
// which has nobody who issues them.
func WithoutServiceAccounts() Option { return func(d *draft) { d.noServiceAccounts = true } }

// UnsafeSysctls lets the Container set every sysctl of its own namespaces, not only those that the
// kubelet calls safe. It is for an agent without a cluster, whose manifests are root's.
func UnsafeSysctls() Option { return func(d *draft) { d.unsafeSysctls = true } }

// Bundle compiles a Container. On success the list is empty, and NodeName and
// Handler of the result are left for the caller to fill. Otherwise the result is
// nil and the list holds every fault, each with the path of its field. The
// Container is only read.
//
// In the result, config.process.args is absent where the image is to supply the
// program; config.root.path is "rootfs" for an image, and the directory itself for
// a rootfs; the source of an emptyDir's bind mount is "volumes/NAME". These
// relative paths are relative to the bundle's directory. The source of a mount of
// a PersistentVolumeClaim, or of a volume of another Container, stands for a
// directory that only the node knows (merge.NodeSource). In a cluster the caller
// fills Claims of the result, too.
func Bundle(c *v1alpha1.Container, opts ...Option) (*v1alpha1.OCIBundleSpec, field.ErrorList) {
	if c == nil {
		return nil, field.ErrorList{field.Required(field.NewPath("spec"), "there is no Container")}
	}
	d := &draft{
		name: c.Name,
		meta: &c.ObjectMeta,
		in:   c.Spec,
		path: field.NewPath("spec"),
		arch: runtime.GOARCH,
		out:  &v1alpha1.OCIBundleSpec{},
		spec: &specs.Spec{
			Version: specs.Version,
			Process: &specs.Process{},
			Linux:   &specs.Linux{Resources: &specs.LinuxResources{}},
		},
	}
	for _, o := range opts {
		o(d)
	}
	checkName(d, c)
	for _, part := range parts() {
		part(d)
	}
	if len(d.faults) > 0 {
		return nil, d.faults
	}
	document, err := json.Marshal(d.spec)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(d.path, err)}
	}
	d.out.Config.Raw = document
	return d.out, nil
}

// part is one concern: it reads d.in and adds to d.spec, d.out and d.faults.
type part func(d *draft)

// parts returns all concerns in the order of the sections of the runtime-spec. Only seccomp depends
// on one before it: rules of its profile follow capabilities.
func parts() []part {
	return []part{
		root,
		variables,
		arguments,
		workingDir,
		user,
		privileges,
		capabilities,
		hostname,
		namespaces,
		users,
		network,
		joinedNetwork,
		names,
		serviceAccount,
		volumes,
		mounts,
		hiddenPaths,
		devices,
		nodeDevices,
		cpu,
		memory,
		pids,
		hugePages,
		otherResources,
		ulimits,
		sysctls,
		seccompProfile,
		placement,
		life,
		restartBackOff,
		logging,
	}
}

// draft is a compilation under way.
type draft struct {
	name string
	meta *metav1.ObjectMeta
	in   v1alpha1.ContainerSpec
	path *field.Path
	arch string
	// neighbours allows references to other Containers.
	neighbours bool
	// noServiceAccounts refuses tokens of ServiceAccounts.
	noServiceAccounts bool
	// unsafeSysctls allows sysctls that the kubelet does not call safe.
	unsafeSysctls bool

	// env holds the variables that $(NAME) may refer to, unless the agent computes them.
	env map[string]string
	// downwardItems is the number of items of downwardAPI in the volumes so far.
	downwardItems int

	out    *v1alpha1.OCIBundleSpec
	spec   *specs.Spec
	faults field.ErrorList
}

// invalid records that the value at a path cannot be; allowed says what can.
func (d *draft) invalid(at *field.Path, found any, allowed string) {
	d.faults = append(d.faults, field.Invalid(at, found, allowed))
}

// refuse records a field that is not supported here, and what to do instead.
func (d *draft) refuse(at *field.Path, instead string) {
	d.faults = append(d.faults, field.Forbidden(at, instead))
}

// oneOf records a fault unless the value is one of those allowed.
func oneOf[T ~string](d *draft, at *field.Path, found T, allowed ...T) bool {
	for _, a := range allowed {
		if found == a {
			return true
		}
	}
	d.faults = append(d.faults, field.NotSupported(at, found, allowed))
	return false
}
