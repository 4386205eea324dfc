#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make bench-node: starts containers from an image that is on the node, by the
# agent alone (a directory of manifests) beside `ctr run -d` with runc and
# `podman run -d` with crun and the same system calls in C (floor.c), by turns in
# one run, and measures the memory of the agent and the supervisor. hack/bench/node is the program.
#
#   hack/bench/node.sh [FLAGS OF hack/bench/node]      such as -rounds 1 -memory "", or -network
#
# BERTH_BENCH_BIN is the directory of berth and berth-agent, by default bin.
#
# All of it runs in a pid, a mount and a network namespace of its own, with which every
# process ends. /run is empty in it, and images, layers and state are on a new ext4 in a
# file, so that the age of the machine's own filesystem does not count. crun works
# on no host that has cgroup v1 and v2 side by side: there the v2 hierarchy is not
# mounted in the namespace.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ "$(id -u)" = 0 ] || { echo "bench: containers need root" >&2; exit 1; }
programs=${BERTH_BENCH_BIN:-bin}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/berth-bench-XXXXXXXX")
cgroup=/$(basename "$work")
cleanup() {
	for _ in $(seq 50); do
		find /sys/fs/cgroup -depth -type d -path "*$cgroup*" -exec rmdir {} + 2>/dev/null || true
		[ -n "$(find /sys/fs/cgroup -type d -path "*$cgroup*" 2>/dev/null)" ] || break
		sleep 0.1
	done
	# podman makes plain directories for the controllers that the host does not have.
	for dir in /sys/fs/cgroup/*/; do
		mountpoint -q "$dir" || [ ! -d "$dir$cgroup" ] || { rm -rf "$dir${cgroup#/}" && rmdir --ignore-fail-on-non-empty "$dir"; }
	done
	rm -rf "$work"
}
trap cleanup EXIT

CGO_ENABLED=0 go build -o "$work/bench" ./hack/bench/node
gcc -O2 -w -o "$work/floor" hack/bench/floor.c
truncate -s 8G "$work/disk"
mkfs.ext4 -q "$work/disk"
mkdir "$work/dir"
# Pid 1 reaps orphans, of which the engines make many.
unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private -- tini -s -- \
	sh -euc '
		! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
		mount -t tmpfs -o mode=755 tmpfs /run
		# ctr looks for CNI plugins in /opt/cni/bin. ctr and podman record addresses in /var/lib/cni.
		mount -t tmpfs tmpfs /opt
		mkdir -p /opt/cni /var/lib/cni
		ln -s /usr/lib/cni /opt/cni/bin
		mount -t tmpfs tmpfs /var/lib/cni
		ip link set lo up
		mount -o loop "$1/disk" "$1/dir"
		# Copies, as an installation makes them (see runtime.sh).
		cp "$3/berth" "$3/berth-agent" "$1/dir/"
		bin/berth-image --busybox --tag localhost/busybox:1 -o "$1/dir/image.tar"
		mkdir -p "$1/dir/rootfs/bin" "$1/dir/rootfs/proc" "$1/dir/rootfs/sys" "$1/dir/rootfs/dev" "$1/dir/rootfs/etc"
		cp "$1/floor" "$1/dir/"
		cp /bin/busybox "$1/dir/rootfs/bin/true"
		dir=$1 cgroup=$2
		shift 3
		exec "$dir/bench" -dir "$dir/dir" -cgroup "$cgroup" "$@"' sh "$work" "$cgroup" "$programs" "$@"
