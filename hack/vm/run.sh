#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command as root under a Debian kernel with cgroup v2 only, unless told otherwise, in QEMU.
#
#   hack/vm/run.sh [OPTION...] [--] COMMAND [ARG...]
#
#   --share DIR     DIR is /host in the guest, read-write, and the working
#                   directory of COMMAND (default: the current directory)
#   --see DIR       show DIR, which lies below /tmp or /run, at its own path too:
#                   these two start empty otherwise (repeatable)
#   --env NAME=VAL  set a variable for COMMAND (repeatable); nothing else of the
#                   caller's environment is passed on
#   --root host     the guest's root is this machine's / (default)
#   --root IMAGE    the guest's root is an ext4, squashfs or erofs image
#   --disk FILE     a further raw disk, /dev/vda or the next (repeatable)
#   --systemd       systemd is pid 1; COMMAND is a unit after multi-user.target
#   --hybrid        with --systemd, cgroup v1 with a version 2 beside it
#   --append WORDS  more kernel parameters, as "apparmor=1 security=apparmor"
#   --mem MB        memory (default 2048)
#   --smp N         processors (default 2)
#   --timeout SEC   end the guest after so long (default 300)
#   --net           a network card on QEMU's user-mode network
#   --accel A       auto, kvm or tcg (default auto: KVM if a guest boots with it)
#   --verbose       say which accelerator runs, and what the boot took
#   --keep          keep the control folder, with the console's log, and name it
#
# The root is shown read-only with a tmpfs above it: what COMMAND writes is gone
# afterwards, but for what it writes below /host. The guest sees the host's files
# as they are: Go test binaries built on the host just run.
#
# The exit status is COMMAND's; 124 says that the time was over, 125 that the
# guest did not come up or that an option is wrong (the reason is on stderr).
#
# What the guest boots from is made by assets.sh and kept in
# ${XDG_CACHE_HOME:-~/.cache}/berth/vm; what is missing is installed by apt.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "vm: $*" >&2; }
die() { say "$*"; exit 125; }
usage() { sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
# quote prints its arguments so that any POSIX shell reads them back.
quote() { local a; for a in "$@"; do printf "'%s' " "${a//\'/\'\\\'\'}"; done; echo; }

root=host share=$PWD append='' mem=2048 smp=2 timeout=300 systemd=0 hybrid=0 net=0 keep=0 accel=auto verbose=0
envs=() disks=() see=()
while [ $# -gt 0 ]; do
	case $1 in
	--root | --share | --see | --append | --mem | --smp | --timeout | --env | --disk | --accel)
		[ $# -gt 1 ] || die "option $1 needs a value" ;;
	esac
	case $1 in
	--root) root=$2; shift 2 ;;
	--share) share=$2; shift 2 ;;
	--see) see+=("$2"); shift 2 ;;
	--append) append=$2; shift 2 ;;
	--mem) mem=$2; shift 2 ;;
	--smp) smp=$2; shift 2 ;;
	--timeout) timeout=$2; shift 2 ;;
	--env) envs+=("$2"); shift 2 ;;
	--disk) disks+=("$2"); shift 2 ;;
	--accel) accel=$2; shift 2 ;;
	--systemd) systemd=1; shift ;;
	--hybrid) hybrid=1; shift ;;
	--net) net=1; shift ;;
	--keep) keep=1; shift ;;
	--verbose) verbose=1; shift ;;
	-h | --help) usage; exit 0 ;;
	--) shift; break ;;
	-*) die "unknown option $1; see $0 --help" ;;
	*) break ;;
	esac
done
[ $# -gt 0 ] || { usage >&2; exit 125; }
[ "$(uname -m)" = x86_64 ] || die "the guest is x86_64 only; this machine is $(uname -m)"
[ -d "$share" ] || die "--share $share: no such folder"
share=$(cd "$share" && pwd -P)
for e in ${envs[@]+"${envs[@]}"}; do
	[[ $e =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env $e: found no NAME=VALUE"
done
[ $hybrid = 0 ] || [ $systemd = 1 ] || die "--hybrid: found no --systemd, which mounts the hierarchies"
[ "$root" = host ] || [ -f "$root" ] || die "--root $root: neither \"host\" nor an image file"

need=()
[ $systemd = 0 ] || [ "$root" != host ] || need=(--systemd)
assets=$("$here/assets.sh" ${need[@]+"${need[@]}"}) || exit 125

# ---- the control folder: /vmctl in the guest ----
ctl=$(mktemp -d "${TMPDIR:-/tmp}/berth-vm.XXXXXX")
qemu=
# shellcheck disable=SC2317 # called by the trap
cleanup() {
	if [ -n "$qemu" ]; then kill "$qemu" 2>/dev/null && wait "$qemu" 2>/dev/null; fi
	if [ "$keep" = 1 ]; then say "control folder: $ctl"; else rm -rf "$ctl"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

cp "$here/guest/command" "$here/guest/vm-command.service" "$ctl/"
if [ $systemd = 1 ]; then cp "$here/guest/start-systemd" "$ctl/start"; else cp "$here/guest/start" "$ctl/start"; fi
[ $hybrid = 0 ] || : >"$ctl/hybrid"
quote "$@" >"$ctl/argv"
{
	echo "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8"
	for e in ${envs[@]+"${envs[@]}"}; do echo "export $(quote "$e")"; done
} >"$ctl/env"
: >"$ctl/see"
for d in ${see[@]+"${see[@]}"}; do
	case $d in /tmp/?* | /run/?*) [ -d "$d" ] && echo "$d" >>"$ctl/see" ;; esac
done
# Standard input of QEMU must never end: it would take the port for unplugged,
# and the guest's writes to it would block.
mkfifo "$ctl/stdin"
exec 8<>"$ctl/stdin"

# ---- the accelerator ----
machine=(-m "$mem" -smp "$smp" -nodefaults -no-user-config -display none -no-reboot
	-kernel "$assets/vmlinux" -initrd "$assets/initrd")
kernel="console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc=reliable"
[ $hybrid = 1 ] || kernel+=" cgroup_no_v1=all"
accel_kvm=(-accel kvm -cpu host)
# A plain old model: with "max" fork and exec take twice as long under TCG.
accel_tcg=(-accel "tcg,thread=multi" -cpu "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+rdrand")

# kvm_works boots the kernel once under KVM: /dev/kvm alone says little where
# this machine is a guest itself. The answer holds until the next boot of it.
# Without the processor's own virtualization KVM may be there (PVM), but it
# boots only kernels made for it.
kvm_works() {
	[ -r /dev/kvm ] && [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo || return 1
	local boot answer
	boot=$(cat /proc/sys/kernel/random/boot_id)
	if ! grep -qs "$boot" "$assets/kvm"; then
		# In a shell of its own, which keeps its word on QEMU's abort to itself.
		(timeout --kill-after=1 20 qemu-system-x86_64 "${machine[@]}" "${accel_kvm[@]}" -append "$kernel vm.probe" \
			-serial "file:$ctl/probe"; true) <&8 >"$ctl/probe.err" 2>&1
		if grep -qs "vm: booted" "$ctl/probe"; then answer=yes; else answer=no; fi
		echo "$answer $boot" >"$assets/kvm.$$" && mv "$assets/kvm.$$" "$assets/kvm"
	fi
	grep -q "^yes" "$assets/kvm"
}
case $accel in
auto) if kvm_works; then accel=kvm; else accel=tcg; fi ;;
kvm | tcg) ;;
*) die "--accel $accel: allowed are auto, kvm and tcg" ;;
esac
if [ "$accel" = kvm ]; then machine+=("${accel_kvm[@]}"); else machine+=("${accel_tcg[@]}"); fi

# ---- devices ----
share_folder() { # TAG PATH [,readonly=on]
	machine+=(-fsdev "local,id=$1,path=$2,security_model=none,multidevs=remap${3-}"
		-device "virtio-9p-pci,fsdev=$1,mount_tag=$1")
}
# shellcheck disable=SC2054 # QEMU wants the commas
machine+=(-serial "file:$ctl/console" -device virtio-rng-pci -device virtio-serial-pci
	-chardev "stdio,id=out,signal=off" -device "virtserialport,chardev=out,name=out")
share_folder vmctl "$ctl"
share_folder vmshare "$share"
share_folder vmmods "$(echo "$assets"/modules/lib/modules/*)" ,readonly=on
if [ "$root" = host ]; then
	kernel+=" vm.root=host"
	share_folder vmroot / ,readonly=on
else
	kernel+=" vm.root=disk"
	machine+=(-drive "file=$root,format=raw,if=virtio,readonly=on")
fi
for d in ${disks[@]+"${disks[@]}"}; do machine+=(-drive "file=$d,format=raw,if=virtio,cache=unsafe"); done
[ ${#disks[@]} -eq 0 ] || kernel+=" vm.disks"
# shellcheck disable=SC2054
[ $net = 0 ] || machine+=(-netdev user,id=net0 -device virtio-net-pci,netdev=net0,romfile=)
[ $systemd = 0 ] || kernel+=" vm.systemd systemd.unified_cgroup_hierarchy=$((1 - hybrid)) systemd.show_status=0"

# ---- run ----
# The guest ends with this script, however that ends.
setpriv --pdeathsig TERM timeout --kill-after=5 "$timeout" \
	qemu-system-x86_64 "${machine[@]}" -append "$kernel $append" <&8 2>"$ctl/qemu.err" &
qemu=$!
status=0
wait $qemu || status=$?
qemu=
if [ -f "$ctl/status" ]; then
	[ $verbose = 0 ] || say "$accel, booted in $(cat "$ctl/uptime") s"
	exit "$(cat "$ctl/status")"
fi
say "the guest ended without an exit status; the end of its console:"
tail -40 "$ctl/console" >&2 || true
cat "$ctl/qemu.err" >&2
[ $status != 124 ] || { say "the time of $timeout s was over"; exit 124; }
exit 125
