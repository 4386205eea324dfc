#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make crun-tests: runs crun's own tests with bin/berth in place of crun and with crun
# itself, and fails if a test fails that docs/runc-suite.md does not name and that
# passes with crun on this machine.
#
#   hack/crun-tests/run.sh [-v] [FILE...]
#
#   -v    show the output of what fails
#   FILE  as exec or mounts, for tests/test_FILE.py (default: all)
#
#   CRUN_TESTS  a folder with the tests of another version, and their init program
#   CRUN_SUITE  the Debian suite that crun and, without CRUN_TESTS, the tests are of
#
# It needs root. The tests are those of Debian's source package, unchanged; nothing of
# them is in this repository. They are kept, with their init program, in
# ${XDG_CACHE_HOME:-~/.cache}/berth/crun-tests. Each file runs as ../isolate.sh runs it.
# crun refuses a host with cgroup v1 and v2 side by side: both runtimes see the v1
# hierarchies of such a host alone. Two runs at once would use the same names of cgroups:
# the second one waits.
# Some tests ask for a container's state only once crun's own file of it is there: both
# runtimes are asked at once, by those of checkpoints until it is running. A test that does not end fails, and the rest of its
# file is run without it.
set -euo pipefail

# Debian's stable suite: what unstable has is gone from the mirrors with its next version.
suite=${CRUN_SUITE:-trixie}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
say() { echo "crun-tests: $*" >&2; }

verbose=
while [ $# -gt 0 ]; do
	case $1 in
	-v) verbose=1; shift ;;
	-h | --help) sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
	-*) say "unknown option $1; see $0 --help"; exit 2 ;;
	*) break ;;
	esac
done
[ -x bin/berth ] || { say "no bin/berth: run make build"; exit 2; }

tests=${CRUN_TESTS:-${XDG_CACHE_HOME:-$HOME/.cache}/berth/crun-tests/$suite}
work=$(mktemp -d "${TMPDIR:-/tmp}/berth-crun-tests.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# fetch unpacks the tests of Debian's source package and builds their init program.
fetch() {
	local mirror apt uri file hash
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | sort -u | head -1)
	[ -n "$mirror" ] || { say "this machine has no Debian mirror"; exit 1; }
	mkdir -p "$work"/{lists,cache/archives}/partial "$work/source"
	echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
	apt=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
	apt-get "${apt[@]}" update >&2
	# The package index is signed, and names the hash.
	read -r uri file hash < <(apt-get "${apt[@]}" source --print-uris crun | awk '$2 ~ /\.orig\.tar\.[gx]z$/ { print substr($1, 2, length($1) - 2), $2, $4 }')
	/usr/lib/apt/apt-helper download-file "$uri" "$work/$file" "$hash" >&2
	tar -C "$work/source" --strip-components 1 -xf "$work/$file"
	# Its config.h is that of a configured crun.
	printf '#define HAVE_%s 1\n' ERROR_H LINUX_IOPRIO_H SECCOMP >"$work/source/tests/config.h"
	gcc -static -O1 -w -I"$work/source/tests" -o "$work/source/tests/init" "$work/source/tests/init.c" -lseccomp
	mkdir -p "$(dirname "$tests")" && mv "$work/source/tests" "$tests"
}
if [ -z "${CRUN_TESTS:-}" ]; then
	[ -d "$tests" ] || fetch
fi
[ -x "$tests/init" ] || { say "$tests: no program init"; exit 2; }
crun=$(hack/debian.sh "$suite" crun /usr/bin/crun)
# Debian's criu of the machine's own suite may be older than the kernel.
PATH=$(dirname "$(hack/debian.sh trixie criu /usr/sbin/criu)"):$PATH

exec 9>"$tests/.running"
flock -n 9 || { say "waiting for another run"; flock 9; }
mkdir "$work/tests" && cp -a "$tests/." "$work/tests" && tests=$work/tests
sed -i 's/if os.path.exists(status_file):/if True:/' "$tests/tests_utils.py"
sed -i "s/if os.path.exists(os.path.join(tests_root, 'root\/%s\/status' % cid)):/if 'running' in run_crun_command(['state', cid]):/" "$tests/test_checkpoint_restore.py"

files=("$@")
if [ $# = 0 ]; then
	for f in "$tests"/test_*.py; do
		f=${f##*/test_}
		files+=("${f%.py}")
	done
fi
for f in "${files[@]}"; do
	[ -e "$tests/test_$f.py" ] || { say "$f: no such file of the tests"; exit 2; }
done

# shellcheck disable=SC2016 # for the shell within
within='
if [ "$(stat -f -c %T /sys/fs/cgroup)" = tmpfs ]; then
	mkdir /run/cgroup && mount -t tmpfs -o mode=755 tmpfs /run/cgroup || exit 125
	while read -r dir; do
		mkdir "/run/cgroup/${dir##*/}" && mount --bind "$dir" "/run/cgroup/${dir##*/}" || exit 125
	done < <(awk "\$3 == \"cgroup\" { print \$2 }" /proc/self/mounts)
	# A container stays in this cgroup of the hidden v2 hierarchy. criu copies the cgroups below it to the path that crun
	# has restored in every hierarchy: of the root it would copy all, copies of earlier runs included.
	v2=/sys/fs/cgroup/unified
	[ ! -d $v2 ] || { mkdir -p "$v2/$group" && echo 0 >"$v2/$group/cgroup.procs"; } || exit 125
	mount --rbind /run/cgroup /sys/fs/cgroup || exit 125
fi
cd "$TMPDIR" && python3 "$tests/test_$file.py" </dev/null >"$out/$file.tap" 2>"$out/$file.err"
# crun leaves the container of test_delete.py in there, where it cannot end.
frozen=/sys/fs/cgroup/freezer/frozen
[ ! -d "$frozen" ] || { echo THAWED >"$frozen/freezer.state"; sleep 0.5; rmdir "$frozen"; }
'

# with runs the files with a runtime and leaves FILE.tap in $work/NAME.out.
with() { # NAME PROGRAM
	export OCI_RUNTIME=$2 INIT=$tests/init out=$work/$1.out group=${work##*/} tests file PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
	mkdir -p "$out"
	for file in "${files[@]}"; do
		once
		mapfile -t names < <(python3 -c 'import sys; sys.path[0] = sys.argv[1]; print(*__import__("test_" + sys.argv[2]).all_tests, sep="\n")' "$tests" "$file")
		local ended tap=$out/$file.tap
		ended=$(grep -cE '^(not )?ok ' "$tap" || true)
		if [ "$ended" -lt ${#names[@]} ]; then
			mv "$tap" "$tap.first"
			RUN_TESTS=${names[*]:ended + 1} once
			{ cat "$tap.first"; echo "not ok $ended - ${names[ended]}"; grep -av '^1\.\.' "$tap"; } >"$tap.whole" || true
			mv "$tap.whole" "$tap"
		fi
	done
}

# once runs $file, and removes the cgroups that its containers leave.
once() {
	local dir
	TMPDIR=$work hack/isolate.sh 150 "$within" >/dev/null 2>&1 9>&- || true
	for dir in /sys/fs/cgroup/{,*/}{test-tmp*,"$group"}; do
		[ -d "$dir" ] || continue
		for _ in {1..20}; do # the last processes of the namespace may still be ending
			find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || true
			[ -d "$dir" ] || break
			sleep 0.1
		done
	done
}

# Under crun's name berth has that name in its version and help.
mkdir "$work/bin" && cp bin/berth "$work/bin/crun"
# The tests ask --version whether to test systemd's notifications, seccomp and criu; berth has them all.
cat >"$work/berth" <<SH
#!/bin/sh
for argument; do
	[ "\$argument" != --version ] || echo "+SYSTEMD +CAP +SECCOMP +CRIU"
done
exec "$work/bin/crun" "\$@"
SH
chmod +x "$work/berth"
with berth "$work/berth"
with crun "$crun"
say "both took $SECONDS s"
[ -z "$verbose" ] || for f in "${files[@]}"; do cat "$work/berth.out/$f.err"; done
hack/compare.sh ${verbose:+-v} "$work" crun test_%s.py "" "${files[@]}"
