// SPDX-License-Identifier: Apache-2.0

// Package merge puts what only the node knows together with the bundle spec that the controller has
// compiled: the config of the image, the accounts of its root filesystem, and values of the node.
//
//	options := merge.Options{CgroupsPath: "/berth/x", Accounts: accounts}
//	spec, err := merge.Document(&b.Spec, image, options)
//
// It is pure, and must not know where any of these come from.
package merge

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	imagev1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/accounts"
	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/v1alpha1"
)

// DefaultPath is the PATH of a process for which neither the image nor the user gives one, as
// Docker's and containerd's.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ErrRoot says that the process would be user 0 although runAsNonRoot is set.
var ErrRoot = errors.New(
	"runAsNonRoot: found user 0; allowed: any other: set runAsUser, or use an image with another user")

// Options holds the node-specific values of a config.
type Options struct {
	// CgroupsPath becomes linux.cgroupsPath.
	CgroupsPath string
	// Accounts of the root filesystem.
	Accounts accounts.Accounts
	// Environment are the variables of a bundle that asks the node for values.
	Environment environment.Variables
	// Devices are the nodes of the bundle's devices by path, in their order, or those of all devices.
	Devices []specs.LinuxDevice
	// Directories has the directories of volumes that only the node can find, by the names of the
	// volumes.
	Directories map[string]Directory
	// NoSwapLimit is for a node that cannot limit memory and swap together, see DropSwapLimit.
	NoSwapLimit bool
}

// Directory is the directory of a volume that only the node can find: a PersistentVolumeClaim, or a
// volume of another Container.
type Directory struct {
	Path string
	// ReadOnly makes all its mounts read-only.
	ReadOnly bool
	// Untouched reports that securityContext.fsGroup and seLinuxOptions do not apply to its files.
	Untouched bool
}

// NodeSource returns the source that mounts of a volume have until its Directory is known.
func NodeSource(volume string) string { return "claims/" + volume }

// ImageVolumeSource returns the source of the mounts of a volume with the files of an image.
func ImageVolumeSource(volume string) string { return "images/" + volume }

// OfImageVolume reports whether the source of a mount is an image volume, or a path in one. paths
// are the paths in volumes that mounts may have as their sources.
func OfImageVolume(source string, paths []v1alpha1.BundleSubPath) bool {
	for _, s := range paths {
		if SubPathSource(s.Mount) == source {
			source = s.Source
			break
		}
	}
	return strings.HasPrefix(source, ImageVolumeSource(""))
}

// SubPathSource returns the source of a mount of a path in a volume, for the volumeMount of that
// number.
func SubPathSource(mount int32) string { return "subpaths/" + strconv.Itoa(int(mount)) }

// Document returns the runtime-spec document of a bundle: the compiled config, with the image's
// config under what the user said of the process (command, environment, working directory, user),
// and with what only the node knows. image is nil for a container with a rootfs in place of an
// image. The image's labels and annotations are ignored.
func Document(bundle *v1alpha1.OCIBundleSpec, image *imagev1.ImageConfig, o Options) (*specs.Spec,
	error,
) {
	spec := &specs.Spec{}
	if err := json.Unmarshal(bundle.Config.Raw, spec); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if image == nil {
		image = &imagev1.ImageConfig{}
	}
	if spec.Process == nil {
		spec.Process = &specs.Process{}
	}
	if err := mountDirectories(spec.Mounts, bundle, o.Directories); err != nil {
		return nil, err
	}
	p := spec.Process

	process := bundle.Process
	if environment.ByNode(&process) {
		vars := o.Environment.Map()
		process.Command, process.Args = environment.ExpandAll(process.Command, vars),
			environment.ExpandAll(process.Args, vars)
		p.Env = o.Environment.List()
	}
	p.Args = arguments(process, image)
	if len(p.Args) == 0 {
		return nil, errors.New(
			"process.args: found nothing; allowed: set command, or args, as the image has neither entrypoint nor cmd")
	}

	switch {
	case bundle.Process.WorkingDir != "":
		p.Cwd = bundle.Process.WorkingDir
	case image.WorkingDir != "":
		p.Cwd = image.WorkingDir
		if !strings.HasPrefix(p.Cwd, "/") {
			p.Cwd = "/" + p.Cwd // as docker build writes a relative WORKDIR
		}
	default:
		p.Cwd = "/"
	}

	id, err := o.Accounts.Identify(image.User, bundle.Process.RunAsUser, bundle.Process.RunAsGroup)
	if err != nil {
		return nil, err
	}
	if bundle.Process.RunAsNonRoot && id.UID == 0 {
		return nil, ErrRoot
	}
	for _, g := range p.User.AdditionalGids { // those that the compiled config brings stay
		if !slices.Contains(id.Groups, g) {
			id.Groups = append(id.Groups, g)
		}
	}
	p.User.UID, p.User.GID, p.User.AdditionalGids = id.UID, id.GID, id.Groups

	for _, u := range bundle.Process.Ulimits {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard),
		})
	}

	p.Env = layered(id.Home, image.Env, p.Env)

	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	if o.CgroupsPath != "" {
		spec.Linux.CgroupsPath = o.CgroupsPath
	}
	nodes := o.Devices
	if bundle.AllDevices {
		nodes = visible(nodes, spec.Mounts)
	}
	addDevices(spec.Linux, bundle.Devices, nodes)
	if r := spec.Linux.Resources; o.NoSwapLimit && r != nil && r.Memory != nil {
		if err := DropSwapLimit(r.Memory, r.Memory.Limit); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

// DropSwapLimit removes memory.swap, for a node that cannot limit memory and swap together. It
// returns an error if the user has asked for swap: without that, memory.swap equals the limit of
// memory.
func DropSwapLimit(m *specs.LinuxMemory, limit *int64) error {
	if m.Swap != nil && *m.Swap > 0 && (limit == nil || *limit != *m.Swap) {
		return errors.New("spec.resources.limits[swap]: found a limit on a node whose kernel counts no" +
			" swap (cgroup v1 without swap accounting, or no CONFIG_SWAP); allowed: no limit of swap, or a" +
			" kernel with swapaccount=1 on its command line")
	}
	m.Swap = nil
	return nil
}

// mountDirectories sets the sources of mounts to the directories that only the node can find.
func mountDirectories(mounts []specs.Mount, bundle *v1alpha1.OCIBundleSpec,
	directories map[string]Directory,
) error {
	volumeOf := map[string]string{} // of a path in a volume
	for _, s := range bundle.SubPaths {
		volumeOf[SubPathSource(s.Mount)] = s.Source
	}
	for i, v := range bundle.Volumes {
		var what string
		switch {
		case v.PersistentVolumeClaim != nil:
			what = "persistentVolumeClaim: found no directory of " + v.PersistentVolumeClaim.ClaimName
		case v.Container != nil:
			what = "container: found no directory of " + v.Container.Name + "'s " + v.Container.Volume
		default:
			continue
		}
		directory, ok := directories[v.Name]
		if !ok {
			return fmt.Errorf("volumes[%d].%s on the node", i, what)
		}
		for j := range mounts {
			m := &mounts[j]
			switch NodeSource(v.Name) {
			case m.Source:
				m.Source = directory.Path
			case volumeOf[m.Source]:
			default:
				continue
			}
			if k := slices.Index(m.Options, "rw"); directory.ReadOnly && k >= 0 {
				m.Options[k] = "ro"
			}
		}
	}
	return nil
}

// visible returns the nodes that are not at, above or below a mount in /dev: a runtime would create
// them in the mounted volume, or could not create them.
func visible(nodes []specs.LinuxDevice, mounts []specs.Mount) []specs.LinuxDevice {
	return slices.DeleteFunc(slices.Clone(nodes), func(n specs.LinuxDevice) bool {
		return slices.ContainsFunc(mounts, func(m specs.Mount) bool {
			return strings.HasPrefix(m.Destination, "/dev/") && (n.Path == m.Destination ||
				strings.HasPrefix(n.Path, m.Destination+"/") || strings.HasPrefix(m.Destination, n.Path+"/"))
		})
	})
}

// addDevices adds devices of the node, and the rules of the device cgroup that allow the use of
// those by path: all others are allowed by the document, or by their CDI spec.
func addDevices(l *specs.Linux, devices []v1alpha1.Device, nodes []specs.LinuxDevice) {
	l.Devices = append(l.Devices, nodes...)
	for _, d := range devices {
		if d.CDI != "" {
			continue
		}
		if l.Resources == nil {
			l.Resources = &specs.LinuxResources{}
		}
		node := &nodes[0]
		nodes = nodes[1:]
		l.Resources.Devices = append(l.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: node.Type, Major: &node.Major, Minor: &node.Minor,
			Access: d.Permissions,
		})
	}
}

// arguments follows the table of a Pod's command and args: command replaces entrypoint and cmd,
// args alone replace cmd.
func arguments(p v1alpha1.BundleProcess, image *imagev1.ImageConfig) []string {
	var args []string
	switch {
	case len(p.Command) > 0:
		args = append(append(args, p.Command...), p.Args...)
	case len(p.Args) > 0:
		args = append(append(args, image.Entrypoint...), p.Args...)
	default:
		args = append(append(args, image.Entrypoint...), image.Cmd...)
	}
	return args
}

// layered puts lists over one another: PATH and HOME, the image's, the user's. A name appears
// once, where it came first. Words of the image that are no NAME=value are left out, as Docker
// does; those of the user stay, for validation to refuse.
func layered(home string, image, user []string) []string {
	if home == "" {
		home = "/"
	}
	out := []string{"PATH=" + DefaultPath, "HOME=" + home}
	at := map[string]int{"PATH": 0, "HOME": 1}
	set := func(entry string) {
		name, _, _ := strings.Cut(entry, "=")
		if i, ok := at[name]; ok {
			out[i] = entry
			return
		}
		at[name] = len(out)
		out = append(out, entry)
	}
	for _, e := range image {
		if strings.IndexByte(e, '=') > 0 {
			set(e)
		}
	}
	for _, e := range user {
		set(e)
	}
	return out
}
