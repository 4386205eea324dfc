// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// defaultAppArmorProfile is the name under which the agent loads the profile of RuntimeDefault.
const defaultAppArmorProfile = "berth-default"

// appArmorRules returns the rules of docker's profile, which containerd and podman have, too: all
// but mounts and writing to the kernel's settings is allowed. Whoever runs containers may send them
// signals, so own, the profile of the agent and its supervisor, may; empty if they have none.
//
// github.com/moby/profiles/apparmor has them as a text/template, which adds 3.7 MiB to the program.
func appArmorRules(own string) string {
	var abi, peer string
	// Without an ABI the parser takes the one that the node has pinned. A newer one denies sockets of
	// the family AF_UNIX and user namespaces, unless rules allow them. Parsers before 3.0 know none.
	if _, err := os.Stat("/etc/apparmor.d/abi/3.0"); err == nil {
		abi = "abi <abi/3.0>,\n"
	}
	if own != "" {
		peer = fmt.Sprintf("  signal (receive) peer=%q,\n", own)
	}
	return abi + fmt.Sprintf(appArmorTemplate, peer)
}

// appArmorTemplate has a place for further rules.
const appArmorTemplate = `@{PROC}=/proc/
profile ` + defaultAppArmorProfile + ` flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
%s  signal (send,receive) peer=` + defaultAppArmorProfile + `,
  ptrace (trace,read,tracedby,readby) peer=` + defaultAppArmorProfile + `,
  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`

// appArmorLoaded reports whether the kernel has a profile. It fails without securityfs.
func appArmorLoaded(name string) (bool, error) {
	data, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, name+" (") {
			return true, nil
		}
	}
	return false, nil
}

// ownAppArmor returns the name of the agent's profile; empty if it has none.
func ownAppArmor() string {
	label, err := os.ReadFile("/proc/self/attr/apparmor/current")
	name, _, _ := strings.Cut(string(bytes.TrimSpace(label)), " (")
	if err != nil || name == "unconfined" {
		return ""
	}
	return name
}

// appArmorPatience bounds a call of apparmor_parser.
const appArmorPatience = time.Minute

// loadAppArmor has apparmor_parser(8) read the default profile. The arguments say what follows,
// such as --replace, which loads it.
func loadAppArmor(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, appArmorPatience)
	defer cancel()
	// Without a cache, which may be on a read-only filesystem.
	cmd := exec.CommandContext(ctx, "apparmor_parser", append([]string{"--skip-cache"}, args...)...)
	cmd.Stdin = strings.NewReader(appArmorRules(ownAppArmor()))
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apparmor_parser: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
