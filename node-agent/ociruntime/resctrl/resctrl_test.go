// SPDX-License-Identifier: Apache-2.0

package resctrl

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fake returns a directory in place of resctrl, with the files that are of interest here.
func fake(t *testing.T, files map[string]string) *FS {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Fake(root)
}

func content(t *testing.T, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func exists(parts ...string) bool {
	_, err := os.Stat(filepath.Join(parts...))
	return err == nil
}

// TestRules has every rule of config-linux.md, IntelRdt.
func TestRules(t *testing.T) {
	there := map[string]string{
		"gold/schemata": "    L3:0=00f;1=0ff\n    MB:0= 20;1= 70\n",
		"gold/tasks":    "", "schemata": "L3:0=fff\n", "tasks": "",
	}
	for _, c := range []struct {
		name string
		rdt  specs.LinuxIntelRdt
		// dir of the group; schemata as written, "-" for no file; stays after Remove.
		dir, schemata string
		stays         bool
		fails         string
	}{
		{name: "no closID", rdt: specs.LinuxIntelRdt{}, dir: "id", schemata: "-"},
		{
			name: "own group", rdt: specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20"},
			dir: "id", schemata: "L3:0=f\nMB:0=20\n",
		},
		{
			name: "schemata last", rdt: specs.LinuxIntelRdt{
				Schemata:    []string{"L2:0=f", "L3:0=1"},
				MemBwSchema: "MB:0=20", L3CacheSchema: "L3:0=f",
			},
			dir: "id", schemata: "L3:0=f\nMB:0=20\nL2:0=f\nL3:0=1\n",
		},
		{
			name: "new closID", rdt: specs.LinuxIntelRdt{ClosID: "new", Schemata: []string{"MB:0=10"}},
			dir: "new", schemata: "MB:0=10\n", stays: true,
		},
		{
			name: "closID there", rdt: specs.LinuxIntelRdt{ClosID: "gold"}, dir: "gold",
			schemata: there["gold/schemata"], stays: true,
		},
		{
			name: "closID with the same", rdt: specs.LinuxIntelRdt{
				ClosID:        "gold",
				L3CacheSchema: "L3:1=FF;0=f", MemBwSchema: "MB:1=70",
			},
			dir: "gold", schemata: there["gold/schemata"] + "L3:1=FF;0=f\nMB:1=70\n", stays: true,
		},
		{
			name: "root", rdt: specs.LinuxIntelRdt{ClosID: "/"}, dir: ".", schemata: there["schemata"],
			stays: true,
		},
		{
			name: "monitoring", rdt: specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true},
			dir: "gold", schemata: there["gold/schemata"], stays: true,
		},
		{
			name: "closID missing", rdt: specs.LinuxIntelRdt{ClosID: "none"},
			fails: `linux.intelRdt.closID: found "none", which is no group`,
		},
		{name: "closID missing, monitored", rdt: specs.LinuxIntelRdt{
			ClosID:           "none",
			EnableMonitoring: true,
		}, fails: `linux.intelRdt.closID: found "none"`},
		{
			name: "other L3", rdt: specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=1f"},
			fails: `linux.intelRdt.l3CacheSchema: found "L3:0=1f", but the group gold that linux.intelRdt.closID names has "L3:0=00f;1=0ff"`,
		},
		{
			name: "other MB", rdt: specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "MB:0=21"},
			fails: `linux.intelRdt.memBwSchema: found "MB:0=21"`,
		},
		{
			name: "no MB", rdt: specs.LinuxIntelRdt{ClosID: "/", MemBwSchema: "MB:0=21"},
			fails: "has no MB",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := fake(t, there)
			g := f.Group(&c.rdt, "id")
			err := f.Create(g, &c.rdt)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("found %v; want %s", err, c.fails)
				}
				if exists(f.root, "none") || exists(f.root, "id") {
					t.Error("it has made a group")
				}
				if err := f.Remove(g); err != nil || !exists(f.root, "gold") {
					t.Errorf("Remove: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(f.root, c.dir)
			if g.Dir != dir || g.Own == c.stays {
				t.Errorf("found %+v; want %s", g, dir)
			}
			if c.schemata == "-" {
				if exists(dir, "schemata") {
					t.Error("it has written schemata that nobody asked for")
				}
			} else if got := content(t, dir, "schemata"); got != c.schemata {
				t.Errorf("schemata: %q; want %q", got, c.schemata)
			}
			if err := f.Join(g, 4711); err != nil {
				t.Fatal(err)
			}
			if got := content(t, dir, "tasks"); got != "4711\n" {
				t.Errorf("tasks: %q", got)
			}
			if monitor := filepath.Join(dir, "mon_groups/id"); c.rdt.EnableMonitoring {
				if got := content(t, monitor, "tasks"); got != "4711\n" {
					t.Errorf("tasks of the monitoring group: %q", got)
				}
			} else if exists(monitor) {
				t.Error("a monitoring group that nobody asked for")
			}
			for range 2 { // the second finds nothing, which is no error
				if err := f.Remove(g); err != nil {
					t.Fatal(err)
				}
			}
			if exists(dir) != c.stays || exists(dir, "mon_groups/id") {
				t.Errorf("after Remove: the group is there: %v; want %v", exists(dir), c.stays)
			}
		})
	}
}

// TestTakenGroup: a directory of the container's name that was there before is used and left.
func TestTakenGroup(t *testing.T) {
	f := fake(t, map[string]string{"id/tasks": ""})
	rdt := &specs.LinuxIntelRdt{EnableMonitoring: true}
	g := f.Group(rdt, "id")
	if err := f.Create(g, rdt); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(g); err != nil || !exists(f.root, "id/tasks") {
		t.Errorf("Remove has taken what it has not made: %v", err)
	}
	// Another's monitoring group of that name is not taken.
	if err := os.Mkdir(filepath.Join(f.root, "id/mon_groups/id"), 0o755); err != nil {
		t.Fatal(err)
	}
	g = f.Group(rdt, "id")
	err := f.Create(g, rdt)
	if err == nil || !strings.Contains(err.Error(), "linux.intelRdt.enableMonitoring") {
		t.Errorf("Create: %v", err)
	}
	if err := f.Remove(g); err != nil || !exists(f.root, "id/mon_groups/id") {
		t.Errorf("Remove has taken another's monitoring group: %v", err)
	}
}

func TestLastCommandStatus(t *testing.T) {
	f := fake(t, map[string]string{"info/last_cmd_status": "mask f000 too big\n", "gold/tasks/x": ""})
	err := f.Join(&Group{Dir: filepath.Join(f.root, "gold")}, 1) // its tasks is a directory
	if err == nil || !strings.Contains(err.Error(), "resctrl says: mask f000 too big") {
		t.Errorf("Join: %v", err)
	}
}

func TestUpdateAndStats(t *testing.T) {
	f := fake(t, map[string]string{
		"info/L3/cbm_mask": "fffff\n", "info/L3/min_cbm_bits": "1\n", "info/L3/num_closids": "16\n",
		"info/MB/bandwidth_gran": "10\n", "info/MB/delay_linear": "1\n", "info/MB/min_bandwidth": "10\n",
		"info/MB/num_closids":      "8\n",
		"info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
		"schemata":                 "    MB:0=100\n    L3:0=fffff\n", "gold/schemata": "L3:0=f\n",
		"gold/mon_groups/id/mon_data/mon_L3_00/llc_occupancy":   "4096\n",
		"gold/mon_groups/id/mon_data/mon_L3_00/mbm_total_bytes": "70\n",
		"gold/mon_groups/id/mon_data/mon_L3_01/llc_occupancy":   "Unavailable\n",
		"gold/mon_groups/id/mon_data/mon_L3_01/mbm_local_bytes": "5\n",
	})
	g := &Group{Dir: filepath.Join(f.root, "gold"), Monitor: filepath.Join(f.root,
		"gold/mon_groups/id")}
	if _, err := f.Update(g, "", "MB:0=30"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Update(g, "L3:0=ff", ""); err != nil {
		t.Fatal(err)
	}
	s, err := f.Stats(g)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"l3_cache_info":{"cbm_mask":"fffff","min_cbm_bits":1,"num_closids":16},"l3_cache_schema_root":"L3:0=fffff","l3_cache_schema":"L3:0=ff",` +
		`"mem_bw_info":{"bandwidth_gran":10,"delay_linear":1,"min_bandwidth":10,"num_closids":8},"mem_bw_schema_root":"MB:0=100","mem_bw_schema":"MB:0=30",` +
		`"mbm_stats":[{"mbm_total_bytes":70,"mbm_local_bytes":0},{"mbm_total_bytes":0,"mbm_local_bytes":5}],"cmt_stats":[{"llc_occupancy":4096},{"llc_occupancy":0}]}`
	if string(got) != want {
		t.Errorf("found %s\nwant  %s", got, want)
	}
}

func TestFind(t *testing.T) {
	const before = "24 1 0:22 / / rw - ext4 /dev/root rw\n90 24 0:40 /sub /bound rw - resctrl resctrl rw\n"
	const mount = "91 24 0:40 / /sys/fs/with\\040space rw,relatime shared:7 - resctrl resctrl rw\n"
	if root, err := mountPoint(bufio.NewScanner(strings.NewReader(before + mount))); err != nil ||
		root != "/sys/fs/with space" {
		t.Errorf("found %q, %v", root, err)
	}
	if _, err := mountPoint(bufio.NewScanner(strings.NewReader(before))); err == nil ||
		!strings.Contains(err.Error(), "linux.intelRdt: found no resctrl filesystem") {
		t.Errorf("without one: %v", err)
	}
}
