// SPDX-License-Identifier: Apache-2.0

package selinux

import (
	"cmp"
	"io/fs"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Labels are the labels of a container; the zero value is that of one without.
type Labels struct {
	// Process is the label of its processes, and File that of its files.
	Process, File string
}

// The labels of a policy that names no others, without their levels.
const (
	defaultProcess = "system_u:system_r:container_t"
	defaultFile    = "system_u:object_r:container_file_t"
)

// LabelsFor returns the labels of a container: those that the node's policy has for containers,
// with the level, and with what the options say in their place. A type and a role are those of the
// process alone, as under other runtimes. host is the root directory of the node.
func LabelsFor(o *corev1.SELinuxOptions, level string, host fs.FS) Labels {
	process, file := defaults(host)
	return Labels{
		Process: join(process, o.User, o.Role, o.Type, level),
		File:    join(file, o.User, "", "", level),
	}
}

// join returns a label with some parts in the place of its own.
func join(label, user, role, kind, level string) string {
	parts := strings.SplitN(label, ":", 4)
	return strings.Join([]string{
		cmp.Or(user, parts[0]), cmp.Or(role, parts[1]), cmp.Or(kind, parts[2]), level,
	}, ":")
}

// defaults returns the labels of the file lxc_contexts of the node's policy, which other runtimes
// and libvirt read, too (selinux_lxc_contexts_path(3)).
func defaults(host fs.FS) (process, file string) {
	config := settings(host, "etc/selinux/config")
	policy := cmp.Or(config["SELINUXTYPE"], "targeted")
	if !fs.ValidPath(policy) {
		return defaultProcess, defaultFile
	}
	contexts := settings(host, "etc/selinux/"+policy+"/contexts/lxc_contexts")
	of := func(key, fallback string) string {
		if label := contexts[key]; strings.Count(label, ":") >= 2 {
			return label
		}
		return fallback
	}
	return of("process", defaultProcess), of("file", defaultFile)
}

// settings returns the lines KEY = VALUE of a file; none if it cannot be read.
func settings(host fs.FS, name string) map[string]string {
	out := map[string]string{}
	data, err := fs.ReadFile(host, name)
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		if ok && !strings.HasPrefix(key, "#") {
			out[key] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return out
}
