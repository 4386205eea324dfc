// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/containernetworking/cni/libcni"

	"github.com/berth-run/berth/api/v1alpha1"
)

// bandwidth is the capability of plugins that limit the traffic of containers, and a plugin's name.
const bandwidth = "bandwidth"

// Bandwidth limits the traffic of a container, in bits a second. 0 is no limit.
type Bandwidth struct {
	Ingress int64 `json:"ingress,omitempty"`
	Egress  int64 `json:"egress,omitempty"`
}

// arguments returns the limits in the form of CNI's conventions.
func (b Bandwidth) arguments() map[string]int64 {
	out := map[string]int64{}
	for direction, rate := range map[string]int64{"ingress": b.Ingress, "egress": b.Egress} {
		if rate > 0 {
			out[direction+"Rate"], out[direction+"Burst"] = rate, burst(rate)
		}
	}
	return out
}

// burst returns the bits that may pass at once: what a tenth of a second allows, but not less than
// two of the largest packets that the kernel has on its way (64 KiB, GSO). Runtimes of the kubelet
// give 4 Gbit, whose time at a low rate wraps around in the kernel's 32 bits of 64 ns (tc_tbf_qopt,
// include/uapi/linux/pkt_sched.h); 256 s fit.
func burst(rate int64) int64 {
	const least = 2 * 64 << 10 * 8
	return min(max(rate/10, least), rate*256, math.MaxUint32)
}

// annotation returns the annotation that asks for a limit, and its value in bits a second.
func (b Bandwidth) annotation() (name string, rate int64) {
	if b.Ingress > 0 {
		return v1alpha1.AnnotationIngressBandwidth, b.Ingress
	}
	return v1alpha1.AnnotationEgressBandwidth, b.Egress
}

// refuse returns why a limit cannot be had.
func (b Bandwidth) refuse(why string) error {
	name, rate := b.annotation()
	return fmt.Errorf("metadata.annotations[%s]: found %d bits a second; allowed on this node: none, as %s",
		name, rate, why)
}

// limiting returns a list whose plugins limit the traffic of a container: the list itself, or that
// of the bridge with a further plugin.
func (n *Networks) limiting(list *libcni.NetworkConfigList, b Bandwidth) (*libcni.NetworkConfigList,
	error,
) {
	if capable(list, bandwidth) {
		return list, nil
	}
	if n.Bridge == nil || list != n.Bridge.own() {
		return nil, b.refuse(fmt.Sprintf("no plugin of its network %s has the capability %s", list.Name,
			bandwidth))
	}
	if err := installed(n.BinDirs, bandwidth); err != nil {
		return nil, b.refuse(err.Error())
	}
	var text map[string]any
	if err := json.Unmarshal(list.Bytes, &text); err != nil {
		return nil, err
	}
	all, _ := text["plugins"].([]any)
	text["plugins"] = append(all, map[string]any{
		"type": bandwidth, "capabilities": map[string]bool{bandwidth: true},
	})
	limited, err := json.Marshal(text)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(limited)
}
