// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
)

func newRoot(p string) *specs.Root { return &specs.Root{Path: p} }

// volumes checks spec.volumes and hands them to the agent, which looks at host
// paths by their type, makes the directories (or tmpfs) of emptyDirs and writes the files of the
// other kinds.
func volumes(d *draft) {
	seen := map[string]bool{}
	for i, v := range d.in.Volumes {
		at := d.path.Child("volumes").Index(i)
		for _, msg := range validation.IsDNS1123Label(v.Name) {
			d.invalid(at.Child("name"), v.Name, msg)
		}
		if seen[v.Name] {
			d.faults = append(d.faults, field.Duplicate(at.Child("name"), v.Name))
		}
		seen[v.Name] = true
		switch set := kindsOf(&v); {
		case len(set) == 0:
			d.faults = append(d.faults, field.Required(at, oneKind))
		case len(set) > 1:
			d.refuse(at.Child(set[1]), oneKind)
		case v.HostPath != nil:
			hostFolder(d, at.Child("hostPath", "path"), v.HostPath.Path)
			if t := v.HostPath.Type; t != nil {
				oneOf(d, at.Child("hostPath", "type"), *t,
					corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
					corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket,
					corev1.HostPathCharDev, corev1.HostPathBlockDev)
			}
		case v.EmptyDir != nil:
			medium := emptyDir(d, at.Child("emptyDir"), v.EmptyDir)
			v.EmptyDir = v.EmptyDir.DeepCopy()
			v.EmptyDir.Medium = medium
		case v.PersistentVolumeClaim != nil:
			claim(d, at.Child("persistentVolumeClaim"), v.PersistentVolumeClaim)
		case v.Container != nil:
			volumeOfContainer(d, at.Child("container"), v.Container)
		case v.Image != nil:
			imageVolume(d, at.Child("image"), v.Image)
		default:
			fileVolume(d, at, &v)
		}
		d.out.Volumes = append(d.out.Volumes, *v.DeepCopy())
	}
}

const oneKind = "set exactly one of hostPath, emptyDir, configMap, secret, downwardAPI, projected, persistentVolumeClaim, container and image"

// kindsOf returns the names of the kinds that are set for a volume.
func kindsOf(v *v1alpha1.Volume) []string {
	var out []string
	for _, kind := range []struct {
		name string
		set  bool
	}{
		{"hostPath", v.HostPath != nil},
		{"emptyDir", v.EmptyDir != nil},
		{"configMap", v.ConfigMap != nil},
		{"secret", v.Secret != nil},
		{"downwardAPI", v.DownwardAPI != nil},
		{"projected", v.Projected != nil},
		{"persistentVolumeClaim", v.PersistentVolumeClaim != nil},
		{"container", v.Container != nil},
		{"image", v.Image != nil},
	} {
		if kind.set {
			out = append(out, kind.name)
		}
	}
	return out
}

// emptyDir checks a volume and returns its medium, with the size of huge pages.
func emptyDir(d *draft, at *field.Path, v *corev1.EmptyDirVolumeSource) corev1.StorageMedium {
	if v.Mode != nil {
		d.refuse(at.Child("mode"), "is not supported: remove it; the directory's mode is 0777")
	}
	medium := v.Medium
	if oneOf(d, at.Child("medium"), v.Medium, corev1.StorageMediumDefault,
		corev1.StorageMediumMemory, corev1.StorageMediumHugePages, "HugePages-2Mi", "HugePages-1Gi") &&
		isHugePages(v.Medium) {
		medium = hugePagesMedium(d, at, v)
	}
	if v.SizeLimit == nil {
		return medium
	}
	size := at.Child("sizeLimit")
	switch {
	case v.SizeLimit.IsZero():
		d.invalid(size, v.SizeLimit.String(), "must be greater than 0")
	default:
		if _, msg := exact(*v.SizeLimit, resource.Scale(0), maxBytes); msg != "" {
			d.invalid(size, v.SizeLimit.String(), msg)
		}
	}
	return medium
}

// claim checks a reference to a PersistentVolumeClaim. Its volume is the controller's to find or,
// without a cluster, the agent's.
func claim(d *draft, at *field.Path, v *corev1.PersistentVolumeClaimVolumeSource) {
	at = at.Child("claimName")
	if v.ClaimName == "" {
		d.faults = append(d.faults, field.Required(at,
			"name a PersistentVolumeClaim of the Container's namespace"))
		return
	}
	for _, msg := range validation.IsDNS1123Subdomain(v.ClaimName) {
		d.invalid(at, v.ClaimName, msg)
	}
}

// volumeOfContainer checks a reference to an emptyDir of another Container, whose directory the
// agent finds.
func volumeOfContainer(d *draft, at *field.Path, v *v1alpha1.ContainerVolume) {
	if !d.neighbours {
		d.refuse(at, "is honoured by an agent without a cluster only, since the other Container may be on another node: use an emptyDir, or remove it")
		return
	}
	for _, msg := range validation.IsDNS1123Subdomain(v.Name) {
		d.invalid(at.Child("name"), v.Name, msg)
	}
	if v.Name == d.name {
		d.invalid(at.Child("name"), v.Name,
			"must be the name of another Container: volumeMounts name a volume of its own")
	}
	for _, msg := range validation.IsDNS1123Label(v.Volume) {
		d.invalid(at.Child("volume"), v.Volume, msg)
	}
}

// imageVolume checks a reference to an image, which the agent pulls and mounts.
func imageVolume(d *draft, at *field.Path, v *v1alpha1.ImageVolumeSource) {
	if v.Reference == "" {
		d.faults = append(d.faults, field.Required(at.Child("reference"),
			"name an image of a registry, such as quay.io/team/model:1"))
	} else {
		checkReference(d, at.Child("reference"), v.Reference, fileOfVolume())
	}
	if v.PullPolicy != "" {
		oneOf(d, at.Child("pullPolicy"), v.PullPolicy, pullPolicies()...)
	}
}

// imageVolumeOptions are the options of the mounts of an image's files besides ro, since the image
// is hostile. Its programs can be executed, as in a Pod.
func imageVolumeOptions() []string { return []string{"nodev", "nosuid"} }

// pullsVolumes reports whether a registry is asked for the image of a volume.
func pullsVolumes(d *draft) bool {
	return slices.ContainsFunc(d.in.Volumes, func(v v1alpha1.Volume) bool {
		return v.Image != nil && !hasArchivePrefix(v.Image.Reference)
	})
}

// defaultMounts returns the mounts of containerd's CRI plugin.
func defaultMounts() []specs.Mount {
	return []specs.Mount{
		{
			Destination: "/proc", Type: "proc", Source: "proc",
			Options: []string{"nosuid", "noexec", "nodev"},
		},
		{
			Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"},
		},
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
		},
		{
			Destination: sharedMemory, Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"},
		},
		{
			Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue",
			Options: []string{"nosuid", "noexec", "nodev"},
		},
		{
			Destination: "/sys", Type: "sysfs", Source: "sysfs",
			Options: []string{"nosuid", "noexec", "nodev", "ro"},
		},
		{
			Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
		},
	}
}

// writableSys lets the program write to /sys and to its cgroups.
func (d *draft) writableSys() {
	for _, m := range d.spec.Mounts {
		if i := slices.Index(m.Options, "ro"); i >= 0 {
			m.Options[i] = "rw"
		}
	}
}

// sharedMemory is the directory of POSIX shared memory (shm_overview(7)).
const sharedMemory = "/dev/shm"

// shmSize compiles the size of /dev/shm.
func shmSize(d *draft) {
	size := d.in.ShmSize
	if size == nil {
		return
	}
	at := d.path.Child("shmSize")
	bytes, msg := exact(*size, resource.Scale(0), maxBytes)
	switch {
	case msg != "":
		d.invalid(at, size.String(), msg)
	case size.IsZero():
		d.invalid(at, size.String(), "must be greater than 0")
	case d.in.HostIPC:
		d.refuse(at, "a container in the node's IPC namespace has the node's /dev/shm: "+
			"remove shmSize or hostIPC")
	case slices.ContainsFunc(d.in.VolumeMounts, func(m corev1.VolumeMount) bool {
		return path.Clean(m.MountPath) == sharedMemory
	}):
		d.refuse(at, "one of volumeMounts replaces /dev/shm: remove shmSize or the mount")
	}
	i := slices.IndexFunc(d.spec.Mounts, func(m specs.Mount) bool {
		return m.Destination == sharedMemory
	})
	options := d.spec.Mounts[i].Options
	options[len(options)-1] = "size=" + strconv.FormatInt(bytes, 10)
}

// mounts compiles the default mounts and spec.volumeMounts, parents before children.
func mounts(d *draft) {
	d.spec.Mounts = defaultMounts()
	if d.privileged() {
		d.writableSys()
	}
	shmSize(d)
	if d.in.HostIPC {
		// Shared memory of the host's IPC namespace is in the host's /dev/shm.
		d.replaceMount(specs.Mount{
			Destination: sharedMemory, Type: "bind", Source: sharedMemory,
			Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"},
		})
	}
	seen := map[string]bool{}
	for i, m := range d.in.VolumeMounts {
		at := d.path.Child("volumeMounts").Index(i)
		source, readOnly := volumeSource(d, at.Child("name"), m.Name)
		ofImage := merge.OfImageVolume(source, nil)
		source = subPath(d, at, i, m, source)
		destination := path.Clean(m.MountPath)
		if mountPath(d, at.Child("mountPath"), m.MountPath) {
			if seen[destination] {
				d.faults = append(d.faults, field.Duplicate(at.Child("mountPath"), m.MountPath))
			}
			seen[destination] = true
		}
		d.replaceMount(specs.Mount{
			Destination: destination,
			Type:        "bind",
			Source:      source,
			Options:     mountOptions(d, at, m, readOnly, ofImage),
		})
	}
	// A stable sort by depth keeps a parent before its children whatever the
	// user's order, and the user's order where it does not matter.
	slices.SortStableFunc(d.spec.Mounts, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
}

// replaceMount adds a mount, in place of a default one on the same path.
func (d *draft) replaceMount(m specs.Mount) {
	d.spec.Mounts = slices.DeleteFunc(d.spec.Mounts, func(old specs.Mount) bool {
		return old.Destination == m.Destination
	})
	d.spec.Mounts = append(d.spec.Mounts, m)
}

// subPath passes a path in a volume to the agent, which mounts it, and returns the source of the
// bind mount. Without such a path that is the volume.
func subPath(d *draft, at *field.Path, number int, m corev1.VolumeMount, source string,
) string {
	in, at := m.SubPath, at.Child("subPath")
	out := v1alpha1.BundleSubPath{Mount: int32(number), Source: source}
	if m.SubPathExpr != "" {
		if in != "" {
			d.refuse(at, "may not stand beside subPathExpr: remove one of them")
		}
		in, at = m.SubPathExpr, field.NewPath(at.String()+"Expr")
		out.Expand = environment.ByNode(&d.out.Process)
		if !out.Expand {
			expanded, err := files.ExpandSubPath(in, d.env)
			if err != nil {
				d.invalid(at, in, err.Error())
				return source
			}
			in = expanded
		}
	}
	if in == "" {
		return source
	}
	if err := files.CheckSubPath(in); err != nil {
		d.invalid(at, in, err.Error())
		return source
	}
	if out.Path = path.Clean(in); out.Path == "." {
		return source
	}
	d.out.SubPaths = append(d.out.SubPaths, out)
	return merge.SubPathSource(out.Mount)
}

// volumeSource returns the source of a volume's bind mounts, and whether all of them are read-only.
func volumeSource(d *draft, at *field.Path, name string) (source string, readOnly bool) {
	i := slices.IndexFunc(d.in.Volumes, func(v v1alpha1.Volume) bool { return v.Name == name })
	if i < 0 {
		d.faults = append(d.faults, field.NotFound(at, name))
		return "volumes/" + name, false
	}
	switch v := &d.in.Volumes[i]; {
	case v.HostPath != nil:
		return path.Clean(v.HostPath.Path), false
	case files.Has(v):
		return files.Directory(name), true // as in a Pod
	case v.PersistentVolumeClaim != nil:
		return merge.NodeSource(name), v.PersistentVolumeClaim.ReadOnly
	case v.Container != nil:
		return merge.NodeSource(name), false
	case v.Image != nil:
		return merge.ImageVolumeSource(name), true
	}
	return "volumes/" + name, false
}

// madeByRuntime returns the files that a runtime creates in /dev after all mounts
// (config-linux.md, "Default Devices" and "Default Filesystems").
func madeByRuntime() []string {
	return []string{
		"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/console",
		"/dev/ptmx", "/dev/pts", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr",
	}
}

// mountPath reports whether a volume may be mounted on p.
func mountPath(d *draft, at *field.Path, p string) bool {
	clean := path.Clean(p)
	within := func(parent string) bool {
		return clean == parent || strings.HasPrefix(clean, parent+"/")
	}
	switch {
	case !strings.HasPrefix(p, "/"):
		d.invalid(at, p, "must be absolute: start it with /")
	case slices.Contains(strings.Split(p, "/"), ".."):
		d.invalid(at, p, `must not contain ".."`)
	case strings.ContainsAny(p, "\x00:"):
		d.invalid(at, p, `must contain neither ":" nor a NUL byte`)
	case clean == "/":
		d.invalid(at, p, "must not be the root: use rootfs")
	case within("/proc"):
		d.invalid(at, p, "must not be /proc or below it")
	case clean == "/sys", clean == "/sys/fs", clean == "/dev":
		d.invalid(at, p, "must not be "+clean+": mount what is needed below it, or elsewhere")
	case slices.ContainsFunc(maskedPaths(), within):
		d.invalid(at, p, "would be hidden: containers cannot see this path")
	case slices.ContainsFunc(madeByRuntime(), within):
		d.invalid(at, p, "is made by the runtime: mount it elsewhere")
	default:
		return true
	}
	return false
}

// mountOptions returns the options of a volume's bind mount.
func mountOptions(d *draft, at *field.Path, m corev1.VolumeMount, readOnly, ofImage bool) []string {
	options := []string{"rbind", propagation(d, at.Child("mountPropagation"), m)}
	for i, o := range m.BindMountOptions {
		if oneOf(d, at.Child("bindMountOptions").Index(i), o, "noexec", "nodev", "nosuid") {
			options = append(options, o)
		}
	}
	if ofImage {
		options = append(slices.DeleteFunc(options, func(o string) bool {
			return slices.Contains(imageVolumeOptions(), o)
		}), imageVolumeOptions()...)
	}
	access := "rw"
	if m.ReadOnly || readOnly {
		access = "ro"
	}
	if r := m.RecursiveReadOnly; r != nil {
		rro := at.Child("recursiveReadOnly")
		if oneOf(d, rro, *r, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyIfPossible,
			corev1.RecursiveReadOnlyEnabled) && *r != corev1.RecursiveReadOnlyDisabled {
			if !m.ReadOnly {
				d.refuse(rro, "may only be specified when readOnly is true")
			}
			if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
				d.refuse(rro, "may only be specified when mountPropagation is None or absent")
			}
			// Any kernel that Berth runs on has mount_setattr(2), so IfPossible is Enabled.
			access = "rro"
		}
	}
	return append(options, access)
}

// propagation returns the option for a mountPropagation. The container's root has to let mounts of
// the host arrive, and with Bidirectional let mounts of the container leave.
func propagation(d *draft, at *field.Path, m corev1.VolumeMount) string {
	if m.MountPropagation == nil {
		return "rprivate"
	}
	root := &d.spec.Linux.RootfsPropagation
	switch *m.MountPropagation {
	case corev1.MountPropagationNone:
	case corev1.MountPropagationHostToContainer:
		if *root == "" {
			*root = "slave"
		}
		return "rslave"
	case corev1.MountPropagationBidirectional:
		onNode := slices.ContainsFunc(d.in.Volumes, func(v v1alpha1.Volume) bool {
			return v.Name == m.Name && v.HostPath != nil
		})
		switch {
		case !d.privileged():
			d.refuse(at, "Bidirectional is for privileged containers: "+
				"set securityContext.privileged, or use HostToContainer")
		case !onNode || m.SubPath != "" || m.SubPathExpr != "":
			d.refuse(at, "Bidirectional is for a whole volume of the kind hostPath: "+
				"what a container mounts elsewhere would stay in the agent's directories")
		}
		*root = "shared"
		return "rshared"
	default:
		oneOf(d, at, *m.MountPropagation, corev1.MountPropagationNone,
			corev1.MountPropagationHostToContainer, corev1.MountPropagationBidirectional)
	}
	return "rprivate"
}
