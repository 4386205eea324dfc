#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of the newest crun that Debian has, which it takes from the
# unstable suite of the mirror that this machine uses anyway and keeps, with the
# libraries that it was linked with, in ${XDG_CACHE_HOME:-~/.cache}/berth/bench.
# Nothing is installed. It fails where that suite cannot be reached.
#
#   hack/bench/crun.sh
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/berth/bench/crun
if [ -x "$cache/crun" ]; then
	echo "$cache/crun"
	exit
fi
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | sort -u | head -1)
[ -n "$mirror" ] || { echo "crun: this machine has no Debian mirror" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,cache/archives}/partial "$work/root"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror unstable main" >"$work/sources.list"
apt=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update >&2
cd "$work"
# Its libraries by name; those of the C library come with libc6.
mapfile -t packages < <(apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances crun/unstable | grep '^[a-z]' | sort -u)
for p in "${packages[@]}"; do
	apt-get "${apt[@]}" download "$p/unstable" >&2 2>/dev/null || true
done
for p in ./*.deb; do dpkg-deb -x "$p" root; done
libraries=$cache/lib
mkdir -p "$libraries"
find root \( -path '*/x86_64-linux-gnu/*.so*' -o -path '*/aarch64-linux-gnu/*.so*' \) -exec cp -a -t "$libraries" {} +
loader=$(basename "$(patchelf --print-interpreter root/usr/bin/crun)")
cp root/usr/bin/crun "$work/crun"
patchelf --set-interpreter "$libraries/$loader" --set-rpath "$libraries" "$work/crun"
"$work/crun" --version >&2
mv "$work/crun" "$cache/crun"
echo "$cache/crun"
