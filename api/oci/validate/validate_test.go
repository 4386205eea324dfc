// SPDX-License-Identifier: Apache-2.0

package validate_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/berth-run/berth/internal/importtest"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/api/oci/validate"
)

// A user with several mistakes learns of all of them at once, in order.
func TestAllAtOnce(t *testing.T) {
	s := good()
	s.Version = "x"
	s.Root.Path = ".."
	s.Process.Args, s.Process.Cwd = nil, "tmp"
	s.Hostname = strings.Repeat("a", 65)
	s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "x", Timeout: ptr(0)}}}
	s.Linux.Namespaces[0].Type = "pidd"
	s.Linux.MaskedPaths = []string{"x"}
	var paths []string
	faults := validate.Spec(s, validate.Options{})
	for _, f := range faults {
		paths = append(paths, f.Path)
		if f.Severity != document.Error || f.Found == "" || f.Allowed == "" {
			t.Errorf("fault %+v", f)
		}
	}
	want := []string{
		"ociVersion", "root.path", "process.cwd", "process.args", "hostname", "hooks.poststop[0].path",
		"hooks.poststop[0].timeout",
		"linux.namespaces[0].type", "linux.maskedPaths[0]",
	}
	if !reflect.DeepEqual(paths, want) {
		t.Errorf("paths %q, want %q", paths, want)
	}
	if n := strings.Count(faults.Err().Error(), "\n"); n != len(want)-1 {
		t.Errorf("the error has %d lines, want %d", n+1, len(want))
	}
}

func TestFaults(t *testing.T) {
	s := good()
	s.Hostname = "a_b"
	faults := validate.Spec(s, validate.Options{})
	if len(faults.Warnings()) != 1 || len(faults.Errors()) != 0 || faults.Err() != nil {
		t.Errorf("a warning is an error: %v", faults)
	}
	s.Root = nil
	err := fmt.Errorf("config.json: %w", validate.Spec(s, validate.Options{}).Err())
	found, ok := errors.AsType[document.Faults](err)
	if !ok || len(found) != 1 || found[0].Path != "root" {
		t.Errorf("faults %v of error %v", found, err)
	}
	if validate.Spec(nil, validate.Options{}).Err() == nil ||
		validate.Process(nil, validate.Options{}).Err() == nil {
		t.Error("nil is a good document")
	}
}

// Warnings never crowd out errors, nor does either list grow without end.
func TestManyFaults(t *testing.T) {
	s := good()
	s.Mounts = make([]specs.Mount, 10_000)
	for i := range s.Mounts {
		s.Mounts[i] = specs.Mount{Destination: "a", Type: "proc"}
	}
	s.Process.Env = make([]string, 10_000)
	faults := validate.Spec(s, validate.Options{})
	if e, w := len(faults.Errors()), len(faults.Warnings()); e != 257 || w != 257 {
		t.Errorf("%d errors, %d warnings", e, w)
	}
	if last := faults[len(faults)-1].Error(); last != "document: found 9744 more warnings; allowed: none" {
		t.Error(last)
	}
}

func TestVM(t *testing.T) {
	s := good()
	s.VM = &specs.VM{Kernel: specs.VMKernel{Path: "/boot/vmlinuz"}}
	check(t, validate.Spec(s, validate.Options{VM: true}), "")
	s.VM = &specs.VM{
		Hypervisor: specs.VMHypervisor{Path: "qemu", Parameters: []string{"\x00"}},
		Kernel:     specs.VMKernel{InitRD: "initrd"},
		Image:      specs.VMImage{Format: "raw"},
		HwConfig: &specs.HWConfig{
			VCPUs: ptr(uint32(0)), Memory: ptr(uint64(0)),
			IOMems: []specs.IOMems{{}},
		},
	}
	check(t, validate.Spec(s, validate.Options{VM: true}),
		`Error vm.hypervisor.path: found "qemu"; allowed: an absolute path on the host`+"\n"+
			`Error vm.hypervisor.parameters[0]: found "\x00"; allowed: a string without NUL bytes`+"\n"+
			`Error vm.kernel.path: found nothing; allowed: an absolute path on the host`+"\n"+
			`Error vm.kernel.initrd: found "initrd"; allowed: an absolute path on the host`+"\n"+
			`Error vm.image.path: found nothing; allowed: an absolute path on the host`+"\n"+
			`Error vm.hwConfig.vcpus: found 0; allowed: 1 or more`+"\n"+
			`Error vm.hwConfig.memory: found 0; allowed: 1 or more`+"\n"+
			`Error vm.hwConfig.iomems[0].firstMFN: found nothing; allowed: the number of the first page`+
			"\n"+
			`Error vm.hwConfig.iomems[0].nrMFNs: found no pages; allowed: 1 or more`)
}

func TestProcess(t *testing.T) {
	p := &specs.Process{Args: []string{"sh"}, Cwd: "/"}
	check(t, validate.Process(p, validate.Options{}), "")
	p = &specs.Process{Cwd: "x", User: specs.User{Umask: ptr(uint32(4096))}}
	check(t, validate.Process(p, validate.Options{}),
		`Error cwd: found "x"; allowed: an absolute path in the container`+"\n"+
			`Error args: found nothing; allowed: at least one entry, the program to run`+"\n"+
			`Error user.umask: found 4096; allowed: 0 to 511 (octal 0777)`)
}

// All 41 capabilities of linux/capability.h are known.
func TestAllCapabilities(t *testing.T) {
	names := strings.Fields(
		`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
		NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE
		SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
		SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)
	if len(names) != 41 {
		t.Fatalf("the test knows %d", len(names))
	}
	for i := range names {
		names[i] = "CAP_" + names[i]
	}
	s := good()
	s.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: names, Permitted: names,
		Effective: names, Inheritable: names, Ambient: names,
	}
	check(t, validate.Spec(s, validate.Options{}), "")
	// Each has a bit of its own: the one that is not permitted is the one
	// that is warned of.
	for i, name := range names {
		s.Process.Capabilities = &specs.LinuxCapabilities{
			Effective: names,
			Permitted: append(append([]string{}, names[:i]...), names[i+1:]...),
		}
		faults := validate.Spec(s, validate.Options{})
		if len(faults) != 1 || faults[0].Path != fmt.Sprintf("process.capabilities.effective[%d]", i) {
			t.Errorf("%s: %v", name, faults)
		}
	}
}

func TestSysctlFile(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":              "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":              "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/100.rp_filter": "net/ipv4/conf/eth0.100/rp_filter",
		"net/ipv4/conf/eth0.100/rp_filter": "net/ipv4/conf/eth0.100/rp_filter",
		"":                                 "",
		"net":                              "",
		".net":                             "",
		"/etc/passwd":                      "",
		"net..x":                           "",
		"net.x.":                           "",
		"net/../kernel/core_pattern":       "",
		"net.//.kernel.core_pattern":       "",
		"net./.x":                          "",
		"net.x\x00":                        "",
	} {
		if file, ok := validate.SysctlFile(key); file != want || ok != (want != "") {
			t.Errorf("SysctlFile(%q) = %q, %v, want %q", key, file, ok, want)
		}
	}
}

func TestOnHost(t *testing.T) {
	host := fstest.MapFS{
		"bundle/rootfs/bin/sh": {},
		"bundle/data":          {},
		"srv/data/x":           {},
		"bin/hook":             {Mode: 0o755},
		"bin/text":             {Mode: 0o644},
		"run/netns/a":          {},
	}
	s := good()
	s.Mounts = []specs.Mount{
		{Destination: "/a", Source: "/srv/data", Options: []string{"rbind"}},
		{Destination: "/b", Source: "data", Options: []string{"bind"}},
		{Destination: "/proc", Type: "proc", Source: "proc"},
	}
	s.Hooks = &specs.Hooks{
		CreateRuntime:  []specs.Hook{{Path: "/bin/hook"}},
		StartContainer: []specs.Hook{{Path: "/in/container"}},
	}
	s.Linux.Namespaces[0].Path = "/run/netns/a"
	check(t, validate.OnHost(s, host, validate.Options{Bundle: "/bundle"}), "")
	// Without the bundle, what is relative to it is not looked at.
	check(t, validate.OnHost(s, host, validate.Options{}), "")

	s.Root.Path = "rootfs/bin/sh"
	s.Mounts[0].Source, s.Mounts[1].Source = "/srv/none", "none"
	s.Hooks.Poststop = []specs.Hook{{Path: "/bin/none"}, {Path: "/bin/text"}, {Path: "/bin"}}
	s.Linux.Namespaces[0].Path = "/run/netns/b"
	check(t, validate.OnHost(s, host, validate.Options{Bundle: "/bundle"}),
		`Error root.path: found "rootfs/bin/sh", a file; allowed: a directory`+"\n"+
			`Error mounts[0].source: found "/srv/none", which does not exist; allowed: a file or directory that exists`+"\n"+
			`Error mounts[1].source: found "/bundle/none", which does not exist; allowed: a file or directory that exists`+"\n"+
			`Error hooks.poststop[0].path: found "/bin/none", which does not exist; allowed: a program that exists`+"\n"+
			`Error hooks.poststop[1].path: found "/bin/text", which is not executable; allowed: a program`+
			"\n"+
			`Error hooks.poststop[2].path: found "/bin", which is not executable; allowed: a program`+"\n"+
			`Error linux.namespaces[0].path: found "/run/netns/b", which does not exist; allowed: a namespace that exists`)
	s.Root.Path = "none"
	if f := validate.OnHost(s, host, validate.Options{Bundle: "/bundle"}); f[0].Error() !=
		`root.path: found "/bundle/none", which does not exist; allowed: a directory that exists` {
		t.Error(f[0])
	}
}

// TestImports holds that the package stays small: it is in the hot path of `berth run`, and in
// programs that must not link Kubernetes.
func TestImports(t *testing.T) {
	deps := importtest.Deps(t)
	importtest.AllowOnly(t, deps, "github.com/opencontainers/runtime-spec/specs-go",
		"github.com/berth-run/berth/api/oci/capability",
		"github.com/berth-run/berth/api/oci/document",
		"github.com/berth-run/berth/api/oci/validate")
	importtest.Forbid(t, deps, "regexp", "net", "os/exec")
}
