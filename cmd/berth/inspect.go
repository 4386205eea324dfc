// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/node-agent/ociruntime"
	"github.com/berth-run/berth/node-agent/ociruntime/seccomp"
)

var specCommand = command{
	name: "spec", summary: "write a config.json to begin with", min: 0, max: 0,
	examples: []string{"mkdir -p hello/rootfs && berth spec --bundle hello", "berth spec --rootless"},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		bundle := stringFlag(fs, "bundle", "b", ".", "`directory` of the bundle")
		file := stringFlag(fs, "file", "f", "config.json",
			"`file` to write, in the bundle unless it is an absolute path")
		rootless := fs.Bool("rootless", false,
			"for the user who calls: with a user namespace that maps him to root")
		return func(_ context.Context, _ *app, _ []string) error {
			spec := exampleSpec()
			if !cgroups.IsCgroup2UnifiedMode() {
				// As runc: on cgroup v1 programs look for their cgroup by the path that the host
				// has for it.
				spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces,
					func(n specs.LinuxNamespace) bool {
						return n.Type == specs.CgroupNamespace
					})
			}
			if *rootless {
				toRootless(spec)
			}
			data, err := json.MarshalIndent(spec, "", "\t")
			if err != nil {
				return err
			}
			if !filepath.IsAbs(*file) {
				*file = filepath.Join(*bundle, *file)
			}
			f, err := os.OpenFile(*file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
			if errors.Is(err, os.ErrExist) {
				return fmt.Errorf("File %s exists. Remove it first", filepath.Base(*file)) //nolint:staticcheck // runc's words
			}
			if err != nil {
				return err
			}
			_, err = f.Write(append(data, '\n'))
			return errors.Join(err, f.Close())
		}
	},
}

// exampleSpec returns the document that `spec` writes: a shell on a terminal, with little
// privilege.
func exampleSpec() *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	mount := func(destination, kind, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: destination, Type: kind, Source: source, Options: options}
	}
	return &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: "berth",
		Process: &specs.Process{
			Terminal: true, Args: []string{"sh"}, Cwd: "/", NoNewPrivileges: true,
			Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"TERM=xterm",
			},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Mounts: []specs.Mount{
			mount("/proc", "proc", "proc"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666",
				"mode=0620", "gid=5"),
			mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
		},
		Linux: &specs.Linux{
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
				"/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
				"/sys/firmware", "/proc/scsi",
			},
			ReadonlyPaths: []string{
				"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
				"/proc/sysrq-trigger",
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{
				Allow:  false,
				Access: "rwm",
			}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
			},
		},
	}
}

// readBundle reads and checks a bundle's document.
func readBundle(bundle, config string) (*specs.Spec, document.Faults, string, error) {
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return nil, nil, "", err
	}
	if config == "" {
		config = filepath.Join(bundle, "config.json")
	}
	data, err := ociruntime.ReadConfig(config)
	if err != nil {
		return nil, nil, "", err
	}
	var mapped document.Faults
	decoded := document.Decode(data)
	if decoded.Value != nil {
		mapped = ociruntime.MapCaller(decoded.Value)
	}
	spec, faults := validate.Document(decoded, validate.Options{
		Bundle: bundle, KnownSyscall: seccomp.KnownSyscall,
	})
	return spec, append(mapped, faults...), bundle, nil
}

var validateCommand = command{
	name: "validate", summary: "check a bundle's document and print every fault", min: 0, max: 0,
	examples: []string{"berth validate --bundle /srv/hello", "berth validate --strict -o json"},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		bundle := stringFlag(fs, "bundle", "b", ".", "`directory` of the bundle")
		config := stringFlag(fs, "config", "f", "", "`file` to read in place of config.json")
		output := stringFlag(fs, "output", "o", "text", "`format`: text or json")
		strict := fs.Bool("strict", false, "report warnings as errors")
		return func(_ context.Context, a *app, _ []string) error {
			spec, faults, dir, err := readBundle(*bundle, *config)
			if err != nil {
				return err
			}
			if spec != nil && len(faults.Errors()) == 0 {
				faults = append(faults, validate.OnHost(spec, os.DirFS("/"), validate.Options{Bundle: dir})...)
			}
			if *strict {
				for i := range faults {
					faults[i].Severity = document.Error
				}
			}
			switch *output {
			case "json":
				if faults == nil {
					faults = document.Faults{}
				}
				if err := json.NewEncoder(a.stdout).Encode(faults); err != nil {
					return err
				}
			case "text":
				for _, f := range faults {
					fmt.Fprintf(a.stdout, "%s: %s\n", f.Severity, f.Error())
				}
			default:
				return fmt.Errorf("--output: found %q; allowed are text, json", *output)
			}
			if len(faults.Errors()) > 0 {
				return exitError(exitFailure)
			}
			return nil
		}
	},
}

var planCommand = command{
	name:    "plan",
	summary: "print the system calls that a bundle's container would be made by, and the field each serves", min: 0, max: 0,
	examples: []string{"berth plan --bundle /srv/hello", "berth plan -o json | jq '.steps[].call'"},
	flags: func(fs *flag.FlagSet) func(context.Context, *app, []string) error {
		bundle := stringFlag(fs, "bundle", "b", ".", "`directory` of the bundle")
		config := stringFlag(fs, "config", "f", "", "`file` to read in place of config.json")
		output := stringFlag(fs, "output", "o", "text", "`format`: text or json")
		return func(_ context.Context, a *app, _ []string) error {
			spec, faults, dir, err := readBundle(*bundle, *config)
			if err != nil {
				return err
			}
			if err := faults.Err(); err != nil {
				return err
			}
			r, err := a.runtime()
			if err != nil {
				return err
			}
			p, err := r.Plan(spec, dir)
			if err != nil {
				return err
			}
			switch *output {
			case "text":
				return p.WriteText(a.stdout)
			case "json":
				return json.NewEncoder(a.stdout).Encode(p)
			}
			return fmt.Errorf("--output: found %q; allowed are text, json", *output)
		}
	},
}
