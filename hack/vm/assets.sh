#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes what a guest boots from, when it is absent, and prints the folder:
#
#   vmlinux     the kernel of Debian's linux-image-amd64, unpacked to an ELF
#   modules/    its modules, laid out as lib/modules/VERSION below it
#   initrd      static busybox, guest/init, and the modules that reach the root
#
# The folder is ${XDG_CACHE_HOME:-~/.cache}/berth/vm/KEY, KEY being a hash of
# this script and guest/init. Programs that are missing are installed by apt;
# with --systemd so are systemd and D-Bus, for users too, which the guest then
# finds in the host's root.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "vm: $*" >&2; }
die() { say "$*"; exit 1; }

# install_programs installs the Debian packages of programs that are not there.
install_programs() {
	local packages=() pair
	for pair in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static depmod:kmod cpio:cpio xzcat:xz-utils zstd:zstd; do
		command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
	done
	# pvh.bin boots an ELF kernel; it comes with qemu-system-data or seabios.
	[ -e /usr/share/qemu/pvh.bin ] || packages+=(qemu-system-x86)
	[ -e /usr/share/seabios/bios-256k.bin ] || packages+=(seabios)
	if [ "${1-}" = --systemd ]; then
		[ -x /lib/systemd/systemd ] || packages+=(systemd)
		[ -x /usr/bin/dbus-daemon ] || packages+=(dbus)
		[ -e /usr/lib/systemd/user/dbus.socket ] || packages+=(dbus-user-session)
	fi
	[ ${#packages[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || die "these packages are missing, and only root can install them: ${packages[*]}"
	say "installing ${packages[*]}"
	export DEBIAN_FRONTEND=noninteractive
	local apt=(apt-get -o DPkg::Lock::Timeout=300 -y --no-install-recommends)
	"${apt[@]}" install "${packages[@]}" >&2 && return
	# Stale package lists and a half-done installation are the usual causes.
	say "trying again with fresh package lists"
	apt-get -o DPkg::Lock::Timeout=300 update >&2
	dpkg --configure -a >&2
	"${apt[@]}" -f install "${packages[@]}" >&2
}

# make_kernel puts vmlinux and modules into folder $1. The package is unpacked,
# not installed: nothing of the host's own boot changes.
make_kernel() {
	local out=$1 package image version offset
	package=$(apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image/ {print $2; exit}')
	if [ -z "$package" ]; then
		apt-get -o DPkg::Lock::Timeout=300 update >&2
		package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
	fi
	[ -n "$package" ] || die "apt knows no kernel package that linux-image-amd64 depends on"
	say "fetching $package"
	mkdir "$out/deb"
	(cd "$out/deb" && apt-get -o APT::Sandbox::User=root download "$package" >&2)
	dpkg-deb -x "$out"/deb/*.deb "$out/deb/root"
	mv "$out/deb/root" "$out/modules"
	rm -rf "$out/deb" "$out/modules/usr"
	version=$(ls "$out/modules/lib/modules")
	depmod -b "$out/modules" "$version"
	# A bare ELF boots by PVH and spares the guest its own decompression, which
	# takes seconds without KVM. The payload of Debian's bzImage is xz.
	image=$out/modules/boot/vmlinuz-$version
	offset=$(LC_ALL=C grep -obUaP '\xfd7zXZ\x00' "$image" | head -1 | cut -d: -f1)
	if [ -n "$offset" ]; then
		tail -c "+$((offset + 1))" "$image" | xzcat --single-stream >"$out/vmlinux" 2>/dev/null || true
	fi
	[ "$(head -c 4 "$out/vmlinux" 2>/dev/null | tail -c 3)" = ELF ] || cp "$image" "$out/vmlinux"
	rm -rf "$out/modules/boot"
}

# add_modules NAME... copies modules and what they depend on into folder $init/m
# and appends their file names, in loading order, to the list $list.
add_modules() {
	local name file base
	for name in "$@"; do
		# shellcheck disable=SC2013 # a module path is one word
		for file in $(awk -F: -v end="/$name.ko" '
			substr($1, length($1) - length(end) + 1) == end {
				n = split($2, deps, " ")
				for (i = n; i > 0; i--) print deps[i]
				print $1
			}' "$moddir/modules.dep"); do
			base=${file##*/}
			[ -e "$init/m/$base" ] && continue
			cp "$moddir/$file" "$init/m/$base"
			echo "$base" >>"$init/m/$list"
		done
	done
}

make_initrd() {
	local out=$1 init moddir list
	moddir=$(echo "$out"/modules/lib/modules/*)
	init=$out/initrd.root
	mkdir -p "$init"/{bin,proc,sys,dev,m,ro,rw,new}
	cp "$(command -v busybox)" "$init/bin/busybox"
	cp "$here/guest/init" "$init/init"
	chmod 0755 "$init/init"
	list=always add_modules virtio_pci virtio_console virtio-rng 9pnet_virtio 9p overlay
	list=disk add_modules virtio_blk squashfs erofs ext4 crc32c_generic
	(cd "$init" && find . | cpio -o -H newc --quiet) | zstd -q -3 >"$out/initrd"
	rm -rf "$init"
}

install_programs "$@"
key=$(cat "$here/assets.sh" "$here/guest/init" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/berth/vm
dir=$cache/$key
if [ ! -e "$dir/initrd" ]; then
	mkdir -p "$cache"
	exec 9>"$cache/.lock"
	flock 9
	if [ ! -e "$dir/initrd" ]; then
		tmp=$(mktemp -d "$cache/.make.XXXXXX")
		trap 'rm -rf "$tmp"' EXIT
		make_kernel "$tmp"
		make_initrd "$tmp"
		rm -rf "$dir"
		chmod 0755 "$tmp"
		mv "$tmp" "$dir"
		# Of older content; a guest that runs may still look at a recent one.
		find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime +7 ! -path "$dir" -exec rm -rf {} +
		say "made the guest's kernel $(ls "$dir/modules/lib/modules") and initrd in $dir"
	fi
	exec 9>&-
fi
echo "$dir"
