// SPDX-License-Identifier: Apache-2.0

// Package procfs reads what Berth needs from /proc: the state of a process, and the id of this
// boot.
package procfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Stat is a part of /proc/PID/stat (proc_pid_stat(5)).
type Stat struct {
	// State is a letter such as 'R' (running) or 'Z' (a zombie).
	State byte
	// PPID is the pid of the parent process.
	PPID int
	// Exiting says that the process is being ended, and will be a zombie: it may have lost its
	// descriptors by now.
	Exiting bool
	// StartTime is in clock ticks since boot. With the pid and the boot id it names one process for
	// ever.
	StartTime uint64
	// Exit is the exit status of a zombie; the kernel shows it only to those who may trace the
	// process.
	Exit unix.WaitStatus
}

// flagExiting is the kernel's PF_EXITING (include/linux/sched.h).
const flagExiting = 0x4

// Ended reports whether the process has ended and waits to be reaped.
func (s Stat) Ended() bool { return s.State == 'Z' || s.State == 'X' }

// ReadStat reads the state of a process. If there is none, the error is fs.ErrNotExist or ESRCH.
func ReadStat(pid int) (Stat, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return Stat{}, err
	}
	return parseStat(pid, b)
}

func parseStat(pid int, b []byte) (Stat, error) {
	// The second field is the command in parentheses. It may hold any character, so fields are
	// counted from the last ")".
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return Stat{}, fmt.Errorf("/proc/%d/stat: found %.80q; allowed: a command in parentheses", pid, b)
	}
	fields := bytes.Fields(b[i+1:]) // fields[0] is field 3
	if len(fields) < 50 {
		return Stat{}, fmt.Errorf("/proc/%d/stat: found %d fields; allowed: at least 52", pid,
			len(fields)+2)
	}
	parent, err := strconv.Atoi(string(fields[4-3]))
	if err != nil {
		return Stat{}, fmt.Errorf("/proc/%d/stat: parent: %w", pid, err)
	}
	flags, err := strconv.ParseUint(string(fields[9-3]), 10, 32)
	if err != nil {
		return Stat{}, fmt.Errorf("/proc/%d/stat: flags: %w", pid, err)
	}
	start, err := strconv.ParseUint(string(fields[22-3]), 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("/proc/%d/stat: start time: %w", pid, err)
	}
	exit, err := strconv.ParseUint(string(fields[52-3]), 10, 32)
	if err != nil {
		return Stat{}, fmt.Errorf("/proc/%d/stat: exit code: %w", pid, err)
	}
	return Stat{
		State: fields[0][0], PPID: parent, Exiting: flags&flagExiting != 0, StartTime: start,
		Exit: unix.WaitStatus(exit),
	}, nil
}

// BootID returns the id of this boot of the machine (random(4)), which it reads once.
var BootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
})
