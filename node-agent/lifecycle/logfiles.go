// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// LogFile returns the path of the log of a run, by its number, in the directory of logs of its
// container. The first run has the number 0, and each restart the next one. The supervisor rotates
// N.log to N.log.1, N.log.2 and so on.
func LogFile(dir string, run int32) string {
	return filepath.Join(dir, strconv.Itoa(int(run))+".log")
}

// runOf returns the number of the run that a file is a log of, or a rotated part of one.
func runOf(path string) (run int32, ok bool) {
	number, _, ok := strings.Cut(filepath.Base(path), ".log")
	n, err := strconv.ParseInt(number, 10, 32)
	return int32(n), ok && err == nil
}

// LogBefore returns the path of the log of the run before that of path; "" if there was none.
func LogBefore(path string) (string, error) {
	run, ok := runOf(path)
	if !ok {
		return "", fmt.Errorf("log file %s: found no number of the run", path)
	}
	if run == 0 {
		return "", nil
	}
	return LogFile(filepath.Dir(path), run-1), nil
}

// LastLog returns the path of the log of the last run in a directory of logs; "" if there is none.
func LastLog(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	last, found := int32(0), false
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".log" {
			continue // a rotated part
		}
		if run, ok := runOf(e.Name()); ok && run >= last {
			last, found = run, true
		}
	}
	if !found {
		return "", nil
	}
	return LogFile(dir, last), nil
}
