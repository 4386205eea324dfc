// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/containerid"
)

const (
	// notifyFolder of a container's state has the socket that its process reports its readiness to.
	notifyFolder = "notify"
	notifySocket = "notify.sock"
)

// notifyTarget returns the directory of the container that has the socket: with crun that is the
// path of the manager's socket, with runc /run/notify. It is runc's for a socket without a path,
// and for that of systemd, where a systemd in the container, or a bind mount of the host's
// directory, has a socket already.
func notifyTarget(manager string) string {
	if !filepath.IsAbs(manager) || strings.HasSuffix(filepath.Clean(manager), "/systemd/notify") {
		return "/run/notify"
	}
	return filepath.Clean(manager)
}

// addActivation passes the sockets of the caller's service manager to the process: sockets to
// accept from (sd_listen_fds(3)), and a socket to report its readiness to (sd_notify(3)), on which
// somebody listens for a container that runs at once.
func (c *creation) addActivation() error {
	if c.o.ListenFDs == 0 && c.o.Notify == "" || c.rec.NoProgram {
		return nil
	}
	spec, process := *c.spec, *c.spec.Process
	spec.Process, c.spec = &process, &spec
	if c.o.ListenFDs > 0 {
		// The process is to take them for its own by its pid, which is 1 where it has a pid
		// namespace, and known to nobody before where not.
		process.Env = withEnv(withEnv(process.Env, "LISTEN_FDS", strconv.Itoa(c.o.ListenFDs)),
			"LISTEN_PID", "1")
	}
	if c.o.Notify == "" {
		return nil
	}
	folder := filepath.Join(c.r.dir(c.id), notifyFolder)
	if err := os.Mkdir(folder, 0o755); err != nil { //nolint:gosec // the container's user, whoever he is, has to find the socket
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	target := notifyTarget(c.o.Notify)
	process.Env = withEnv(process.Env, "NOTIFY_SOCKET", filepath.Join(target, notifySocket))
	spec.Mounts = append(slices.Clip(spec.Mounts), specs.Mount{
		Destination: target, Source: folder, Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	})
	if !c.run {
		return nil
	}
	var err error
	c.notify, err = c.r.ListenNotify(c.id)
	if c.notify != nil {
		c.onFailure(ignoring(c.notify.Close))
	}
	return err
}

// withEnv sets a variable, which the C library looks for from the beginning, in the place of any of
// its name.
func withEnv(env []string, name, value string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		return strings.HasPrefix(e, name+"=")
	})
	return append(env, name+"="+value)
}

// ListenNotify creates the socket to which the process of a container created with
// CreateOptions.Notify reports its readiness. It returns nil for any other container. The socket
// must exist before the container is started.
func (r *Runtime) ListenNotify(id string) (*net.UnixConn, error) {
	if err := containerid.Check(id); err != nil {
		return nil, err
	}
	dir, err := unix.Open(filepath.Join(r.dir(id), notifyFolder), unix.O_PATH|unix.O_DIRECTORY|
		unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %s: %w", id, notifyFolder, err)
	}
	defer unix.Close(dir)
	// The address of a socket has 107 bytes (unix(7)), and the directory's path may have more.
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir, notifySocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("container %s: %s: %w", id, notifySocket, err)
	}
	// Whoever can get at it is the container.
	if err := os.Chmod(path, 0o777); err != nil { //nolint:gosec // as above
		return nil, errors.Join(fmt.Errorf("container %s: %w", id, err), socket.Close())
	}
	return socket, nil
}
