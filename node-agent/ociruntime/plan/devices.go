// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/devnode"
)

// ownsDev reports whether /dev is the container's to fill: not where the document binds another
// /dev there.
func (c *container) ownsDev() bool {
	for _, m := range c.spec.Mounts {
		if path.Clean(m.Destination) != "/dev" {
			continue
		}
		if m.Type == "bind" {
			return false
		}
		for _, o := range m.Options {
			if o == "bind" || o == "rbind" {
				return false
			}
		}
	}
	return true
}

// listsDevice reports whether a device of the document is to be created: a /dev that is a bind
// mount stays as it is.
func (c *container) listsDevice(d specs.LinuxDevice) bool {
	return c.ownsDev() || !strings.HasPrefix(path.Clean(d.Path), "/dev/")
}

func (c *container) devices() error {
	owned := c.ownsDev()
	listed, left := map[string]bool{}, 0
	for i, d := range c.spec.Linux.Devices {
		if !c.listsDevice(d) {
			left++
			continue
		}
		listed[path.Clean(d.Path)] = true
		c.atIndex("linux.devices", i, d.Path)
		if err := c.device(i, d); err != nil {
			return err
		}
	}
	if len(c.plan.Nodes) > 0 {
		c.at("linux.devices")
		c.call(unix.SYS_CLOSE, input(InputNodes))
	}
	if left > 0 {
		c.plan.Warnings = append(c.plan.Warnings,
			fmt.Sprintf(
				"linux.devices: %d of them are below /dev, which is a bind mount of the document: what is in it stays as it is", left))
	}
	if !owned {
		return nil
	}
	c.at("linux.devices (default)")
	dev := c.reg()
	c.ensureDirectory(dev, "/dev", unix.O_DIRECTORY)
	bind := c.inUserNamespace()
	for _, d := range devnode.Default() {
		switch {
		case listed[d.Path]:
		case bind:
			c.bindMount(noIndex, specs.Mount{Destination: d.Path, Source: d.Path}, mountOptions{})
		default:
			made := c.label()
			c.mknodat(regArg(dev), path.Base(d.Path), unix.S_IFCHR|0o666, unix.Mkdev(uint32(d.Major),
				uint32(d.Minor))).tolerate(unix.EEXIST).then(made)
			c.expectNode(regArg(dev), path.Base(d.Path), unix.S_IFCHR, uint32(d.Major), uint32(d.Minor))
			c.mark(made)
		}
	}
	c.at("linux.devices (default links)")
	for _, l := range [][2]string{
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
	} {
		c.symlinkat(l[0], regArg(dev), l[1]).tolerate(unix.EEXIST)
	}
	if !listed["/dev/ptmx"] {
		done := c.label()
		c.symlinkat("pts/ptmx", regArg(dev), "ptmx").tolerate(unix.EEXIST).then(done)
		// An image may bring a ptmx of its own, which would lead to another devpts.
		c.call(unix.SYS_UNLINKAT, regArg(dev), text("ptmx"), num(0)).tolerate(unix.EISDIR)
		c.symlinkat("pts/ptmx", regArg(dev), "ptmx").tolerate(unix.EEXIST)
		c.mark(done)
	}
	c.close(dev)
	return nil
}

func (c *container) device(i int, d specs.LinuxDevice) error {
	kind, ok := deviceKind(d.Type)
	if !ok {
		return &Unsupported{
			Path: fmt.Sprintf("linux.devices[%d].type", i), Found: d.Type,
			Reason: "allowed are c, u, b, p",
		}
	}
	if c.inUserNamespace() && kind != unix.S_IFIFO {
		c.boundDevice(i, d, kind)
		return nil
	}
	mode := permissions(d.FileMode)
	dir, base := path.Split(path.Clean(d.Path))
	at := c.reg()
	there, done := c.label(), c.label()
	c.ensureDirectory(at, dir, unix.O_DIRECTORY)
	c.mknodat(regArg(at), base, kind|mode, unix.Mkdev(uint32(d.Major),
		uint32(d.Minor))).tolerate(unix.EEXIST).orElse(there)
	if d.UID != nil || d.GID != nil {
		uid, gid := ^uint32(0), ^uint32(0) // chown(2): -1 leaves it
		if d.UID != nil {
			uid = *d.UID
		}
		if d.GID != nil {
			gid = *d.GID
		}
		c.fchownat(regArg(at), base, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	c.goTo(done)
	c.mark(there)
	c.expectNode(regArg(at), base, kind, uint32(d.Major), uint32(d.Minor))
	c.mark(done)
	c.close(at)
	return nil
}

// expectNode fails with EEXIST if the existing file is not of the requested kind or is another
// device (config-linux.md, Devices). The steps that may fail are returned, for a caller to whom
// that is no failure.
func (c *container) expectNode(dir Arg, base string, kind, major, minor uint32) (checks []stepRef) {
	st := &unix.Statx_t{}
	memory := structArg(native(st), "statx")
	fl := unix.AT_SYMLINK_NOFOLLOW
	if base == "" {
		fl |= unix.AT_EMPTY_PATH
	}
	c.call(unix.SYS_STATX, dir, text(base), flags(uint(fl), atNames), num(uint(unix.STATX_TYPE)),
		memory)
	expect := func(what string, offset uintptr, mask, value uint32) {
		checks = append(checks, c.call(OpExpect, structArg(native(st)[offset:offset+4], "statx."+what),
			flags(mask, hexNames), flags(value, hexNames), flags(uint(unix.EEXIST), errnoNames)))
	}
	// stx_mode has 16 bits. What follows it is spare and zero, but a big-endian machine has it in
	// the low half.
	expect("mode", unsafe.Offsetof(st.Mode), binary.NativeEndian.Uint32(halves(unix.S_IFMT)),
		binary.NativeEndian.Uint32(halves(uint16(kind))))
	if kind == unix.S_IFCHR || kind == unix.S_IFBLK {
		expect("rdev_major", unsafe.Offsetof(st.Rdev_major), ^uint32(0), major)
		expect("rdev_minor", unsafe.Offsetof(st.Rdev_minor), ^uint32(0), minor)
	}
	return checks
}

// halves returns four bytes of memory that begin with a 16-bit value.
func halves(v uint16) []byte {
	p := make([]byte, 4)
	binary.NativeEndian.PutUint16(p, v)
	return p
}

// console creates the terminal, mounts it on /dev/console and sends its master.
func (c *container) console() error {
	if !c.spec.Process.Terminal {
		return nil
	}
	master := c.openTerminal()
	c.showTerminal()
	c.sendTerminal(master)
	return nil
}

// openTerminal creates a terminal in the container's devpts. The slave is opened from the master
// (TIOCGPTPEER), not by its path, which the container's mounts could turn elsewhere
// (CVE-2025-52565).
func (c *container) openTerminal() (master Reg) {
	c.at("process.terminal")
	master = c.openat2(regArg(c.rootFD), "dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY,
		unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS).out()
	var unlock int32
	c.call(unix.SYS_IOCTL, regArg(master), num(uint(unix.TIOCSPTLCK)), structArg(native(&unlock),
		"{0}"))
	c.tty = c.call(unix.SYS_IOCTL, regArg(master), num(uint(unix.TIOCGPTPEER)),
		flags(uint(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC), openNames)).out()
	if c.opts.PlainNewlines {
		modes := terminalModes()
		modes.Oflag &^= unix.ONLCR
		c.call(unix.SYS_IOCTL, regArg(c.tty), num(uint(unix.TCSETS)), structArg(native(&modes),
			"{-onlcr}"))
	}
	if s := c.spec.Process.ConsoleSize; s != nil {
		c.at("process.consoleSize")
		size := unix.Winsize{Row: uint16(s.Height), Col: uint16(s.Width)}
		c.call(unix.SYS_IOCTL, regArg(master), num(uint(unix.TIOCSWINSZ)),
			structArg(native(&size), fmt.Sprintf("{%dx%d}", s.Width, s.Height)))
		c.at("process.terminal")
	}
	c.call(unix.SYS_FCHOWN, regArg(c.tty), num(c.spec.Process.User.UID), num(^uint32(0)))
	return master
}

// terminalModes returns the modes of a new pseudoterminal (tty_std_termios in the kernel's
// tty_io.c, with c_cflag of pty.c).
func terminalModes() unix.Termios {
	return unix.Termios{
		Iflag: unix.ICRNL | unix.IXON, Oflag: unix.OPOST | unix.ONLCR, Cflag: unix.B38400 | unix.CS8 |
			unix.CREAD,
		Lflag: unix.ISIG | unix.ICANON | unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHOCTL |
			unix.ECHOKE | unix.IEXTEN,
		Cc: [...]uint8{
			unix.VINTR: 3, unix.VQUIT: 0o34, unix.VERASE: 0o177, unix.VKILL: 0o25, unix.VEOF: 4,
			unix.VMIN: 1, unix.VSTART: 0o21, unix.VSTOP: 0o23,
			unix.VSUSP: 0o32, unix.VREPRINT: 0o22, unix.VDISCARD: 0o17, unix.VWERASE: 0o27,
			unix.VLNEXT: 0o26, 18: 0,
		},
	}
}

// showTerminal mounts the terminal on /dev/console.
func (c *container) showTerminal() {
	dev := c.reg()
	c.ensureDirectory(dev, "/dev", unix.O_DIRECTORY)
	c.mknodat(regArg(dev), "console", unix.S_IFREG|0o620, 0).tolerate(unix.EEXIST)
	at := c.openat2(regArg(dev), "console", unix.O_PATH, unix.RESOLVE_NO_SYMLINKS).out()
	mount := c.openTree(regArg(c.tty), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH).out()
	c.moveMount(mount, at)
	c.close(mount)
	c.close(at)
	c.close(dev)
}

// sendTerminal sends the master to the console socket with a name as its payload, and makes the
// terminal the session's controlling terminal.
func (c *container) sendTerminal(master Reg) {
	c.sendDescriptors(input(InputConsole), []byte("/dev/ptmx"), master)
	c.close(master)
	c.call(unix.SYS_IOCTL, regArg(c.tty), num(uint(unix.TIOCSCTTY)), num(0))
}
