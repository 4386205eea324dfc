#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make run: runs the agent alone on this machine with the sample Container hello,
# waits until it runs, and shows it. Running it again shows it again.
#
#   hack/run.sh [up|down]
#
# BERTH_MANIFESTS is the folder of manifests, /var/lib/berth/manifests by default.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
manifests=${BERTH_MANIFESTS:-/var/lib/berth/manifests}
pidfile=/run/berth/agent.pid
agent=$PWD/bin/berth-agent

running() {
	local pid
	pid=$(cat "$pidfile" 2>/dev/null) || return 1
	[ "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$agent" ]
}

down() {
	rm -f "$manifests/hello.yaml"
	if running; then
		echo "Waiting for the containers whose manifests are gone to stop ..."
		for _ in $(seq 100); do
			"$agent" status -o json 2>/dev/null | jq -e '[.items[]? | select(.metadata.name == "hello")] | length == 0' >/dev/null && break
			sleep 0.2
		done
		kill "$(cat "$pidfile")"
	fi
	rm -f "$pidfile"
	if [ -z "$(bin/berth --root /run/berth/containers list -q)" ]; then
		pkill -TERM -xf "$PWD/bin/berth supervise .*" || true
		echo "The agent and the supervisor have ended."
	else
		echo "The agent has ended. The containers of your own in $manifests go on, and the agent takes them up when it starts again."
	fi
}

[ "$(id -u)" = 0 ] || { echo "make run: containers need root" >&2; exit 1; }
case ${1-up} in
down) down; exit ;;
up) ;;
*) sed -n '4,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2 ;;
esac

for dir in /run/berth "$manifests"; do
	[ -d "$dir" ] || (umask 077 && mkdir -p "$dir")
done
cmp -s config/samples/hello.yaml "$manifests/hello.yaml" || cp config/samples/hello.yaml "$manifests/hello.yaml"
if ! running; then
	setsid "$agent" --manifests "$manifests" >>/var/log/berth-agent.log 2>&1 </dev/null &
	echo $! >"$pidfile"
fi
for _ in $(seq 300); do
	"$agent" status hello -o json 2>/dev/null | jq -e '.status.phase == "Running"' >/dev/null && ok=1 && break
	running || break
	sleep 0.1
done
if [ -z "${ok-}" ]; then
	echo "hello does not run. What the agent says:" >&2
	"$agent" status >&2 || true
	tail -20 /var/log/berth-agent.log >&2
	exit 1
fi
echo
"$agent" status
echo
sleep 0.3
"$agent" logs hello
cat <<END

hello runs. From here:
  cp YOUR.yaml $manifests/          run a Container of your own; config/samples has more
  bin/berth-agent status                          look; -o yaml for all of it
  bin/berth-agent logs -f hello                   its log
  bin/berth --root /run/berth/containers list     the containers as the runtime sees them
  rm $manifests/hello.yaml          stop it
  make stop                                       stop hello and the agent
END
