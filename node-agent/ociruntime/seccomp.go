// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/seccomp"
)

// filterDir is the directory below the root that keeps compiled seccomp filters. No container has
// that id (containerid.Check).
const filterDir = "@seccomp"

// seccompFilter returns the filter of a container from the cache, or compiles it: engines have one
// profile for most containers, and a look-up takes less time.
func (r *Runtime) seccompFilter(spec *specs.Spec) (*seccomp.Filter, error) {
	filter, err := compileSeccomp(spec, seccomp.NewCache(filepath.Join(r.root, filterDir)).Get, r.warn)
	if filter != nil {
		// As in runc's log: the child has one thread, for which the flags of several change
		// nothing.
		r.debugf("seccomp filter flags: %d", filter.Flags&^(unix.SECCOMP_FILTER_FLAG_TSYNC|
			unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH))
	}
	return filter, err
}

// compileSeccomp compiles linux.seccomp; without one there is no filter.
func compileSeccomp(spec *specs.Spec, compile func(*specs.LinuxSeccomp) (*seccomp.Filter,
	[]seccomp.Warning, error), warn func(string),
) (*seccomp.Filter, error) {
	if spec.Linux == nil || spec.Linux.Seccomp == nil {
		return nil, nil
	}
	filter, warnings, err := compile(spec.Linux.Seccomp)
	if err != nil {
		return nil, fmt.Errorf("linux.seccomp: %w", err)
	}
	for _, w := range warnings {
		warn(fmt.Sprint(w))
	}
	return filter, nil
}

// kernelTakes reports whether the kernel knows a flag of filters. It checks the flags before the
// filter, which is nil here and so is never loaded (seccomp(2), EFAULT).
func kernelTakes(flag specs.LinuxSeccompFlag) bool {
	// One flag is for filters that notify alone.
	filter, _, err := seccomp.Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{flag},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"getppid"}, Action: specs.ActNotify}},
	})
	if err != nil {
		return false
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		uintptr(filter.Flags), 0)
	return errno == unix.EFAULT
}

// sendListener fetches the seccomp listener that a child has just made and sends it to the agent at
// listenerPath, with what config-linux.md, The Container Process State, says beside it. state is
// that of the container, whose first process need not be the child.
func sendListener(ctx context.Context, profile *specs.LinuxSeccomp, child *launch.Child,
	state specs.State,
) error {
	fail := func(what string, err error) error {
		return fmt.Errorf("linux.seccomp.listenerPath: %s: %w", what, err)
	}
	listener, err := unix.PidfdGetfd(child.PIDFD, child.Value, 0)
	if err != nil {
		return fail("pidfd_getfd of the listener", err)
	}
	defer unix.Close(listener)
	data, err := json.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: child.PID,
		Metadata: profile.ListenerMetadata, State: state,
	})
	if err != nil {
		return fail("the container's process state", err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", profile.ListenerPath)
	if err != nil {
		return fail("failed to connect with seccomp agent specified in the seccomp profile", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // an agent that does not read
	defer stop()
	n, _, err := conn.(*net.UnixConn).WriteMsgUnix(data, unix.UnixRights(listener), nil)
	if err == nil && n < len(data) {
		_, err = conn.Write(data[n:]) // the descriptor goes with the first part
	}
	if err != nil {
		return fail("cannot send seccomp fd to "+profile.ListenerPath, err)
	}
	return nil
}
