// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/v1alpha1"
)

// devices compiles the rules of the device cgroup: only mknod(2) and the devices that
// config-linux.md, "Default Devices", has every runtime make. These stand in the document too, so
// that no runtime has to add to it.
func devices(d *draft) {
	char := func(major, minor int64, access string) specs.LinuxDeviceCgroup {
		rule := specs.LinuxDeviceCgroup{
			Allow: true, Type: "c", Access: access, Major: &major,
			Minor: &minor,
		}
		if minor < 0 {
			rule.Minor = nil
		}
		return rule
	}
	if d.privileged() {
		d.out.AllDevices = true
		d.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return
	}
	d.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
		char(1, 3, "rwm"),    // /dev/null
		char(1, 5, "rwm"),    // /dev/zero
		char(1, 7, "rwm"),    // /dev/full
		char(1, 8, "rwm"),    // /dev/random
		char(1, 9, "rwm"),    // /dev/urandom
		char(5, 0, "rwm"),    // /dev/tty
		char(5, 1, "rwm"),    // /dev/console
		char(5, 2, "rwm"),    // /dev/ptmx
		char(136, -1, "rwm"), // /dev/pts/*
	}
}

// nodeDevices checks spec.devices and passes them to the agent, which alone knows their numbers and
// the CDI specs of the node.
func nodeDevices(d *draft) {
	if d.privileged() && slices.ContainsFunc(d.in.Devices, func(dev v1alpha1.Device) bool {
		return dev.CDI == ""
	}) {
		d.refuse(d.path.Child("devices"),
			"a privileged container has all devices of the node: remove devices by path or privileged")
	}
	seen := map[string]bool{}
	for i, dev := range d.in.Devices {
		at := d.path.Child("devices").Index(i)
		if dev.CDI != "" {
			cdiDevice(d, at, dev, seen)
		} else {
			deviceByPath(d, at, dev, seen)
		}
	}
}

// cdiDevice compiles a device that the CDI specs of the node name.
func cdiDevice(d *draft, at *field.Path, dev v1alpha1.Device, seen map[string]bool) {
	for _, beside := range []struct{ name, value, fix string }{
		{"path", dev.Path, "a device has one of path and cdi: remove one of the two"},
		{"containerPath", dev.ContainerPath, "the CDI spec of the node has it: remove containerPath or cdi"},
		{"permissions", dev.Permissions, "the CDI spec of the node has them: remove permissions or cdi"},
	} {
		if beside.value != "" {
			d.refuse(at.Child(beside.name), beside.fix)
		}
	}
	switch {
	case !isCDIName(dev.CDI):
		d.invalid(at.Child("cdi"), dev.CDI,
			"must be the name of a device of CDI: write VENDOR/CLASS=NAME, such as nvidia.com/gpu=0")
	case seen[dev.CDI]:
		d.faults = append(d.faults, field.Duplicate(at.Child("cdi"), dev.CDI))
	}
	seen[dev.CDI] = true
	d.out.Devices = append(d.out.Devices, v1alpha1.Device{CDI: dev.CDI})
}

// isCDIName reports whether a name is a qualified name of the CDI specification ("Kind", "Name of
// device"): VENDOR/CLASS=NAME.
func isCDIName(name string) bool {
	kind, device, ok := strings.Cut(name, "=")
	vendor, class, qualified := strings.Cut(kind, "/")
	letter := func(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
	alphanumeric := func(c byte) bool { return letter(c) || '0' <= c && c <= '9' }
	good := func(part, between string, first func(byte) bool) bool {
		return part != "" && first(part[0]) && alphanumeric(part[len(part)-1]) &&
			!strings.ContainsFunc(part, func(r rune) bool {
				return r > 'z' || !alphanumeric(byte(r)) && !strings.ContainsRune(between, r)
			})
	}
	return ok && qualified && good(vendor, "_.-", letter) && good(class, "_.-", letter) &&
		good(device, "_.-:", alphanumeric)
}

// deviceByPath compiles a device at a path of the node.
func deviceByPath(d *draft, at *field.Path, dev v1alpha1.Device, seen map[string]bool) {
	ok := devicePath(d, at.Child("path"), dev.Path)
	where, inside := at.Child("path"), dev.Path
	if dev.ContainerPath != "" {
		where, inside = at.Child("containerPath"), dev.ContainerPath
		ok = devicePath(d, where, inside) && ok
	}
	permissions := dev.Permissions
	if permissions == "" {
		permissions = "rwm"
	}
	if !ok || !oneOf(d, at.Child("permissions"), permissions,
		"r", "w", "m", "rw", "rm", "wm", "rwm") {
		return
	}
	inside = path.Clean(inside)
	switch {
	case slices.ContainsFunc(append(madeByRuntime(), "/dev/shm", "/dev/mqueue"), func(p string) bool {
		return inside == p || strings.HasPrefix(inside, p+"/")
	}):
		d.invalid(where, inside, "is made by the runtime: give another containerPath")
	case seen[inside]:
		d.faults = append(d.faults, field.Duplicate(where, inside))
	case slices.ContainsFunc(d.in.VolumeMounts, func(m corev1.VolumeMount) bool {
		return overlap(inside, path.Clean(m.MountPath))
	}):
		d.invalid(where, inside,
			"is at, above or below a mountPath of volumeMounts: give another containerPath")
	case slices.ContainsFunc(d.out.Devices, func(o v1alpha1.Device) bool {
		return o.CDI == "" && overlap(inside, o.ContainerPath)
	}):
		d.invalid(where, inside, "is above or below another device: give another containerPath")
	}
	seen[inside] = true
	d.out.Devices = append(d.out.Devices, v1alpha1.Device{
		Path: path.Clean(dev.Path), ContainerPath: inside, Permissions: permissions,
	})
}

// overlap reports whether two paths are equal, or one is below the other.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// devicePath records a fault unless a path is below /dev and has neither ".." nor a NUL. It reports
// whether the path is good.
func devicePath(d *draft, at *field.Path, p string) bool {
	switch {
	case !strings.HasPrefix(p, "/dev/") || path.Clean(p) == "/dev":
		d.invalid(at, p, "must be below /dev: write /dev/NAME")
	case slices.Contains(strings.Split(p, "/"), ".."):
		d.invalid(at, p, `must not contain ".."`)
	case strings.ContainsRune(p, 0):
		d.invalid(at, p, "must not contain a NUL")
	default:
		return true
	}
	return false
}
