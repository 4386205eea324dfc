// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
)

// EnsureRunning starts a supervisor unless one answers on the socket, and returns when one does. It
// runs binary with args ("supervise", …) in a session of its own, with its messages appended to
// supervisor.log beside the socket. The supervisor outlives the caller. Of several callers at once
// one starts it and the others wait. A supervisor that is started gets what held holds; nil is
// nothing.
func EnsureRunning(ctx context.Context, binary string, args []string, socket string,
	held *Holder,
) error {
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	client := NewClient(socket)
	// A socket can be connected to although nobody will ever answer: a child that was on its way to
	// execve as its supervisor was killed holds it open. So an answer is not waited for as long as
	// elsewhere.
	ping := func() error {
		short, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		_, err := client.Ping(short)
		return err
	}
	if err := ping(); err == nil || final(ctx, err) {
		return err
	}
	lock, err := durable.Lock(ctx, socket+".lock")
	if err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	defer lock.Close()
	// Another caller may have started it while we waited for the lock.
	for {
		if err := ping(); err == nil || final(ctx, err) {
			return err
		}
		err := start(ctx, binary, args, socket, held, ping)
		if !errors.Is(err, ErrHeld) {
			return err
		}
		// There is one that does not listen yet, or not at the moment: it begins, or becomes
		// another program.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(heldPause):
		}
	}
}

// heldPause is the time for which EnsureRunning waits for a supervisor that holds the run directory
// and does not answer.
const heldPause = 200 * time.Millisecond

// start starts a supervisor and returns when it answers.
func start(ctx context.Context, binary string, args []string, socket string, held *Holder,
	ping func() error,
) error {
	dir := filepath.Dir(socket)
	logPath := filepath.Join(dir, "supervisor.log")
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	defer log.Close()
	fi, err := log.Stat()
	if err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	begin := fi.Size()
	if begin > 1<<20 {
		// It speaks little; what is older than this start and a mebibyte is of no use.
		if err := log.Truncate(0); err != nil {
			return fmt.Errorf("supervisor: %w", err)
		}
		begin = 0
	}
	// A descriptor that our own parent left open, such as that of a lock, would live as long as the
	// supervisor.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("supervisor: close_range: %w", err)
	}
	cmd := exec.Command(binary, args...)
	if held != nil {
		done, err := held.Pass(cmd)
		if err != nil {
			return fmt.Errorf("supervisor: %w", err)
		}
		defer done()
	}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	// Waited for as long as we live, or a supervisor that ends would stay our zombie.
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	// It answers within milliseconds; with thousands of containers to adopt, later.
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		select {
		case err := <-ended:
			// There may be one after all, and only slow.
			if ping() == nil {
				return nil
			}
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.ExitCode() == ExitHeld {
				return fmt.Errorf("supervisor: %w the run directory of %s and does not answer", ErrHeld, socket)
			}
			if err == nil {
				err = errors.New("exit status 0")
			}
			return fmt.Errorf("supervisor: %s ended at once (%w): %s", binary, err,
				lastWords(logPath, begin))
		case <-ctx.Done():
			return fmt.Errorf("supervisor: %s was started and has not answered on %s: %w", binary, socket,
				ctx.Err())
		case <-time.After(wait):
		}
		if err := ping(); err == nil || final(ctx, err) {
			return err
		}
	}
}

// pingTimeout is the time for which EnsureRunning waits for an answer before it concludes that no
// supervisor runs. If one does, and is only slow, the one that is started in vain ends at the lock
// of the run dir.
const pingTimeout = 2 * time.Second

// final is true for an error that starting a supervisor would not cure: there is one, and it will
// not have us.
func final(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, ErrVersion) || errors.Is(err, ErrDenied)
}

// lastWords returns the end of what the supervisor has logged since begin.
func lastWords(path string, begin int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, begin)
	return string(bytes.TrimSpace(b[:n]))
}
