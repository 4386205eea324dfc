// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Tick is the unit of times in /proc/PID/stat: USER_HZ is 100 for all programs.
const Tick = time.Second / 100

// Memory is the memory of a process, in KiB.
type Memory struct {
	// PSS counts a page that n processes share as the nth part of it.
	PSS int
	// Own is the part of PSS that the process has written: its heap, stacks and variables. Program
	// is that of pages of its program and other files.
	Own, Program int
	// RSS counts such a page in full; Peak is the most that it was.
	RSS, Peak int
}

// ReadMemory reads how much memory a process has.
func ReadMemory(pid int) (m Memory, err error) {
	for _, from := range []struct {
		file, name string
		to         *int
	}{
		{"smaps_rollup", "Pss:", &m.PSS},
		{"smaps_rollup", "Pss_Anon:", &m.Own},
		{"smaps_rollup", "Pss_File:", &m.Program},
		{"status", "VmRSS:", &m.RSS},
		{"status", "VmHWM:", &m.Peak},
	} {
		path := fmt.Sprintf("/proc/%d/%s", pid, from.file)
		text, err := os.ReadFile(path)
		if err != nil {
			return Memory{}, err
		}
		for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
			if value, ok := strings.CutPrefix(s.Text(), from.name); ok {
				if _, err := fmt.Sscan(value, from.to); err != nil {
					return Memory{}, fmt.Errorf("%s: %s: %w", path, from.name, err)
				}
			}
		}
	}
	return m, nil
}

// ReadCPUTime reads how much processor time the threads of a process have used.
func ReadCPUTime(pid int) (time.Duration, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]) // fields[0] is field 3
	if len(fields) < 50 {
		return 0, fmt.Errorf("%s: found %d fields; allowed: at least 52", path, len(fields)+2)
	}
	var ticks uint64
	for _, field := range fields[14-3 : 16-3] { // utime and stime
		n, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: processor time: %w", path, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * Tick, nil
}
