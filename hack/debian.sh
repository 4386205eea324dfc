#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of a program of another Debian suite than the machine's own. It
# comes from the mirror that the machine uses anyway, with the libraries it was
# linked with, and is kept in ${XDG_CACHE_HOME:-~/.cache}/berth/debian. Nothing is
# installed. It fails if the mirror does not have the suite.
#
#   hack/debian.sh SUITE PACKAGE PROGRAM     as: trixie criu /usr/sbin/criu
set -euo pipefail

[ $# = 3 ] || { sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
suite=$1 package=$2 program=$3
cache=${XDG_CACHE_HOME:-$HOME/.cache}/berth/debian/$suite-$package
name=$(basename "$program")
if [ -x "$cache/$name" ]; then
	echo "$cache/$name"
	exit
fi
# shellcheck disable=SC2016 # a format of apt's
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | sort -u | head -1)
[ -n "$mirror" ] || { echo "debian: this machine has no Debian mirror" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,cache/archives}/partial "$work/root"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
apt=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update >&2
cd "$work"
# The libraries by name; those of the C library come with libc6.
mapfile -t packages < <(apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$package/$suite" | grep '^[a-z]' | sort -u)
for p in "${packages[@]}"; do
	apt-get "${apt[@]}" download "$p/$suite" >&2 2>/dev/null || true
done
for p in ./*.deb; do dpkg-deb -x "$p" root; done
libraries=$cache/lib
mkdir -p "$libraries"
find root \( -path '*/x86_64-linux-gnu/*.so*' -o -path '*/aarch64-linux-gnu/*.so*' \) -exec cp -a -t "$libraries" {} +
loader=$(basename "$(patchelf --print-interpreter "root$program")")
cp "root$program" "$work/$name"
# RPATH, unlike RUNPATH, holds for the libraries of the libraries too.
patchelf --force-rpath --set-interpreter "$libraries/$loader" --set-rpath "$libraries" "$work/$name"
"$work/$name" --version >&2
mv "$work/$name" "$cache/$name"
echo "$cache/$name"
