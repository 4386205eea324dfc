// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// A supervisor is upgraded in place: it executes another program in its own process, so that the
// containers remain its children and all of its descriptors stay open. What it knows is in its
// records and, as for a successor of a killed one, in the list of descriptors that it passes on
// (see protocol.Holder).

// kindLock is the lock of the run directory in that list. It keeps its number, and stays the only
// descriptor of the file: to close any releases the lock (fcntl(2)), in execve(2), too.
const kindLock = "lock"

// CheckRecords returns an error if this program cannot read a record of the supervisor in runDir.
func CheckRecords(runDir string) error {
	_, unreadable, err := records{filepath.Join(runDir, "supervisor")}.load()
	return errors.Join(append(slices.Collect(maps.Values(unreadable)), err)...)
}

// checkTimeout is the time that the new program may take to read the records.
const checkTimeout = 30 * time.Second

// checkUpgrade asks the program that is to take over whether it can read what is on disk.
func (s *server) checkUpgrade(ctx context.Context, program string) error {
	if s.command == nil {
		return fmt.Errorf("%w: upgrade: this supervisor was not started by a command line",
			protocol.ErrInvalid)
	}
	if !filepath.IsAbs(program) {
		return fmt.Errorf("%w: upgrade: found %q; allowed: the absolute path of a program",
			protocol.ErrInvalid, program)
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	args := append(append([]string{}, s.command[1:]...), "--check-records")
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("upgrade: %s cannot take over: %w: %s", program, err,
			strings.TrimSpace(string(out)))
	}
	return nil
}

// pass collects the descriptors that the next program needs, and returns the argument that names
// their list. They are open across execve(2); after an error none is.
func (s *server) pass(lock *os.File) (string, error) {
	var names []protocol.HeldFile
	for _, c := range s.containers {
		kinds, fds := c.descriptors()
		for i := range kinds {
			names = append(names, protocol.HeldFile{ID: c.id, Kind: kinds[i], FD: fds[i]})
		}
	}
	names = append(names, protocol.HeldFile{Kind: kindLock, FD: int(lock.Fd())})
	list, err := unix.MemfdCreate("held", unix.MFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("memfd_create: %w", err)
	}
	b, err := json.Marshal(names)
	if err != nil {
		return "", err
	}
	if n, err := unix.Write(list, b); err != nil || n < len(b) {
		return "", fmt.Errorf("write the list of descriptors: %d of %d bytes: %w", n, len(b), err)
	}
	for _, n := range append(names, protocol.HeldFile{FD: list}) {
		// only of a number that is no descriptor
		if _, err := unix.FcntlInt(uintptr(n.FD), unix.F_SETFD, 0); err != nil {
			return "", fmt.Errorf("fcntl: descriptor %d: %w", n.FD, err)
		}
	}
	return strconv.Itoa(list), nil
}

// become executes the program that takes over. It returns only if that fails, also with the program
// that runs now.
func (s *server) become(program, held string) error {
	args := append(append([]string{}, s.command...), "--held", held)
	err := unix.Exec(program, args, os.Environ())
	s.log.Error("upgrade: the program cannot be executed; the one before goes on", "program", program,
		"error", err)
	return errors.Join(err, unix.Exec("/proc/self/exe", args, os.Environ()))
}
