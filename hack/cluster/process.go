// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/internal/procfs"
)

// program is one background program of the cluster, known by its name: its
// record is DIR/run/NAME.json and its output DIR/log/NAME.log.
type program struct {
	name string
	path string
	args []string
}

// record identifies the process of a program. A pid alone is not enough: it is used again once the
// process is gone. Start time and boot together name a process.
type record struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // field 22 of /proc/PID/stat, clock ticks since boot
	BootID    string `json:"bootID"`
	// Fingerprint is a hash of the program's file and arguments: another one means that the running
	// process is outdated.
	Fingerprint string `json:"fingerprint"`
}

// programs starts, finds and ends background programs whose records are in dir.
type programs struct {
	dir   string
	grace time.Duration // between SIGTERM and SIGKILL
}

func (p programs) recordPath(name string) string {
	return filepath.Join(p.dir, "run", name+".json")
}
func (p programs) logPath(name string) string { return filepath.Join(p.dir, "log", name+".log") }

// start starts prog unless it runs. It first ends one that runs with another file or other
// arguments. It reports whether it started it.
func (p programs) start(prog program) (started bool, err error) {
	fingerprint, err := prog.fingerprint()
	if err != nil {
		return false, err
	}
	old, running, err := p.find(prog.name)
	if err != nil {
		return false, err
	}
	if running {
		if old.Fingerprint == fingerprint {
			return false, nil
		}
		if err := p.stop(prog.name); err != nil {
			return false, err
		}
	}
	for _, path := range []string{p.recordPath(prog.name), p.logPath(prog.name)} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return false, err
		}
	}
	log, err := os.OpenFile(p.logPath(prog.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return false, err
	}
	defer log.Close()
	cmd := exec.Command(prog.path, prog.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = p.dir
	// A session of its own: it outlives this command and its terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start %s: %w", prog.name, err)
	}
	rec := record{PID: cmd.Process.Pid, Fingerprint: fingerprint}
	st, err := procfs.ReadStat(rec.PID)
	if err == nil {
		rec.StartTime = st.StartTime
		rec.BootID, err = procfs.BootID()
	}
	if err == nil {
		err = writeJSON(p.recordPath(prog.name), rec)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return false, fmt.Errorf("record %s: %w", prog.name, err)
	}
	return true, cmd.Process.Release()
}

// find returns the record of the named program and whether that very process
// still runs.
func (p programs) find(name string) (rec record, running bool, err error) {
	data, err := os.ReadFile(p.recordPath(name))
	if errors.Is(err, os.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, err
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		return record{}, false, fmt.Errorf("%s: %w", p.recordPath(name), err)
	}
	return rec, rec.running(), nil
}

// stop ends the named program: SIGTERM, and SIGKILL when that took longer than
// the grace. Without a record, or if the process of the record is gone, it only
// removes the record: nothing that it did not start gets a signal.
func (p programs) stop(name string) error {
	rec, running, err := p.find(name)
	if err != nil {
		return err
	}
	if running {
		if err := rec.end(p.grace); err != nil {
			return fmt.Errorf("stop %s (pid %d): %w", name, rec.PID, err)
		}
	}
	if err := os.Remove(p.recordPath(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// tail returns the end of the named program's log, for an error message.
func (p programs) tail(name string) string {
	f, err := os.Open(p.logPath(name))
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 3 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	data, _ := io.ReadAll(io.LimitReader(f, most))
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	return strings.Join(lines, "\n")
}

// running reports whether the process of the record lives. A zombie does not: pid 1 of a container
// may be slow to reap.
func (r record) running() bool {
	boot, err := procfs.BootID()
	if err != nil || boot != r.BootID {
		return false
	}
	st, err := procfs.ReadStat(r.PID)
	return err == nil && !st.Ended() && st.StartTime == r.StartTime
}

// end signals the process of the record through a pidfd, which cannot come to
// mean another process, and waits until it is gone.
func (r record) end(grace time.Duration) error {
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(fd)
	// The pid may have changed hands between the record and the pidfd; it
	// cannot from here on.
	if !r.running() {
		return nil
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("pidfd_send_signal %v: %w", sig, err)
		}
		if gone, err := waitPidfd(fd, grace); gone || err != nil {
			return err
		}
	}
	return errors.New("still there after SIGKILL")
}

// waitPidfd waits until the process of a pidfd has ended: then the fd is
// readable (pidfd_open(2)), reaped or not.
func waitPidfd(fd int, timeout time.Duration) (gone bool, err error) {
	deadline := time.Now().Add(timeout)
	for {
		left := time.Until(deadline)
		if left < 0 {
			return false, nil
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}},
			int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("poll: %w", err)
		}
		if n > 0 {
			return true, nil
		}
	}
}

func (prog program) fingerprint() (string, error) {
	f, err := os.Open(prog.path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", prog.path, err)
	}
	for _, s := range append([]string{prog.path}, prog.args...) {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeJSON writes v to path so that a reader sees all of it or nothing.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, data)
}

func writeFile(path string, data []byte) error {
	return durable.Replace(path, data, durable.Options{})
}
