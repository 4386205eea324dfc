// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestProperties: annotations become properties of the unit, with times in microseconds, or are
// refused by name.
func TestProperties(t *testing.T) {
	list, err := properties(map[string]string{
		"org.systemd.property.TimeoutStopSec":      "uint32 7",
		"org.systemd.property.CollectMode":         "'inactive-or-failed'",
		"org.systemd.property.DefaultDependencies": "true", "org.systemd.property.RuntimeMaxSec": "1.5",
		"other": "x",
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list {
		got = append(got, fmt.Sprintf("%s=%v", p.Name, p.Value.Value()))
	}
	if want := "CollectMode=inactive-or-failed DefaultDependencies=true RuntimeMaxUSec=1500000 TimeoutStopUSec=7000000"; strings.Join(got, " ") != want {
		t.Errorf("found %v; want %s", got, want)
	}
	for key, value := range map[string]string{
		"org.systemd.property.": "1", "org.systemd.property.Ab": "1", "org.systemd.property.A-b": "1",
		"org.systemd.property.A b": "1", "org.systemd.property.A.b": "1",
		"org.systemd.property.CollectMode": "nonsense'", "org.systemd.property.TimeoutStopSec": "'long'",
	} {
		if _, err := properties(map[string]string{key: value}); err == nil ||
			!strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestLimitWithoutCgroupIsRefused: without a cgroup a limit cannot hold, and is refused.
func TestLimitWithoutCgroupIsRefused(t *testing.T) {
	limit := int64(5)
	if _, err := None(&specs.Spec{
		Linux: &specs.Linux{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}},
	}); err == nil || !strings.Contains(err.Error(), "linux.resources.pids.limit: found 5") {
		t.Errorf("found %v", err)
	}
	g, err := None(&specs.Spec{
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		},
	})
	if err != nil || g.Create() != nil || len(g.Paths()) != 0 || g.Destroy() != nil || g.Frozen() {
		t.Errorf("found %v, %v", g, err)
	}
}

// TestUpdateUnset: after an update that failed, a device without a limit before has none again.
func TestUpdateUnset(t *testing.T) {
	major, minor := aDisk(t)
	g, err := makeGroup(t, document(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	throttle := specs.LinuxThrottleDevice{Rate: 1 << 20}
	throttle.Major, throttle.Minor = major, minor
	none := throttle
	none.Major, none.Minor = 4000, 99 // no such device
	_, err = g.Update(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
		ThrottleReadBpsDevice:  []specs.LinuxThrottleDevice{throttle},
		ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{none},
	}})
	if err == nil || !strings.Contains(err.Error(), "linux.resources.blockIO.throttle") ||
		strings.Contains(err.Error(), "set it back") {
		t.Fatalf("found %v", err)
	}
	name := "blkio.throttle.read_bps_device"
	if g.unified() {
		name = "io.max"
	}
	if got := g.file(t, "blkio", name); got != "" {
		t.Errorf("%s has %q", name, got)
	}
}
