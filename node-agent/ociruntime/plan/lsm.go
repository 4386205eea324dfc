// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"slices"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// labels sets the AppArmor profile and the SELinux context for the next execve, that of the program
// (config.md, Linux Process; apparmor(7), proc_pid_attr(5)). It comes before a namespace is joined
// and before anything of the image is mounted, so that /proc is the runtime's own; it is looked at
// all the same: a write that went elsewhere would leave the process unconfined (CVE-2019-16884,
// CVE-2025-52881).
func (c *container) labels() error {
	p := c.spec.Process
	profile := p.ApparmorProfile
	if profile == "unconfined" && !c.host.AppArmor {
		profile = "" // it is so without a step
	}
	if profile == "" && p.SelinuxLabel == "" {
		return nil
	}
	path := "process.apparmorProfile"
	if profile == "" {
		path = "process.selinuxLabel"
	}
	c.at(path)
	proc := c.reg()
	c.runtimeProc(proc)
	write := func(file, content string) {
		// Nothing that is mounted below /proc may be in the way. "self" is a symbolic link, though
		// no magic one.
		c.writeFile(regArg(proc), "self/attr/"+file, content, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|
			unix.RESOLVE_NO_MAGICLINKS)
	}
	if profile != "" {
		if !c.host.AppArmor {
			return c.fieldError(path, profile,
				"apparmor: config provided but apparmor not supported: this host has not enabled it; remove the field")
		}
		c.field = Field{Path: path, Index: -1, Note: profile}
		write("apparmor/exec", "exec "+profile)
	}
	if p.SelinuxLabel != "" {
		path = "process.selinuxLabel"
		if !c.host.SELinux {
			return c.fieldError(path, p.SelinuxLabel, noSELinux)
		}
		c.field = Field{Path: path, Index: -1, Note: p.SelinuxLabel}
		write("exec", p.SelinuxLabel)
		if !c.opts.NoNewKeyring {
			write("keycreate", p.SelinuxLabel) // for the session's keyring; execve takes it back
		}
	}
	c.at(path)
	c.close(proc)
	return nil
}

// runtimeProc opens the /proc of the runtime's mount namespace into proc, and fails with EXDEV
// where it is no procfs.
func (c *container) runtimeProc(proc Reg) {
	c.openat2(cwd(), "/proc", unix.O_PATH|unix.O_DIRECTORY, 0).into(proc)
	st := &unix.Statfs_t{}
	c.call(unix.SYS_FSTATFS, regArg(proc), structArg(native(st), "statfs"))
	kind := native(st)[unsafe.Offsetof(st.Type):]
	c.call(OpExpect, structArg(kind[:4], "statfs.type"), flags(^uint32(0), hexNames),
		flags(uint32(unix.PROC_SUPER_MAGIC), hexNames), flags(uint(unix.EXDEV), errnoNames))
}

const noSELinux = "selinux label is specified in config, but selinux is disabled or not supported: remove the field"

// contextType returns the option of a filesystem by which it gets linux.mountLabel (mount(8)); an
// annotation of crun names another one.
func (c *container) contextType() string {
	return cmp.Or(c.spec.Annotations["run.oci.mount_context_type"], "context")
}

// checkMountLabel refuses linux.mountLabel where the kernel would not know it.
func (c *container) checkMountLabel() error {
	if l := c.spec.Linux.MountLabel; l != "" && !c.host.SELinux {
		return c.fieldError("linux.mountLabel", l, noSELinux)
	}
	return nil
}

// labelled reports whether the files of a new mount get linux.mountLabel by an option of their
// filesystem, as with runc: those of the kernel's own filesystems keep the labels that the policy
// gives them, and mqueue has no such option.
func (c *container) labelled(fstype string, data []string) bool {
	switch fstype {
	case "proc", "sysfs", "cgroup", "cgroup2", "mqueue":
		return false
	}
	own := func(option string) bool {
		return strings.HasPrefix(option, "context=") || strings.HasPrefix(option, "fscontext=") ||
			strings.HasPrefix(option, "defcontext=") || strings.HasPrefix(option, "rootcontext=")
	}
	return c.spec.Linux.MountLabel != "" && !slices.ContainsFunc(data, own)
}

// labelFilesystem asks for linux.mountLabel on a filesystem that is being made.
func (c *container) labelFilesystem(fs Reg, fstype string, data []string) {
	if c.labelled(fstype, data) {
		c.fsconfigString(fs, c.contextType(), c.spec.Linux.MountLabel)
	}
}

// labelQueue labels the directory of an mqueue, which takes an attribute in place of an option
// (xattr(7)).
func (c *container) labelQueue(mount Reg, m specs.Mount) {
	l := c.spec.Linux.MountLabel
	if l == "" || m.Type != "mqueue" {
		return
	}
	dir := c.openat2(regArg(mount), ".", unix.O_RDONLY|unix.O_DIRECTORY, 0).out()
	c.call(unix.SYS_FSETXATTR, regArg(dir), text("security.selinux"), text(l), num(len(l)), num(0))
	c.close(dir)
}
