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

// appArmorRules are the rules of docker's profile, which containerd and podman have, too: all but
// mounts and writing to the kernel's settings is allowed. Whoever runs containers may send them
// signals. It takes no file of /etc/apparmor.d.
//
// github.com/moby/profiles/apparmor has them as a text/template, which adds 3.7 MiB to the program.
const appArmorRules = `@{PROC}=/proc/
profile ` + defaultAppArmorProfile + ` flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send,receive) peer=` + defaultAppArmorProfile + `,
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

// appArmorPatience bounds a call of apparmor_parser.
const appArmorPatience = time.Minute

// loadAppArmor loads the default profile by apparmor_parser(8), which it gives args, too.
func loadAppArmor(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, appArmorPatience)
	defer cancel()
	// Without a cache, which may be on a read-only filesystem.
	cmd := exec.CommandContext(ctx, "apparmor_parser", append([]string{"--skip-cache", "--replace"},
		args...)...)
	cmd.Stdin = strings.NewReader(appArmorRules)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apparmor_parser: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
