#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make test-race: `go test -race -exec hack/race-exec.sh` runs each test binary with this, in the
# directory of its package. One call of go test builds and runs all packages, and each gets the
# tests that the race detector has something to say about:
#
#   - the programs of cmd are built with the detector, too, where their tests have it. Of these run
#     the tests in which they start goroutines: an agent's start, life and takeover, exec, logs,
#     status, restart, stop, and both killed and upgraded (Chaos); signals, sockets and terminals of
#     berth. The others measure time, memory or system calls, kill at each step, or want a program
#     without C's library;
#   - the detector's memory is no measure of a container's, and beside processes that fork without
#     end it comes to nothing.
set -euo pipefail

agent='^Test(Chaos|Standalone(Life|Control|RestartPolicy|Pull)|Supervisor(Killed|KilledBelowReaper|Upgrade)|RunDirRemoved|EditOfLimitsRestartsNothing|Status.*)$'
berth='^Test(Lifecycle|Run|RunForwardsSignals|ForegroundTerminal|Exec|ExecForwardsSignals|EverySignalIsForwarded|SignalEndsCreate|Notify|SocketActivation|RuntimeType|RuntimeOfAnother|Events|PauseAndPs)$'

flags=()
case $PWD in
*/cmd/berth-agent) flags=(-test.run="$agent") ;;
*/cmd/berth) flags=(-test.run="$berth") ;;
*/node-agent/ociruntime/seccomp) flags=(-test.run=Cache) ;;
*/node-agent/ociruntime) flags=(-test.short -test.skip=TestKillAllForking) ;;
*/node-agent/ociruntime/*) flags=(-test.short) ;;
*/node-agent/supervisor) flags=(-test.skip=TestMemoryOfARunningContainer) ;;
*/node-agent/source/folder) flags=(-test.skip=TestMemoryOfAContainer) ;;
esac
exec env -u GOGC "$@" ${flags[@]+"${flags[@]}"}
