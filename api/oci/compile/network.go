// SPDX-License-Identifier: Apache-2.0

package compile

import "github.com/berth-run/berth/api/v1alpha1"

// network compiles the network to which the agent connects the container.
func network(d *draft) {
	n := d.in.Network
	if n == nil || !n.None {
		return
	}
	if d.in.HostNetwork {
		d.refuse(d.path.Child("network", "none"), "a container is in the node's network or in none: remove network.none or hostNetwork")
	}
	d.out.Network = &v1alpha1.BundleNetwork{None: true}
}
