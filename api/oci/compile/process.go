// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/v1alpha1"
)

// checkName repeats the API server's checks of metadata for a Container that comes from a file.
func checkName(d *draft, c *v1alpha1.Container) {
	meta := field.NewPath("metadata")
	if c.Name == "" {
		d.faults = append(d.faults, field.Required(meta.Child("name"), "a Container needs a name"))
	} else {
		for _, msg := range validation.IsDNS1123Subdomain(c.Name) {
			d.invalid(meta.Child("name"), c.Name, msg)
		}
	}
	if c.Namespace != "" {
		for _, msg := range validation.IsDNS1123Label(c.Namespace) {
			d.invalid(meta.Child("namespace"), c.Namespace, msg)
		}
	}
}

// root compiles the source of the root filesystem.
func root(d *draft) {
	d.spec.Root = newRoot("rootfs")
	secrets := pullSecrets(d)
	if sc := d.in.SecurityContext; sc != nil && sc.ReadOnlyRootFilesystem != nil {
		d.spec.Root.Readonly = *sc.ReadOnlyRootFilesystem
	}
	switch count := sources(d); {
	case count == 0:
		d.faults = append(d.faults, field.Required(d.path.Child("image"), oneSource))
	case count > 1 && d.in.RootFS != nil:
		d.refuse(d.path.Child("rootfs"), oneSource)
	case count > 1:
		d.refuse(d.path.Child("archive"), oneSource)
	case d.in.Image != "":
		checkReference(d, d.path.Child("image"), d.in.Image, fileOfContainer())
		d.out.Image = &v1alpha1.BundleImage{Reference: d.in.Image, PullPolicy: d.in.ImagePullPolicy}
		if !hasArchivePrefix(d.in.Image) {
			d.out.Image.PullSecrets = secrets
		}
	case d.in.Archive != nil:
		d.out.Image = &v1alpha1.BundleImage{
			Reference:  archiveReference(d),
			PullPolicy: d.in.ImagePullPolicy,
		}
	default:
		at := d.path.Child("rootfs", "path")
		if hostFolder(d, at, d.in.RootFS.Path) && path.Clean(d.in.RootFS.Path) == "/" {
			d.invalid(at, d.in.RootFS.Path,
				"the node's own root cannot be a container's: name a directory below it")
		}
		d.spec.Root.Path = path.Clean(d.in.RootFS.Path)
	}
	if pullsVolumes(d) {
		d.out.VolumePullSecrets = secrets
	} else if len(d.in.ImagePullSecrets) > 0 && (d.in.Image == "" || hasArchivePrefix(d.in.Image)) {
		d.refuse(d.path.Child("imagePullSecrets"), "no registry is asked: remove imagePullSecrets")
	}
	at := d.path.Child("imagePullPolicy")
	if p := d.in.ImagePullPolicy; p != "" {
		oneOf(d, at, p, pullPolicies()...)
		if d.in.RootFS != nil {
			d.refuse(at, "there is no image to pull: remove imagePullPolicy")
		}
	}
}

func pullPolicies() []corev1.PullPolicy {
	return []corev1.PullPolicy{corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever}
}

// maxPullSecrets is the number that the CRD allows, too.
const maxPullSecrets = 64

// pullSecrets returns the names of the Secrets with credentials for images.
func pullSecrets(d *draft) []string {
	at := d.path.Child("imagePullSecrets")
	if n := len(d.in.ImagePullSecrets); n > maxPullSecrets {
		d.faults = append(d.faults, field.TooMany(at, n, maxPullSecrets))
		return nil
	}
	var names []string
	for i, secret := range d.in.ImagePullSecrets {
		objectName(d, at.Index(i), secret.Name)
		names = append(names, secret.Name)
	}
	return names
}

// hasArchivePrefix reports whether an image is an archive, in the spelling from before that field.
func hasArchivePrefix(image string) bool {
	prefix, _, _ := strings.Cut(image, ":")
	return prefix == "oci" || prefix == "oci-archive" || prefix == "docker-archive"
}

// oneSource is the rule that the CRD holds, too.
const oneSource = "set exactly one of image, archive and rootfs"

// sources counts the fields that name a root filesystem.
func sources(d *draft) int {
	count := 0
	for _, set := range []bool{d.in.Image != "", d.in.Archive != nil, d.in.RootFS != nil} {
		if set {
			count++
		}
	}
	return count
}

// archivePrefix begins the reference of an archive: node-agent/image reads it.
const archivePrefix = "archive:"

// archiveReference returns the reference under which the agent knows an archive.
func archiveReference(d *draft) string {
	at, a := d.path.Child("archive"), d.in.Archive
	if hostFolder(d, at.Child("path"), a.Path) && strings.Contains(a.Path, ":") {
		d.invalid(at.Child("path"), a.Path,
			"may not contain a colon: rename the file, or give a tag in archive.name")
	}
	noControl(d, at.Child("path"), a.Path)
	noControl(d, at.Child("name"), a.Name)
	reference := archivePrefix + path.Clean(a.Path)
	if a.Name != "" {
		reference += ":" + a.Name
	}
	return reference
}

// noControl refuses control characters, which no name of an image has.
func noControl(d *draft, at *field.Path, s string) {
	if strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
		d.invalid(at, s, "must not contain control characters")
	}
}

// hostFolder checks an absolute path of the node. ".." is refused as Kubernetes
// refuses it: what a policy reads must be what is mounted.
func hostFolder(d *draft, at *field.Path, p string) bool {
	switch {
	case !strings.HasPrefix(p, "/"):
		d.invalid(at, p, "must be absolute: start it with /")
	case slices.Contains(strings.Split(p, "/"), ".."):
		d.invalid(at, p, `must not contain ".."`)
	case strings.Contains(p, "\x00"):
		d.invalid(at, p, "must not contain a NUL byte")
	default:
		return true
	}
	return false
}

// fileTransports are the prefixes of images that are files of the node: the
// spelling from before the field archive. It is compiled as ever, since what runs
// must go on after an upgrade. config/policy treats it like archive, for which it
// relies on ":/" being in each: hostFolder demands an absolute path.
var fileTransports = []string{"oci:", "oci-archive:", "docker-archive:"}

// fileHint says how a file of the node is written in place of a registry's image.
type fileHint struct {
	// field is the way to write it, and example the same for a path.
	field   string
	example func(path string) string
}

func fileOfContainer() fileHint {
	const field, earlier = "set archive.path in place of image",
		" (image: oci-archive:FILE is the earlier spelling)"
	return fileHint{field + earlier, func(path string) string {
		return field + ", as in archive: {path: " + path + "}" + earlier
	}}
}

func fileOfVolume() fileHint {
	return fileHint{"write oci-archive:FILE", func(path string) string {
		return "write oci-archive:" + path
	}}
}

// checkReference checks a reference to an image.
func checkReference(d *draft, at *field.Path, ref string, hint fileHint) {
	for _, transport := range fileTransports {
		if file, ok := strings.CutPrefix(ref, transport); ok {
			hostFolder(d, at, file)
			return
		}
	}
	_, err := name.ParseReference(ref)
	switch {
	case isFile(ref):
		file := ref
		if !path.IsAbs(ref) {
			file = "/PATH/OF/" + path.Base(ref)
		}
		err = errors.New("for a file or an OCI layout of the node " + hint.example(file))
	case strings.Contains(ref, ":/"):
		// What looks like another transport ("docker://x", "dir:/x") would be taken
		// for a repository of a registry called "docker:".
		err = errors.New("no transport of this name; for a file or an OCI layout of the node " +
			hint.field)
	}
	if err != nil {
		d.invalid(at, ref, "must be a registry reference such as docker.io/library/busybox:1.36: "+
			err.Error())
	}
}

// isFile reports whether an image looks like the name of a file. Without a registry in front x.tar
// would be looked up on Docker Hub.
func isFile(ref string) bool {
	if ref[0] == '/' || ref[0] == '.' || ref[0] == '~' {
		return true
	}
	return slices.ContainsFunc([]string{".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst"},
		func(ending string) bool {
			return strings.HasSuffix(ref, ending)
		})
}

// arguments compiles process.args. $(NAME) is replaced from spec.env alone, not from the image's
// environment, as in a Pod.
func arguments(d *draft) {
	for i, word := range d.in.Command {
		noNUL(d, d.path.Child("command").Index(i), word)
	}
	for i, word := range d.in.Args {
		noNUL(d, d.path.Child("args").Index(i), word)
	}
	d.out.Process.Command, d.out.Process.Args = d.expand(d.in.Command), d.expand(d.in.Args)
	if len(d.in.Command) > 0 {
		if d.out.Process.Command[0] == "" {
			d.invalid(d.path.Child("command").Index(0), d.in.Command[0], "must name a program")
		}
		if !environment.ByNode(&d.out.Process) {
			d.spec.Process.Args = slices.Concat(d.out.Process.Command, d.out.Process.Args)
		}
	} else if d.in.RootFS != nil && d.in.Image == "" && d.in.Archive == nil {
		d.faults = append(d.faults, field.Required(d.path.Child("command"),
			"a container with rootfs has no image to take a command from"))
	}
}

// expand replaces $(NAME) in words, unless the agent has to.
func (d *draft) expand(words []string) []string {
	if environment.ByNode(&d.out.Process) {
		return slices.Clone(words)
	}
	return environment.ExpandAll(words, d.env)
}

// noNUL refuses strings with a NUL byte, which execve(2) cannot pass on.
func noNUL(d *draft, at *field.Path, s string) {
	if strings.Contains(s, "\x00") {
		d.invalid(at, s, "must not contain a NUL byte")
	}
}

// workingDir compiles process.cwd.
func workingDir(d *draft) {
	d.spec.Process.Cwd = "/"
	if d.in.WorkingDir == "" {
		return
	}
	at := d.path.Child("workingDir")
	if !strings.HasPrefix(d.in.WorkingDir, "/") {
		d.invalid(at, d.in.WorkingDir, "must be absolute: start it with /")
	}
	noNUL(d, at, d.in.WorkingDir)
	d.spec.Process.Cwd = d.in.WorkingDir
	d.out.Process.WorkingDir = d.in.WorkingDir
}

// hostname compiles the name in the container's UTS namespace.
func hostname(d *draft) {
	at := d.path.Child("hostname")
	if d.in.Hostname != "" {
		for _, msg := range validation.IsDNS1123Label(d.in.Hostname) {
			d.invalid(at, d.in.Hostname, msg)
		}
	}
	if d.in.HostNetwork {
		if d.in.Hostname != "" {
			d.refuse(at,
				"needs a UTS namespace, which a container on the host's network does not have: remove hostname or hostNetwork")
		}
		return
	}
	d.spec.Hostname = d.in.Hostname
	if d.spec.Hostname == "" {
		d.spec.Hostname = d.name
		// As the kubelet cuts the name of a Pod: 63 is what RFC 1123 gives a label.
		if len(d.spec.Hostname) > validation.DNS1123LabelMaxLength {
			d.spec.Hostname = strings.TrimRight(d.spec.Hostname[:validation.DNS1123LabelMaxLength], "-.")
		}
	}
}
