// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/v1alpha1"
)

// gadget is a CDI spec with two devices, and edits that both have in common.
const gadget = `cdiVersion: 0.7.0
kind: vendor.example/gadget
containerEdits:
  env: [COMMON=1, MINE=cdi]
  hooks:
  - {hookName: createContainer, path: /bin/common, args: [common, x]}
devices:
- name: first
  containerEdits:
    deviceNodes:
    - {path: /dev/first, hostPath: /dev/null, permissions: r, fileMode: 288}
    - {path: /dev/none, hostPath: /dev/null, permissions: none}
    mounts:
    - {hostPath: /srv/tool, containerPath: /usr/tool, options: [ro, rbind]}
    - {hostPath: memory, containerPath: /memory, type: tmpfs}
    additionalGids: [0, 44]
    intelRdt: {closID: gadget, l3CacheSchema: "L3:0=1"}
    hooks: [{hookName: poststop, path: /bin/after, env: [A=1], timeout: 3}]
- name: second
  containerEdits: {env: [SECOND=2]}
`

// writeSpecs writes CDI specs into a new directory.
func writeSpecs(t *testing.T, specs map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range specs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newDocument returns a document as the other stages of a start leave it.
func newDocument() *specs.Spec {
	return &specs.Spec{
		Version:     "1.3.0",
		Root:        &specs.Root{Path: "rootfs"},
		Annotations: map[string]string{"cdi.k8s.io/x": "vendor.example/gadget=second"},
		Process: &specs.Process{
			Args: []string{"x"}, Cwd: "/", Env: []string{"MINE=own", "OTHER=own"},
			User: specs.User{UID: 7, AdditionalGids: []uint32{5}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"},
			{Destination: "/usr/tool/data", Type: "bind", Source: "/x", Options: []string{"rbind"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}},
			Devices:    []specs.LinuxDevice{{Path: "/dev/own", Type: "c", Major: 1, Minor: 5}},
		},
	}
}

func byCDI(names ...string) (out []v1alpha1.Device) {
	for _, name := range names {
		out = append(out, v1alpha1.Device{CDI: name})
	}
	return out
}

// TestInject: every kind of edit reaches the document, those that two devices have in common once.
func TestInject(t *testing.T) {
	dir := writeSpecs(t, map[string]string{"gadget.yaml": gadget})
	spec := newDocument()
	devices := append([]v1alpha1.Device{{Path: "/dev/random", ContainerPath: "/dev/own"}},
		byCDI("vendor.example/gadget=first", "vendor.example/gadget=second")...)
	if err := Inject(spec, devices, []string{dir}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		found any
		want  string
	}{
		"variables": {spec.Process.Env, `["MINE=cdi","OTHER=own","COMMON=1","SECOND=2"]`},
		"groups":    {spec.Process.User.AdditionalGids, `[5,44]`},
		"mounts": {spec.Mounts, `[{"destination":"/proc","type":"proc","source":"proc"},
			{"destination":"/memory","type":"tmpfs","source":"memory"},
			{"destination":"/dev/shm","type":"tmpfs","source":"shm"},
			{"destination":"/usr/tool","type":"bind","source":"/srv/tool","options":["ro","rbind"]},
			{"destination":"/usr/tool/data","type":"bind","source":"/x","options":["rbind"]}]`},
		"devices": {spec.Linux.Devices, `[{"path":"/dev/own","type":"c","major":1,"minor":5},
			{"path":"/dev/first","type":"c","major":1,"minor":3,"fileMode":288,"uid":7},
			{"path":"/dev/none","type":"c","major":1,"minor":3,"fileMode":438,"uid":7}]`},
		"rules": {
			spec.Linux.Resources.Devices,
			`[{"allow":true,"type":"c","major":1,"minor":3,"access":"r"}]`,
		},
		"hooks": {spec.Hooks, `{"createContainer":[{"path":"/bin/common","args":["common","x"]}],
			"poststop":[{"path":"/bin/after","env":["A=1"],"timeout":3}]}`},
		"a group of resctrl": {spec.Linux.IntelRdt, `{"closID":"gadget","l3CacheSchema":"L3:0=1"}`},
	} {
		text, err := json.Marshal(tc.found)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.NewReplacer("\n", "", "\t", "").Replace(tc.want); string(text) != want {
			t.Errorf("%s: found %s; want %s", name, text, want)
		}
	}
}

// TestTwoDevicesMayHaveTheSame: of what two devices have at one path, the container has one if both
// have the same. TestRefused has those that differ.
func TestTwoDevicesMayHaveTheSame(t *testing.T) {
	const edits = `deviceNodes: [{path: /dev/control, hostPath: /dev/null, fileMode: 288, uid: 3}],
    mounts: [{hostPath: /srv/tool, containerPath: /srv/tool, options: [ro, rbind]}]`
	dir := writeSpecs(t, map[string]string{"gadget.yaml": "cdiVersion: 0.6.0\nkind: v.com/c\ndevices:\n" +
		"- {name: a, containerEdits: {" + edits + "}}\n- {name: b, containerEdits: {" + edits + "}}\n"})
	spec := newDocument()
	before := len(spec.Mounts)
	if err := Inject(spec, byCDI("v.com/c=a", "v.com/c=b"), []string{dir}); err != nil {
		t.Fatal(err)
	}
	if len(spec.Linux.Devices) != 2 || spec.Linux.Devices[1].Path != "/dev/control" ||
		len(spec.Mounts) != before+1 {
		t.Errorf("found %+v and %+v; want one device node and one mount more", spec.Linux.Devices, spec.Mounts)
	}
}

// TestDirectories: of two specs with a device, that of the later directory counts, and a change of a
// file counts from the next call on.
func TestDirectories(t *testing.T) {
	text := func(value string) string {
		return "cdiVersion: 0.6.0\nkind: v.com/c\ndevices: [{name: n, containerEdits: {env: [A=" + value + "]}}]"
	}
	lower := writeSpecs(t, map[string]string{"a.yaml": text("lower")})
	upper := writeSpecs(t, map[string]string{"z.json": text("upper"), "ignored.txt": "?"})
	missing := filepath.Join(upper, "missing")
	value := func(dirs ...string) string {
		t.Helper()
		spec := newDocument()
		if err := Inject(spec, byCDI("v.com/c=n"), dirs); err != nil {
			t.Fatal(err)
		}
		return spec.Process.Env[len(spec.Process.Env)-1]
	}
	if got := value(missing, lower, upper); got != "A=upper" {
		t.Errorf("found %s; want that of the later directory", got)
	}
	if err := os.WriteFile(filepath.Join(upper, "z.json"), []byte(text("changed")), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := value(lower, upper); got != "A=changed" {
		t.Errorf("found %s; want that of the changed file", got)
	}
}

// TestRefused: what cannot be had, or would replace something of the container, is refused by the
// field of its device.
func TestRefused(t *testing.T) {
	device := func(name, edits string) string { return "- {name: " + name + ", containerEdits: {" + edits + "}}\n" }
	dir := writeSpecs(t, map[string]string{
		"gadget.yaml": gadget,
		"odd.yaml": "cdiVersion: 1.1.0\nkind: v.com/odd\ndevices:\n" +
			device("net", "netDevices: [{hostInterfaceName: eth9, name: eth0}]") +
			device("absent", "deviceNodes: [{path: /dev/no-such-device}]") +
			device("file", "deviceNodes: [{path: /dev/x, hostPath: /etc/passwd}]") +
			device("own", "deviceNodes: [{path: /dev/own, hostPath: /dev/null}]") +
			device("shm", "deviceNodes: [{path: /dev/shm/x, hostPath: /dev/null}]") +
			device("volume", "deviceNodes: [{path: /usr/tool/data/x, hostPath: /dev/null}]") +
			device("parent", "deviceNodes: [{path: /usr/tool, hostPath: /dev/null}]") +
			device("other", "deviceNodes: [{path: /dev/first, hostPath: /dev/zero}]") +
			device("mount", "mounts: [{hostPath: /y, containerPath: /dev/first, options: [bind]}]") +
			device("data", "mounts: [{hostPath: /y, containerPath: /usr/tool/data/, options: [bind]}]") +
			device("tool", "mounts: [{hostPath: /y, containerPath: /usr/tool, options: [bind]}]") +
			device("relative", "mounts: [{hostPath: volumes/x, containerPath: /y, options: [bind]}]") +
			device("unbound", "mounts: [{hostPath: /x, containerPath: /y}]") +
			device("hook", "hooks: [{hookName: prestart, path: bin/hook}]") +
			device("rdt", "intelRdt: {closID: x}"),
		"twice.yaml":  "cdiVersion: 0.6.0\nkind: v.com/twice\ndevices:\n" + device("n", "env: [A=1]"),
		"twice2.yaml": "cdiVersion: 0.6.0\nkind: v.com/twice\ndevices:\n" + device("n", "env: [A=2]"),
		"faulty.yaml": "cdiVersion: 0.6.0\nkind: v.com/faulty\ndevices:\n" + device("n", "environment: [A=1]"),
	})
	const first = "vendor.example/gadget=first"
	for name, tc := range map[string]struct {
		devices []string
		dirs    []string
		message []string
	}{
		"a device that is not there": {devices: []string{first, "v.com/odd=no"}, message: []string{
			"spec.devices[2].cdi: found no device v.com/odd=no in " + dir + "; allowed: v.com/odd=absent, ",
			" and 9 more",
		}},
		"no specs": {
			devices: []string{first}, dirs: []string{dir + "/none"},
			message: []string{"spec.devices[1].cdi: found no device", "no CDI spec"},
		},
		"no directories": {
			devices: []string{first}, dirs: []string{},
			message: []string{"spec.devices[1].cdi: found " + first, "--cdi-spec-dir"},
		},
		"a directory that is none": {
			devices: []string{first}, dirs: []string{dir + "/odd.yaml", dir},
			message: []string{"not a directory"},
		},
		"a spec with a fault": {devices: []string{"v.com/faulty=n"}, message: []string{
			dir + "/faulty.yaml", "field environment not found",
		}},
		"a device of two specs": {
			devices: []string{"v.com/twice=n"},
			message: []string{`conflicting device "v.com/twice=n"`, "/twice.yaml", "/twice2.yaml"},
		},
		"a network device": {devices: []string{"v.com/odd=net"}, message: []string{
			"spec.devices[1].cdi: v.com/odd=net of " + dir + "/odd.yaml: found netDevices (eth9)",
		}},
		"a node that is not there": {devices: []string{"v.com/odd=absent"}, message: []string{
			`"/dev/no-such-device": no such file or directory`,
		}},
		"a node of a file": {devices: []string{"v.com/odd=file"}, message: []string{"not a device node"}},
		"the node of a device by path": {devices: []string{"v.com/odd=own"}, message: []string{
			"found a device node at /dev/own, which is the containerPath",
		}},
		"a node in a mount": {devices: []string{"v.com/odd=shm"}, message: []string{
			"found a device node at /dev/shm/x, and a mount at /dev/shm",
		}},
		"a node in a volume": {devices: []string{"v.com/odd=volume"}, message: []string{
			"found a device node at /usr/tool/data/x, and a mount at /usr/tool/data",
		}},
		"a node above a volume": {devices: []string{"v.com/odd=parent"}, message: []string{
			"found a device node at /usr/tool, and a mount at /usr/tool/data",
		}},
		"a node of one device, and a mount of another": {devices: []string{first, "v.com/odd=mount"}, message: []string{
			"spec.devices[2].cdi", "found a mount at /dev/first, where an earlier device",
		}},
		"a node of two devices": {devices: []string{first, "v.com/odd=other"}, message: []string{
			"spec.devices[2].cdi", "found a device node at /dev/first, where an earlier device",
		}},
		"a mount in the place of another": {devices: []string{"v.com/odd=data"}, message: []string{
			"found a mount at /usr/tool/data, where the container has a mount already",
		}},
		"a mount of two devices": {devices: []string{first, "v.com/odd=tool"}, message: []string{
			"found a mount at /usr/tool, where an earlier device",
		}},
		"a mount of the bundle": {devices: []string{"v.com/odd=relative"}, message: []string{
			`found a mount of "volumes/x"; allowed: an absolute path`,
		}},
		"a mount of no type": {devices: []string{"v.com/odd=unbound"}, message: []string{
			"v.com/odd=unbound", "mounts[", `"bind" or "rbind" in options`,
		}},
		"a hook without a path": {devices: []string{"v.com/odd=hook"}, message: []string{
			"v.com/odd=hook", `hooks.prestart[0].path: found "bin/hook"`,
		}},
		"two groups of resctrl": {devices: []string{first, "v.com/odd=rdt"}, message: []string{
			"found intelRdt beside another one",
		}},
	} {
		if tc.dirs == nil {
			tc.dirs = []string{dir}
		}
		devices := append([]v1alpha1.Device{{Path: "/dev/random", ContainerPath: "/dev/own"}},
			byCDI(tc.devices...)...)
		err := Inject(newDocument(), devices, tc.dirs)
		if err == nil || slices.ContainsFunc(tc.message, func(words string) bool {
			return !strings.Contains(err.Error(), words)
		}) || !strings.HasPrefix(err.Error(), "spec.devices[") {
			t.Errorf("%s: found %v; want %q", name, err, tc.message)
		}
	}
}

// TestAnnotationsNameNoDevice: a document without devices by cdi is left as it is, whatever its
// annotations say.
func TestAnnotationsNameNoDevice(t *testing.T) {
	dir := writeSpecs(t, map[string]string{"gadget.yaml": gadget})
	spec := newDocument()
	if err := Inject(spec, []v1alpha1.Device{{Path: "/dev/random", ContainerPath: "/dev/own"}},
		[]string{dir}); err != nil {
		t.Fatal(err)
	}
	found, err := json.Marshal(spec)
	want, _ := json.Marshal(newDocument())
	if err != nil || string(found) != string(want) {
		t.Errorf("found %s, %v; want %s", found, err, want)
	}
}
