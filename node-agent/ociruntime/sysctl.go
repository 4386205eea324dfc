// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/validate"
)

// checkSysctl refuses parameters of a namespace that the container joins by a path and that is the
// runtime's own: they would be the host's. The validation checks that the document has one of the
// type.
func checkSysctl(spec *specs.Spec) error {
	if len(spec.Linux.Sysctl) == 0 {
		return nil
	}
	for i, n := range spec.Linux.Namespaces {
		own := map[specs.LinuxNamespaceType]string{
			specs.NetworkNamespace: "net",
			specs.IPCNamespace:     "ipc", specs.UTSNamespace: "uts",
		}[n.Type]
		if n.Path == "" || own == "" {
			continue
		}
		theirs, err := os.Stat(n.Path)
		if err != nil {
			return fmt.Errorf("linux.namespaces[%d].path: %w", i, err)
		}
		ours, err := os.Stat("/proc/self/ns/" + own)
		if err != nil {
			return fmt.Errorf("linux.namespaces[%d].path: %w", i, err)
		}
		if !os.SameFile(theirs, ours) {
			continue
		}
		keys := make([]string, 0, len(spec.Linux.Sysctl))
		for key := range spec.Linux.Sysctl {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			if validate.SysctlNamespace(key) == n.Type {
				return fmt.Errorf(
					"linux.sysctl[%q]: found a parameter of the host's %s namespace, which linux.namespaces[%d].path is; allowed are those of a namespace that is not the host's", key, n.Type, i)
			}
		}
	}
	return nil
}
