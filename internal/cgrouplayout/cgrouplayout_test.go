// SPDX-License-Identifier: Apache-2.0

package cgrouplayout

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

const mountinfo = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 %s /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`

// TestMemoryDir finds the memory counters of a process by how the hierarchies are mounted and by
// its /proc/PID/cgroup.
func TestMemoryDir(t *testing.T) {
	unified := Layout{Unified: true}
	hybrid := Layout{V1: []Hierarchy{{Dir: "cpu,cpuacct"}, {Dir: "memory"}}, Hybrid: "unified"}
	v2 := "30 23 0:27 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n"
	for _, tc := range []struct {
		name                    string
		layout                  Layout
		mountinfo, cgroup, want string
	}{
		{"v2", unified, v2, "0::/berth/web\n", "/sys/fs/cgroup/berth/web"},
		{
			"v1", hybrid, fmt.Sprintf(mountinfo, "/"), "4:memory:/berth/web\n1:cpu,cpuacct:/x\n0::/u\n",
			"/sys/fs/cgroup/memory/berth/web",
		},
		{
			"v1, a part is mounted", hybrid, fmt.Sprintf(mountinfo, "/pod"), "4:memory:/pod/web\n",
			"/sys/fs/cgroup/memory/web",
		},
		{
			"v1, another part is mounted", hybrid, fmt.Sprintf(mountinfo, "/pod"),
			"4:memory:/other/web\n", "",
		},
		{
			"no memory in v1", hybrid, fmt.Sprintf(mountinfo, "/"), "1:cpu,cpuacct:/x\n0::/u\n",
			"/sys/fs/cgroup/unified/u",
		},
		{"none", Layout{}, "", "0::/x\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tops, err := parseTops(strings.NewReader(tc.mountinfo))
			if err != nil {
				t.Fatal(err)
			}
			m := Mounts{tc.layout, tops}
			if got := m.memoryDir(Memberships(tc.cgroup)); got != tc.want {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestHierarchiesAreComplete compares the layout of this host with mountinfo: a hierarchy that is
// missing would keep its container outside.
func TestHierarchiesAreComplete(t *testing.T) {
	l, err := Read("/")
	if err != nil {
		t.Fatal(err)
	}
	if l.Unified {
		if len(l.V1) > 0 || l.Hybrid != "" {
			t.Errorf("cgroup v2 alone, but also %+v", l)
		}
		return
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, line := range strings.Split(string(data), "\n") {
		_, fs, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(fs, "cgroup ") && strings.Contains(line, " /sys/fs/cgroup/") {
			want++
		}
	}
	if len(l.V1) != want {
		t.Errorf("found %s hierarchies of version 1; mountinfo has %s", strconv.Itoa(len(l.V1)),
			strconv.Itoa(want))
	}
}
