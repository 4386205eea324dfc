#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian packages that building, running and testing Berth need, if
# they are not there.
#
#   hack/deps.sh run|test|lint|bench|bench-node|conformance|clients|bats|crun-tests
set -euo pipefail

case ${1-} in
run) packages=(busybox-static jq procps) ;;
test) packages=(busybox-static criu runc crun libseccomp-dev gcc libc6-dev iproute2 jq strace e2fsprogs uidmap apparmor secilc containernetworking-plugins iptables nftables docker-registry) ;;
bench) packages=(busybox-static runc crun hyperfine gcc libc6-dev libseccomp-dev pkg-config jq time patchelf) ;;
lint) packages=(shellcheck) ;;
bench-node) packages=(busybox-static runc crun podman conmon containerd containernetworking-plugins iptables iproute2 gcc libc6-dev tini e2fsprogs util-linux) ;;
conformance) packages=(tini apparmor runc crun util-linux gcc libc6-dev libseccomp-dev pkg-config) ;;
bats) packages=(bats bsdutils busybox-static criu gawk gcc git iproute2 jq libc6-dev libseccomp-dev patchelf pkg-config procps sudo tini uidmap util-linux) ;;
crun-tests) packages=(gcc libc6-dev libseccomp-dev patchelf python3 tini util-linux) ;;
clients) packages=(podman runc uidmap buildah containerd docker.io conmon containernetworking-plugins iptables tini busybox-static iproute2 util-linux) ;;
*) sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2 ;;
esac

missing=()
for p in "${packages[@]}"; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps: these packages are missing, and only root can install them: ${missing[*]}" >&2
	exit 1
fi
echo "deps: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -o DPkg::Lock::Timeout=300 -y --no-install-recommends)
# Stale package lists are the usual cause of a failure.
"${apt[@]}" install "${missing[@]}" >&2 || { apt-get -o DPkg::Lock::Timeout=300 update >&2 && "${apt[@]}" install "${missing[@]}" >&2; }
