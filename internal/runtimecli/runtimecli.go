// SPDX-License-Identifier: Apache-2.0

// Package runtimecli runs a program with runc's command line in the place of this one, and reads
// its log. It must not know which program that is, nor why it is run.
package runtimecli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// Run runs a command to its end and returns its exit code: 128 and the signal's number if one has
// ended it. It passes on to the command those of the signals for which passes returns true, and
// ignores the others.
func Run(cmd *exec.Cmd, signals []os.Signal, passes func(os.Signal) bool) (int, error) {
	// The command gets the signal that ends us, and decides. If Cancel returned nil, its success
	// would be reported as a failure.
	if cmd.Cancel != nil {
		cmd.Cancel = func() error { return os.ErrProcessDone }
	}
	caught := make(chan os.Signal, 64)
	signal.Notify(caught, signals...)
	defer func() {
		signal.Stop(caught) // nothing is sent any more when it returns
		close(caught)
	}()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	go func() {
		for s := range caught {
			if passes(s) {
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// maxLog is the number of bytes of a log that are read.
const maxLog = 1 << 20

// LastError returns the message of the last line of level error (or worse) in a log of runc's JSON
// format, or "".
func LastError(log *os.File) string {
	// The last error stands at the end.
	fi, err := log.Stat()
	if err != nil {
		return ""
	}
	if _, err := log.Seek(max(fi.Size()-maxLog, 0), io.SeekStart); err != nil {
		return ""
	}
	b, err := io.ReadAll(io.LimitReader(log, maxLog))
	if err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(b) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) != nil {
			continue
		}
		switch entry.Level {
		case "error", "fatal", "panic":
			last = entry.Msg
		}
	}
	return last
}
