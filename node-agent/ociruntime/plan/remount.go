// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// remount changes a mount that is there: with "bind" its own flags alone, else the options of its
// filesystem as well (mount(8), remount). Only what is named changes. "ro" is the mount's: the
// filesystem may be the host's, which has it mounted elsewhere too.
func (c *container) remount(m specs.Mount, o mountOptions) {
	at := c.inRoot(c.rootFD, m.Destination, 0).out()
	if sb := slices.Concat(o.sb, o.sbClear); !o.bind && len(o.data)+len(sb) > 0 {
		fs := c.call(unix.SYS_FSPICK, regArg(at), text(""),
			flags(uint(unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH), fspickNames)).out()
		c.fsconfigOptions(fs, o.data, sb)
		c.call(unix.SYS_FSCONFIG, regArg(fs), flags(uint(unix.FSCONFIG_CMD_RECONFIGURE), fsconfigNames),
			noPointer(), noPointer(), num(0))
		c.close(fs)
	}
	late := o.attr.set&unix.MOUNT_ATTR_RDONLY != 0
	o.attr.set &^= unix.MOUNT_ATTR_RDONLY
	if !o.attr.zero() {
		c.mountSetattr(regArg(at), "", unix.AT_EMPTY_PATH, o.attr)
	}
	if !o.rattr.zero() {
		c.mountSetattr(regArg(at), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, o.rattr)
	}
	c.propagate(at, o)
	if late {
		c.readonly = append(c.readonly, lateMount{c.field, at})
		return
	}
	c.close(at)
}

// propagateMount changes the propagation of a mount that is there (mount(8), Shared subtree
// operations), and its flags.
func (c *container) propagateMount(m specs.Mount, o mountOptions) {
	o.bind = true // the filesystem stays as it is
	c.remount(m, o)
}

// mountData returns the options of a new mount as mount(2) takes them.
func (c *container) mountData(m specs.Mount, o mountOptions) string {
	data := o.data
	if c.labelled(m.Type, data) {
		// which may hold commas
		data = append(slices.Clone(data), c.contextType()+`="`+c.spec.Linux.MountLabel+`"`)
	}
	return strings.Join(data, ",")
}

// fitsMountData reports whether mount(2) reads the options of a mount as the document means them.
// The kernel copies one page, the last byte of which is a NUL, and drops the rest without an error
// (copy_mount_options in fs/namespace.c); and a comma ends an option, unless it is quoted or
// escaped.
func (c *container) fitsMountData(m specs.Mount, o mountOptions) bool {
	return len(c.mountData(m, o)) < os.Getpagesize() && !slices.ContainsFunc(o.data,
		func(option string) bool {
			return !strings.Contains(option, `"`) &&
				strings.Contains(strings.ReplaceAll(option, `\,`, ""), ",")
		})
}

// mountByData mounts a filesystem by mount(2), whose options are one string, as long as a page: a
// value that fsconfig(2) takes is at most 255 bytes long, which many layers of an overlay exceed.
// The place is the working directory, so that no path is walked.
func (c *container) mountByData(m specs.Mount, o mountOptions) {
	at := c.reg()
	if kernelFilesystem(m.Type) {
		c.ensureDirectoryNoSymlink(at, m.Destination)
	} else {
		c.ensureDirectory(at, m.Destination, unix.O_DIRECTORY)
	}
	var fl uintptr
	for _, flag := range o.sb {
		fl |= superblockFlag(flag)
	}
	c.call(unix.SYS_FCHDIR, regArg(at))
	c.call(unix.SYS_MOUNT, text(m.Source), text("."), text(m.Type), flags(fl, hexNames),
		text(c.mountData(m, o)))
	c.close(at)
	c.call(unix.SYS_FCHDIR, regArg(c.rootFD))
	o.sb, o.data, o.bind = nil, nil, true
	if !o.attr.zero() || !o.rattr.zero() || len(o.propagation) > 0 {
		c.remount(m, o)
	}
}

// superblockFlag returns the flag of mount(2) for an option of mountOptions.sb.
func superblockFlag(option string) uintptr {
	switch option {
	case "sync":
		return unix.MS_SYNCHRONOUS
	case "dirsync":
		return unix.MS_DIRSYNC
	case "mand":
		return unix.MS_MANDLOCK
	case "lazytime":
		return unix.MS_LAZYTIME
	case "iversion":
		return unix.MS_I_VERSION
	}
	return 0
}

// overlayData converts the directories of an overlay to absolute paths: in the document they are
// relative to the bundle, as all sources are.
func (c *container) overlayData(data []string) []string {
	out := make([]string, 0, len(data))
	for _, option := range data {
		key, value, _ := strings.Cut(option, "=")
		switch {
		case value == "" || !strings.HasSuffix(strings.TrimSuffix(key, "+"), "dir"):
		case key == "lowerdir":
			option = key + "=" + c.overlayLayers(value)
		default: // upperdir, workdir, lowerdir+, datadir+
			option = key + "=" + c.hostPath(value)
		}
		out = append(out, option)
	}
	return out
}

// overlayLayers converts the directories of lowerdir to absolute paths. A colon stands between two
// of them, unless a backslash precedes it (the kernel's filesystems/overlayfs); two precede a layer
// that has only data.
func (c *container) overlayLayers(value string) string {
	var b strings.Builder
	for layer := ""; ; {
		i := strings.IndexAny(value, `\:`)
		switch {
		case i >= 0 && value[i] == '\\' && i+1 < len(value):
			layer, value = layer+value[:i+2], value[i+2:]
			continue
		case i < 0 || value[i] == '\\':
			layer, value = layer+value, ""
		default:
			layer, value = layer+value[:i], value[i:]
		}
		if layer != "" && !filepath.IsAbs(layer) {
			layer = strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(c.opts.Bundle) + "/" + layer
		}
		b.WriteString(layer)
		if layer = ""; value == "" {
			return b.String()
		}
		b.WriteByte(':')
		value = value[1:]
	}
}

// shortOptions returns the options of a mount in a form that fsconfig(2) takes, or an error for
// those that neither it nor mount(2) does. Only an overlay has such a form: one option lowerdir+ or
// datadir+ for each layer, since Linux 6.7. A single directory may be too long: fsconfigOptions
// then names it by the working directory.
func (c *container) shortOptions(m specs.Mount, data []string) ([]string, error) {
	field := func(name string) string { return fmt.Sprintf("mounts[%d].%s", c.field.Index, name) }
	limit := fmt.Sprintf("allowed are %d bytes, or %d for all options together", maxValue,
		os.Getpagesize()-1)
	if len(m.Source) > maxValue {
		return nil, c.fieldError(field("source"), fmt.Sprintf("%d bytes", len(m.Source)), "%s", limit)
	}
	var out []string
	for _, option := range data {
		key, value, _ := strings.Cut(option, "=")
		switch {
		case max(len(key), len(value)) <= maxValue:
			out = append(out, option)
		case m.Type == "overlay" && key == "lowerdir":
			layers, err := splitLayers(value)
			if err != nil {
				return nil, c.fieldError(field("options"), fmt.Sprintf("lowerdir of %d bytes", len(value)),
					"%s", err)
			}
			out = append(out, layers...)
		case m.Type == "overlay" && (key == "upperdir" || key == "workdir"):
			out = append(out, key+"="+unescape(value))
		case m.Type == "overlay" && (key == "lowerdir+" || key == "datadir+"):
			out = append(out, option)
		default:
			return nil, c.fieldError(field("options"), fmt.Sprintf("%.40s… of %d bytes", option,
				len(option)), "%s", limit)
		}
	}
	return out, nil
}

// splitLayers returns an option for each layer of an overlay's lowerdir. The kernel reads a
// directory of these as it is, without backslashes (filesystems/overlayfs of the kernel's
// documentation, Multiple lower layers and Data-only lower layers).
func splitLayers(lowerdir string) (options []string, err error) {
	key, layer := "lowerdir+", []byte(nil)
	for i := 0; i <= len(lowerdir); i++ {
		switch {
		case i == len(lowerdir) || lowerdir[i] == ':':
			if len(layer) == 0 {
				return nil, errors.New(
					"allowed are directories with one colon between them, or two before a layer of data alone")
			}
			options = append(options, key+"="+string(layer))
			layer = nil
			if i+1 < len(lowerdir) && lowerdir[i+1] == ':' {
				key = "datadir+"
				i++
			} else if key == "datadir+" && i < len(lowerdir) {
				return nil, errors.New("allowed are two colons between layers of data alone")
			}
		case lowerdir[i] == '\\' && i+1 < len(lowerdir):
			i++
			layer = append(layer, lowerdir[i])
		default:
			layer = append(layer, lowerdir[i])
		}
	}
	return options, nil
}

// unescape returns a directory of an overlay's options without the backslashes that escape colons
// and commas.
func unescape(dir string) string {
	var out []byte
	for i := 0; i < len(dir); i++ {
		if dir[i] == '\\' && i+1 < len(dir) {
			i++
		}
		out = append(out, dir[i])
	}
	return string(out)
}

// symlinkOfSource makes, where the source of a bind mount is a symbolic link, the same link at the
// destination and goes on at done (crun's copy-symlink). It takes the place of another link, but of
// nothing else.
func (c *container) symlinkOfSource(m specs.Mount, done Label) {
	target := make([]byte, unix.PathMax+1) // readlinkat(2) writes no NUL
	no, made := c.label(), c.label()
	c.call(unix.SYS_READLINKAT, cwd(), text(c.hostPath(m.Source)), structArg(target, "target"),
		num(unix.PathMax)).tolerate(unix.EINVAL).orElse(no)
	dir, base := filepath.Split(filepath.Clean(m.Destination))
	at := c.reg()
	c.ensureDirectory(at, dir, unix.O_DIRECTORY)
	link := func() stepRef {
		return c.call(unix.SYS_SYMLINKAT, structArg(target, "target"), regArg(at), text(base))
	}
	link().tolerate(unix.EEXIST).then(made)
	c.expectNode(regArg(at), base, unix.S_IFLNK, 0, 0)
	c.call(unix.SYS_UNLINKAT, regArg(at), text(base), num(0))
	link()
	c.mark(made)
	c.close(at).then(done)
	c.mark(no)
}
