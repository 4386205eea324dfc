// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPrivileged: a privileged container has the devices, capabilities and filesystems that
// docs/fields.md promises. A container that is not privileged has none of them.
func TestPrivileged(t *testing.T) {
	h := newHost(t)
	h.start()
	dir := newDevices(t, map[string]uint32{"disk": unix.S_IFBLK | 0o600, "tun": unix.S_IFCHR | 0o600})
	const look = `  command:
  - /bin/sh
  - -c
  - |
    grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr '\t\n' '  '
    [ "$(grep CapEff /proc/self/status | cut -f2)" = ALL ] && echo -n 'all '
    cgroup=$(dirname "$(find /sys/fs/cgroup -name cgroup.procs | head -n 1)")
    mkdir "$cgroup/x" 2>/dev/null && rmdir "$cgroup/x" && echo -n 'cgroup '
    [ -b DIR/disk ] && (exec 3<DIR/disk) 2>&1 | grep -q 'No such device or address' && echo -n 'disk '
    [ -c DIR/tun ] && echo -n 'tun '
    mount -t tmpfs tmpfs /mnt 2>/dev/null && echo -n 'mount '
    echo 0 2>/dev/null >/proc/sys/net/ipv4/ip_forward && echo -n 'proc '
    [ "$(ls /dev/pts)" = ptmx ] && echo -n 'pts '
    echo end
  restartPolicy: Never
`
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, all, _ := strings.Cut(string(own), "CapBnd:\t")
	all, _, _ = strings.Cut(all, "\n")
	for name, tc := range map[string]struct{ context, want string }{
		"privileged": {"  securityContext: {privileged: true}\n", "NoNewPrivs: 0 Seccomp: 0 all cgroup disk tun mount proc pts end\n"},
		"plain":      {"", "NoNewPrivs: 1 Seccomp: 2 pts end\n"},
	} {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+tc.context+
			strings.NewReplacer("ALL", all, "DIR", dir).Replace(look))
		h.untilSucceeded(name)
		if got := h.logs(name); got != tc.want {
			t.Errorf("%s: found %q; want %q", name, got, tc.want)
		}
	}
	h.removeAll("privileged.yaml", "plain.yaml")
}
