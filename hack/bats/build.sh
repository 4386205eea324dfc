#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes a copy of runc's integration suite that runs without a network: the tests of
# the module github.com/opencontainers/runc from the Go module proxy, their helper
# programs, runc itself for comparison, two root file systems in place of the images
# that the suite would download, a git repository in place of the one it would clone,
# and a criu that knows today's kernels. Prints the folder on stdout; progress goes to
# stderr.
#
#   hack/bats/build.sh
#
# Only what is absent is made. All is kept by the content of this script, in
# ${XDG_CACHE_HOME:-~/.cache}/berth/bats/KEY.
set -euo pipefail

runc_version=v1.5.1
# Of Debian's stable suite: the one of bookworm cannot read the vDSO of Linux 6.18.
criu_suite=trixie

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { echo "bats: $*" >&2; }

case ${1-} in
'') ;;
*) sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; [[ $1 = -h || $1 = --help ]]; exit ;;
esac

key=$({ cat "$here/build.sh" "$here"/stand-ins/*; go version; busybox | sed -n 1p; } 2>&1 | sha256sum | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/berth/bats/$key

# busybox_image writes what the suite takes for docker's busybox image.
busybox_image() { # FILE
	local root=$work/busybox
	mkdir -p "$root"/{bin,dev,etc,home,lib,root,tmp,usr/bin,usr/sbin,var/spool/mail,var/www}
	chmod 1777 "$root/tmp" && chmod 700 "$root/root"
	cp /bin/busybox "$root/bin/busybox"
	local applet
	for applet in $(busybox --list); do
		[ "$applet" = busybox ] || ln "$root/bin/busybox" "$root/bin/$applet"
	done
	accounts "$root"
	tar -C "$root" -cf "$1" .
}

# debian_image writes what the suite takes for Debian's image: the programs of this
# machine's own Debian that the tests call, and the libraries that these need.
debian_image() { # FILE
	local root=$work/debian name program file
	mkdir -p "$root"/{dev,etc/ld.so.conf.d,home,proc,root,run,sys,tmp,usr/bin,usr/sbin,usr/lib,usr/lib64,var/cache/ldconfig,var/tmp,mnt,opt,srv}
	ln -s usr/bin "$root/bin" && ln -s usr/sbin "$root/sbin" && ln -s usr/lib "$root/lib" && ln -s usr/lib64 "$root/lib64"
	chmod 1777 "$root/tmp" "$root/var/tmp" && chmod 700 "$root/root"
	for name in bash cat chmod chown chrt cp cut dash echo env false findmnt grep head id ionice ldconfig ldconfig.real ln ls mkdir mount \
		mountpoint mv nice ps readlink rm sed sh sleep sort stat tail taskset touch tr true umount uname wc; do
		program=$(type -P "$name") || continue
		cp -P "$program" "$root$program"
		ldd "$program" 2>/dev/null | sed -n 's,^[^/]*\(/[^ ]*\) .*,\1,p' | while read -r file; do
			mkdir -p "$root/$(dirname "$file")" && cp -Lu "$file" "$root$file"
		done
	done
	cp /etc/ld.so.conf "$root/etc/" && cp /etc/ld.so.conf.d/* "$root/etc/ld.so.conf.d/"
	accounts "$root"
	tar -C "$root" -cf "$1" .
}

# specification makes the git repository of the runtime specification that a test
# clones, from its module, and fetches the modules that the test builds with.
specification() { # DIR
	local version source
	version=$(awk '$1 == "github.com/opencontainers/runtime-spec" { print $2 }' "$work/runc/go.mod")
	source=$(cd "$work" && go mod download -json "github.com/opencontainers/runtime-spec@$version" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
	cp -r "$source" "$1" && chmod -R u+w "$1"
	git -C "$1" init -q && git -C "$1" add . &&
		git -C "$1" -c user.name=berth -c user.email=berth@localhost commit -qm "$version" && git -C "$1" tag "$version"
}

accounts() { # ROOT
	printf '%s\n' root:x:0:0:root:/root:/bin/sh daemon:x:1:1:daemon:/usr/sbin:/bin/false bin:x:2:2:bin:/bin:/bin/false \
		sys:x:3:3:sys:/dev:/bin/false mail:x:8:8:mail:/var/spool/mail:/bin/false www-data:x:33:33:www-data:/var/www:/bin/false \
		nobody:x:65534:65534:nobody:/home:/bin/false >"$1/etc/passwd"
	printf '%s\n' root:x:0: daemon:x:1: bin:x:2: sys:x:3: tty:x:5: mail:x:8: www-data:x:33: users:x:100: nogroup:x:65534: >"$1/etc/group"
}

if [ ! -e "$dir/done" ]; then
	mkdir -p "$dir"
	# One at a time; a second caller waits and then finds it all done.
	exec 9>"$dir/.lock"
	flock -n 9 || { say "waiting for another build"; flock 9; }
	if [ ! -e "$dir/done" ]; then
		say "building runc $runc_version and its test programs"
		start=$SECONDS
		work=$(mktemp -d "${TMPDIR:-/tmp}/berth-bats.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		export GOWORK=off GOFLAGS="-mod=mod -buildvcs=false"
		module=$(cd "$work" && go mod download -json "github.com/opencontainers/runc@$runc_version" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
		cp -r "$module" "$work/runc" && chmod -R u+w "$work/runc"
		mkdir -p "$dir/tests/cmd/_bin"
		cp -r "$work/runc/tests/integration" "$dir/tests/"
		cp "$work/runc/go.mod" "$dir/"
		mkdir -p "$dir/tests/cmd/seccompagent" && cp "$work/runc/tests/cmd/seccompagent/"*.sh "$dir/tests/cmd/seccompagent/"
		cd "$work/runc"
		# Modules carry no execute bits.
		find "$dir/tests" -name "*.sh" -exec chmod +x {} +
		GOBIN=$dir CGO_ENABLED=1 go install -tags seccomp -ldflags "-X main.gitCommit=$runc_version" "github.com/opencontainers/runc@$runc_version"
		CGO_ENABLED=1 go build -tags seccomp -ldflags "-s -w" -o "$dir/tests/cmd/_bin/" \
			./tests/cmd/{recvtty,sd-helper,seccompagent,fs-idmap,pidfd-kill,remap-rootfs,key_label}
		specification "$dir/runtime-spec.git"
		cd "$here"
		cp -r stand-ins "$dir/bin"
		if criu=$(../debian.sh "$criu_suite" criu /usr/sbin/criu); then
			ln -s "$criu" "$dir/bin/criu"
		else
			say "no criu of Debian's $criu_suite: checkpoint.bats has this machine's"
		fi
		busybox_image "$dir/busybox.tar"
		debian_image "$dir/debian.tar"
		# In place of the program that downloads them.
		cat >"$dir/tests/integration/get-images.sh" <<-'SH'
			#!/bin/sh
			dir=$(cd "$(dirname "$0")/../.." && pwd)
			echo "BUSYBOX_IMAGE=$dir/busybox.tar DEBIAN_IMAGE=$dir/debian.tar"
		SH
		: >"$dir/done"
		say "built in $((SECONDS - start)) s"
	fi
	exec 9>&-
fi
echo "$dir"
