// SPDX-License-Identifier: Apache-2.0

// Package cdi adds devices of the node's CDI specs to a container's document (Container Device
// Interface, https://github.com/cncf-tags/container-device-interface). A spec is a file of the
// node, which a vendor's tool or an administrator writes: it names devices, and says which device
// nodes, mounts, variables and hooks a container with one of them gets.
//
//	err := cdi.Inject(spec, bundle.Spec.Devices, []string{"/etc/cdi", "/var/run/cdi"})
//
// The specs are the node's own and can do what root can. Only the devices of a bundle name any: the
// package reads no annotation and no image.
package cdi
