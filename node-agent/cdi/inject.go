// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	cdispecs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/api/v1alpha1"
)

// Inject applies the edits of a bundle's CDI devices to its document, in the order of the devices.
// It reads the specs in dirs, of which a later one counts over an earlier one, at each call. An
// error begins with the path of the device's field; spec is then to be thrown away.
//
// A variable of a device replaces that of the container, as under containerd and podman. Nothing
// else of a container is replaced: a mount or device node at a path that the container uses already
// is refused.
func Inject(spec *specs.Spec, devices []v1alpha1.Device, dirs []string) error {
	var in *injection
	for i, d := range devices {
		if d.CDI == "" {
			continue
		}
		if in == nil {
			in = newInjection(spec, devices, dirs)
		}
		if err := in.device(d.CDI); err != nil {
			return fmt.Errorf("spec.devices[%d].cdi: %w", i, err)
		}
	}
	return nil
}

// injection is the state of an Inject.
type injection struct {
	spec  *specs.Spec
	dirs  []string
	cache *cdi.Cache
	// mounts holds the destinations that the document had before, and paths the devices by path.
	mounts, paths map[string]bool
	// injected holds the mounts and nodes of earlier devices, by their paths in the container.
	injected map[string]any
	// applied has the specs whose common edits are made, and intelRdt the group of one of them.
	applied  map[*cdi.Spec]bool
	intelRdt *cdispecs.IntelRdt
	faults   []document.Fault
}

func newInjection(spec *specs.Spec, devices []v1alpha1.Device, dirs []string) *injection {
	in := &injection{
		spec: spec, dirs: dirs, mounts: map[string]bool{}, paths: map[string]bool{},
		injected: map[string]any{}, applied: map[*cdi.Spec]bool{},
		faults: validate.Spec(spec, validate.Options{}).Errors(),
	}
	for _, m := range spec.Mounts {
		in.mounts[path.Clean("/"+m.Destination)] = true
	}
	for _, d := range devices {
		in.paths[d.ContainerPath] = d.CDI == ""
	}
	if len(dirs) > 0 { // without any the library reads its defaults
		// NewCache returns no error, and without a refresh of its own it starts nothing.
		in.cache, _ = cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	}
	return in
}

// device applies the edits of one device: those that all devices of its spec have in common, unless
// an earlier device has brought them, and its own.
func (in *injection) device(name string) error {
	if in.cache == nil {
		return fmt.Errorf("found %s; allowed: none, since the agent's --cdi-spec-dir names no directory", name)
	}
	device := in.cache.GetDevice(name)
	if device == nil {
		return in.notFound(name)
	}
	spec := device.GetSpec()
	edits := []*cdispecs.ContainerEdits{&device.ContainerEdits}
	if !in.applied[spec] {
		in.applied[spec] = true
		edits = slices.Insert(edits, 0, &spec.ContainerEdits)
	}
	for _, e := range edits {
		if err := in.apply(e); err != nil {
			return fmt.Errorf("%s of %s: %w", name, spec.GetPath(), err)
		}
	}
	if err := in.newFaults(); err != nil {
		return fmt.Errorf("%s of %s: %w", name, spec.GetPath(), err)
	}
	return nil
}

// apply makes edits of the document after it has looked for what they would replace.
func (in *injection) apply(edits *cdispecs.ContainerEdits) error {
	if len(edits.NetDevices) > 0 {
		return fmt.Errorf("found netDevices (%s); allowed: none, since such a device would be gone from"+
			" the node at the container's next start: use networks", edits.NetDevices[0].HostInterfaceName)
	}
	for _, node := range edits.DeviceNodes {
		if err := in.checkNode(node); err != nil {
			return err
		}
	}
	for _, m := range edits.Mounts {
		if err := in.checkMount(m); err != nil {
			return err
		}
	}
	if rdt := edits.IntelRdt; rdt != nil {
		if in.intelRdt != nil && !reflect.DeepEqual(in.intelRdt, rdt) {
			return errors.New("found intelRdt beside another one of an earlier device; allowed: one for all")
		}
		in.intelRdt = rdt
	}
	if err := (&cdi.ContainerEdits{ContainerEdits: edits}).Apply(in.spec); err != nil {
		return err
	}
	// Permissions "none" have become a rule that allows nothing.
	if l := in.spec.Linux; l != nil && l.Resources != nil {
		l.Resources.Devices = slices.DeleteFunc(l.Resources.Devices,
			func(r specs.LinuxDeviceCgroup) bool { return r.Allow && r.Access == "" })
	}
	return nil
}

// checkNode refuses a device node at the path of another device, or in a mount: a runtime would
// create it in the mounted volume.
func (in *injection) checkNode(node *cdispecs.DeviceNode) error {
	at := path.Clean("/" + node.Path)
	if in.paths[at] {
		return fmt.Errorf("found a device node at %s, which is the containerPath of a device by path;"+
			" allowed: another containerPath", at)
	}
	for mount := range in.mounts {
		if mount != "/dev" && (at == mount || strings.HasPrefix(at, mount+"/")) ||
			strings.HasPrefix(mount, at+"/") {
			return fmt.Errorf("found a device node at %s, and a mount at %s;"+
				" allowed: a mountPath that is neither at, above nor below it", at, mount)
		}
	}
	return in.inject(at, "device node", *node)
}

// checkMount refuses a mount in the place of another one.
func (in *injection) checkMount(m *cdispecs.Mount) error {
	at := path.Clean("/" + m.ContainerPath)
	if in.mounts[at] {
		return fmt.Errorf("found a mount at %s, where the container has a mount already;"+
			" allowed: another mountPath", at)
	}
	if slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
		if !path.IsAbs(m.HostPath) { // it would be below the bundle
			return fmt.Errorf("found a mount of %q; allowed: an absolute path of the node", m.HostPath)
		}
		m.Type = "bind" // else a dummy, such as "none"
	}
	return in.inject(at, "mount", *m)
}

// inject notes what a device has at a path. Two devices may have the same there.
func (in *injection) inject(at, kind string, what any) error {
	other, ok := in.injected[at]
	if ok && !reflect.DeepEqual(other, what) {
		return fmt.Errorf("found a %s at %s, where an earlier device has something else;"+
			" allowed: one of the two devices", kind, at)
	}
	in.injected[at] = what
	return nil
}

// newFaults returns the faults that the document has got since the last call.
func (in *injection) newFaults() error {
	now := validate.Spec(in.spec, validate.Options{}).Errors()
	var caused document.Faults
	for _, f := range now {
		if !slices.Contains(in.faults, f) {
			caused = append(caused, f)
		}
	}
	in.faults = now
	return caused.Err()
}

// maxNames is the number of devices, and of faults, that a message names.
const maxNames = 8

// notFound returns an error with the devices that there are, and why there may not be more.
func (in *injection) notFound(name string) error {
	allowed := "no device, as these directories have no CDI spec"
	if names := in.cache.ListDevices(); len(names) > 0 {
		allowed = shortened(names, ", ")
	}
	err := fmt.Errorf("found no device %s in %s; allowed: %s", name, strings.Join(in.dirs, ", "), allowed)
	faults := map[string]bool{}
	for _, list := range in.cache.GetErrors() {
		for _, fault := range list {
			faults[fault.Error()] = true // a conflict is listed for both files
		}
	}
	for _, dir := range in.dirs { // the library reads no directory after one that it cannot read
		if _, err := os.ReadDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults[err.Error()] = true
		}
	}
	if len(faults) > 0 {
		err = fmt.Errorf("%w; %s", err, shortened(slices.Sorted(maps.Keys(faults)), "; "))
	}
	return err
}

// shortened joins the first words of a list, and says how many are left out.
func shortened(words []string, separator string) string {
	more := len(words) - maxNames
	if more <= 0 {
		return strings.Join(words, separator)
	}
	return fmt.Sprintf("%s%sand %d more", strings.Join(words[:maxNames], separator), separator, more)
}
