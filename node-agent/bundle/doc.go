// SPDX-License-Identifier: Apache-2.0

// Package bundle makes and removes a container's directory on the node: its root filesystem (an
// overlay of image layers, or a directory of the node), its volumes, and the files for
// names (/etc/hosts and others) and config.json.
//
//	root, err := bundle.Open("/var/lib/berth/bundles")
//	dir := root.Dir("default_web_1a2b3c4d")
//	err = dir.MountRootfs(layers, nil, "")
//	accounts, err := bundle.ReadAccounts(dir.Rootfs())
//	options := merge.Options{CgroupsPath: "/berth/x", Accounts: accounts}
//	spec, err := merge.Document(&b.Spec, image, options)
//	err = dir.WriteConfig(spec)
//
// A directory holds
//
//	config.json   the runtime-spec document, 0600
//	private       a tmpfs for files with values of Secrets, such as config.json
//	rootfs        where the overlay is mounted
//	upper, work   the writable layer; it is new at each start of the container, as that of a Pod
//	etc           hosts, hostname and resolv.conf, which are mounted in /etc; written at each start.
//	              notice.json says which DNS settings of the Container resolv.conf lacks
//	files         a tmpfs for volumes of ConfigMaps, Secrets and fields
//	layers        the layers of an image whose files get other ids, while rootfs is mounted
//	files/NAME    the files of one volume, as the kubelet lays them out
//	volumes/NAME  emptyDir volumes, which live as long as the Container does
//
// The content of a root filesystem is hostile: paths inside are opened with
// openat2(RESOLVE_IN_ROOT) only, and what is read from it is bounded. The package must not know
// restarts, the runtime, Kubernetes' API server, nor where images come from.
package bundle
