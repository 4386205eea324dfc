// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// hostCache holds the facts of the host once they have been read.
type hostCache struct {
	sync.Mutex
	host *plan.Host
}

// Host returns the facts of this machine that plans depend on. It reads them once; after an error,
// such as a lack of descriptors, the next call reads them again.
func (r *Runtime) Host() (plan.Host, error) {
	r.host.Lock()
	defer r.host.Unlock()
	if r.host.host == nil {
		h, err := readHost()
		if err != nil {
			return plan.Host{}, err
		}
		r.host.host = &h
	}
	return *r.host.host, nil
}

// readHost reads the facts of this machine.
func readHost() (h plan.Host, err error) {
	data, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return h, fmt.Errorf("read the kernel's last capability: %w", err)
	}
	if h.LastCapability, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
		return h, fmt.Errorf("/proc/sys/kernel/cap_last_cap: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return h, fmt.Errorf("capget: %w", err)
	}
	h.Permitted = uint64(sets[0].Permitted) | uint64(sets[1].Permitted)<<32
	if h.Cgroup, err = cgrouplayout.Read("/"); err != nil {
		return h, fmt.Errorf("look for cgroup hierarchies: %w", err)
	}
	if h.UserNamespace, err = inUserNamespace(); err != nil {
		return h, fmt.Errorf("look for a user namespace: %w", err)
	}
	h.PlainUser = os.Geteuid() != 0
	return h, nil
}
