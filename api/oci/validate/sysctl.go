// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// sysctl checks linux.sysctl (config-linux.md, "Sysctl"). A parameter "for the
// container" is one of a namespace that the container has; all others would
// change the host. A namespace joined by path counts: whose it is can only be
// known on the host. kernel.hostname has a field of its own, and runc and crun
// refuse it, too; kernel.domainname, older than its field, may agree with it.
func (c *checker) sysctl() {
	const path = "linux.sysctl"
	keys := sortedKeys(c.linux.Sysctl)
	files := make(map[string]string, len(keys))
	for _, key := range keys {
		value := c.linux.Sysctl[key]
		c.text(in(path, key), value)
		file, ok := SysctlFile(key)
		if !ok {
			c.err(in(path, key), "the parameter "+quote(key),
				"a parameter of sysctl(8), such as net.ipv4.ip_forward or net/ipv4/ip_forward")
			continue
		}
		if other, twice := files[file]; twice {
			c.err(in(path, key), "the parameter that "+quote(other)+" is, too", "each parameter once")
		}
		files[file] = key
		ns := sysctlNamespace(file)
		switch {
		case ns == "":
			c.err(in(path, key), "a parameter of the whole host",
				"parameters of namespaces: net.* (network), "+
					"kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* (ipc), kernel.domainname (uts), user.* (user)")
		case !c.has.contains(ns):
			c.err(in(path, key), "no "+string(ns)+" namespace",
				"it only if linux.namespaces has one of type "+string(ns))
		}
		switch {
		case file == "kernel/hostname":
			c.err(in(path, key), quote(value), "nothing: hostname is the field for it")
		case file == "kernel/domainname" && c.spec.Domainname != "" && c.spec.Domainname != value:
			c.err(in(path, key), quote(value), "nothing beside domainname, which says "+
				quote(c.spec.Domainname))
		}
	}
}

// SysctlFile returns the file below /proc/sys that a key of linux.sysctl
// names, such as "net/ipv4/conf/eth0.100/rp_filter", and whether the key names
// one. As sysctl(8) and sysctl.d(5) have it, the first separator decides which
// of "." and "/" separates the elements; the other one is then a "." inside of
// an element. No element of the result is empty, "." or "..", so the file is
// never one outside of /proc/sys.
func SysctlFile(key string) (string, bool) {
	sep := strings.IndexAny(key, "./")
	if sep <= 0 || hasNUL(key) {
		return "", false
	}
	file := key
	if key[sep] == '.' {
		swap := func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}
		file = strings.Map(swap, key)
	}
	for element := range strings.SplitSeq(file, "/") {
		if element == "" || element == "." || element == ".." {
			return "", false
		}
	}
	return file, true
}

// SysctlNamespace returns the type of the namespace that a key of linux.sysctl
// belongs to, or "" if it is the host's or names no parameter.
func SysctlNamespace(key string) specs.LinuxNamespaceType {
	file, ok := SysctlFile(key)
	if !ok {
		return ""
	}
	return sysctlNamespace(file)
}

// sysctlNamespace returns the type of the namespace that a file below
// /proc/sys belongs to, or "" if it is the host's: namespaces(7),
// ipc_namespaces(7), network_namespaces(7), uts_namespaces(7), and
// kernel/ucount.c for user/*.
func sysctlNamespace(file string) specs.LinuxNamespaceType {
	switch file {
	case "kernel/sem", "kernel/sem_next_id", "kernel/auto_msgmni":
		return specs.IPCNamespace
	case "kernel/hostname", "kernel/domainname":
		return specs.UTSNamespace
	}
	switch {
	case strings.HasPrefix(file, "net/"):
		return specs.NetworkNamespace
	case strings.HasPrefix(file, "fs/mqueue/"),
		strings.HasPrefix(file, "kernel/shm") && !strings.Contains(file[len("kernel/"):], "/"),
		strings.HasPrefix(file, "kernel/msg") && !strings.Contains(file[len("kernel/"):], "/"):
		return specs.IPCNamespace
	case strings.HasPrefix(file, "user/"):
		return specs.UserNamespace
	}
	return ""
}
