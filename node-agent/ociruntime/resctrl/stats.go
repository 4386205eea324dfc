// SPDX-License-Identifier: Apache-2.0

package resctrl

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Stats are printed as intel_rdt by `runc events`, whose names they have: what the processor can do, what
// the group may use, and what its processes have used. What the processor does not have is left
// out.
type Stats struct {
	L3CacheInfo *L3CacheInfo `json:"l3_cache_info,omitempty"`
	// L3CacheSchemaRoot and MemBwSchemaRoot are the schemas of the default group.
	L3CacheSchemaRoot string     `json:"l3_cache_schema_root,omitempty"`
	L3CacheSchema     string     `json:"l3_cache_schema,omitempty"`
	MemBwInfo         *MemBwInfo `json:"mem_bw_info,omitempty"`
	MemBwSchemaRoot   string     `json:"mem_bw_schema_root,omitempty"`
	MemBwSchema       string     `json:"mem_bw_schema,omitempty"`
	// MBMStats and CMTStats are by L3 cache, in the order of their names.
	MBMStats *[]MBMStats `json:"mbm_stats,omitempty"`
	CMTStats *[]CMTStats `json:"cmt_stats,omitempty"`
}

// L3CacheInfo is info/L3.
type L3CacheInfo struct {
	CbmMask    string `json:"cbm_mask,omitempty"`
	MinCbmBits uint64 `json:"min_cbm_bits,omitempty"`
	NumClosids uint64 `json:"num_closids,omitempty"`
}

// MemBwInfo is info/MB; percentages, or MB/s with the software controller.
type MemBwInfo struct {
	BandwidthGran uint64 `json:"bandwidth_gran,omitempty"`
	DelayLinear   uint64 `json:"delay_linear,omitempty"`
	MinBandwidth  uint64 `json:"min_bandwidth,omitempty"`
	NumClosids    uint64 `json:"num_closids,omitempty"`
}

// MBMStats are the bytes that have gone over memory's bus.
type MBMStats struct {
	MBMTotalBytes uint64 `json:"mbm_total_bytes"`
	MBMLocalBytes uint64 `json:"mbm_local_bytes"`
}

// CMTStats are the bytes of a cache that are in use.
type CMTStats struct {
	LLCOccupancy uint64 `json:"llc_occupancy"`
}

// Stats reads the figures of a group. Use is that of the monitoring group, if the container has
// one.
func (f *FS) Stats(g *Group) (*Stats, error) {
	own, err := os.ReadFile(filepath.Join(g.Dir, "schemata"))
	if err != nil {
		return nil, err
	}
	s := &Stats{
		L3CacheSchema: schema(string(own), "L3"), L3CacheSchemaRoot: schema(f.read("schemata"), "L3"),
		MemBwSchema: schema(string(own), "MB"), MemBwSchemaRoot: schema(f.read("schemata"), "MB"),
	}
	if mask := f.read("info/L3/cbm_mask"); mask != "" {
		s.L3CacheInfo = &L3CacheInfo{
			mask, f.number("info/L3/min_cbm_bits"),
			f.number("info/L3/num_closids"),
		}
	}
	if f.read("info/MB/num_closids") != "" {
		s.MemBwInfo = &MemBwInfo{
			f.number("info/MB/bandwidth_gran"), f.number("info/MB/delay_linear"),
			f.number("info/MB/min_bandwidth"), f.number("info/MB/num_closids"),
		}
	}
	dir := g.Monitor
	if dir == "" {
		dir = g.Dir
	}
	caches, err := filepath.Glob(filepath.Join(dir, "mon_data", "mon_L3_*")) // in order
	if err != nil {
		return nil, err
	}
	has := strings.Fields(f.read("info/L3_MON/mon_features"))
	for _, feature := range has {
		switch {
		case (feature == "mbm_total_bytes" || feature == "mbm_local_bytes") && s.MBMStats == nil:
			s.MBMStats = &[]MBMStats{}
		case feature == "llc_occupancy":
			s.CMTStats = &[]CMTStats{}
		}
	}
	for _, cache := range caches {
		if s.MBMStats != nil {
			*s.MBMStats = append(*s.MBMStats, MBMStats{
				number(cache, "mbm_total_bytes"),
				number(cache, "mbm_local_bytes"),
			})
		}
		if s.CMTStats != nil {
			*s.CMTStats = append(*s.CMTStats, CMTStats{number(cache, "llc_occupancy")})
		}
	}
	return s, nil
}

// schema returns the line of a schemata file for a resource: the last one, which holds.
func schema(schemata, kind string) (found string) {
	for line := range strings.Lines(schemata) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, kind+":") {
			found = line
		}
	}
	return found
}

func (f *FS) number(name string) uint64 { return number(f.root, name) }

// number reads a counter; 0 if it does not exist, or the kernel says "Unavailable".
func number(dir, name string) uint64 {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
